"""Wrong variables: every command reports each in one line that names and shows it, and exits with 2."""

from __future__ import annotations

from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from cli.commands import invoke, shieldmw

SECRET = "q" * 40

WRONG: list[tuple[str, str]] = [
    ("SHIELD_REDIS_URL", "localhost:6379"),
    ("SHIELD_REDIS_URL", "redis://"),
    ("SHIELD_REDIS_URL", "redis://localhost:port"),
    ("SHIELD_REDIS_URL", "redis://localhost:99999"),
    ("SHIELD_REDIS_URL", "redis://[::1"),
    ("SHIELD_REDIS_URL", "postgres://localhost"),
    ("SHIELD_REDIS_URL", "unix://"),
    ("SHIELD_REDIS_TIMEOUT_MS", "0"),
    ("SHIELD_REDIS_TIMEOUT_MS", "fifty"),
    ("SHIELD_REDIS_TIMEOUT_MS", "9" * 5000),
    ("SHIELD_KEY_PREFIX", "a b"),
    ("SHIELD_KEY_PREFIX", "{x}"),
    ("SHIELD_SECRET", "short"),
    ("SHIELD_ON_REDIS_FAILURE", "panic"),
    ("SHIELD_IP_LIMIT", "300"),
    ("SHIELD_IP_LIMIT", "0/minute"),
    ("SHIELD_IP_LIMIT", "-1/minute"),
    ("SHIELD_IP_LIMIT", "300/fortnight"),
    ("SHIELD_IP_LIMIT", "1000001/second"),
    ("SHIELD_IP_LIMIT", "5/second;"),
    ("SHIELD_IP_BURST", "0"),
    ("SHIELD_IP_BURST", "1.5"),
    ("SHIELD_IP_BURST", "99999999999999999999"),
    ("SHIELD_TOKEN_LIMIT", "many"),
    ("SHIELD_TOKEN_BURST", "-5"),
    ("SHIELD_ADDRESS_LIMIT", "1 second"),
    ("SHIELD_ADDRESS_BURST", "5"),
    ("SHIELD_FAILED_AUTH_LIMIT", "none"),
    ("SHIELD_RULES", "{"),
    ("SHIELD_RULES", "{}"),
    ("SHIELD_RULES", "[1]"),
    ("SHIELD_RULES", '[{"name": "a"}]'),
    ("SHIELD_RULES", '[{"name": "a\\nb", "path": "/"}]'),
    ("SHIELD_RULES", '[{"name": "a", "path": "/\\nx"}]'),
    ("SHIELD_RULES", '[{"name": "a", "path": "/", "limits": "1\\n/x"}]'),
    ("SHIELD_RULES", '[{"name": "a", "path": "/", "cost": -1}]'),
    ("SHIELD_RULES", '[{"name": "a", "path": "/", "cost": 301}]'),
    ("SHIELD_RULES", '[{"name": "ip", "path": "/"}]'),
    ("SHIELD_RULES", '[{"name": "a", "path": "/", "x\\ny": 1}]'),
    ("SHIELD_RULES_FILE", "/nowhere/rules.toml"),
    ("SHIELD_RULES_FILE", "/"),
    ("SHIELD_EXEMPT_PATHS", "healthz"),
    ("SHIELD_EXEMPT_PATHS", "/a/*/b"),
    ("SHIELD_DRY_RUN", "perhaps"),
    ("SHIELD_TRUSTED_PROXIES", "10.0.0.1/8"),
    ("SHIELD_TRUSTED_PROXIES", "proxy.example"),
    ("SHIELD_FORWARDED_HEADER", "x forwarded"),
    ("SHIELD_IPV4_PREFIX", "33"),
    ("SHIELD_IPV6_PREFIX", "8"),
    ("SHIELD_ALLOW_IPS", "everyone"),
    ("SHIELD_DENY_IPS", "1.2.3"),
    ("SHIELD_TOKEN_HEADER", "bad:header"),
    ("SHIELD_TOKEN_COOKIE", "a=b"),
    ("SHIELD_TOKEN_QUERY", "a&b"),
    ("SHIELD_API_KEYS_FILE", "/nowhere/keys"),
    ("SHIELD_JWT_SECRET", "short"),
    ("SHIELD_JWT_PUBLIC_KEY", "/nowhere/key.pem"),
    ("SHIELD_JWT_PUBLIC_KEY", "-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----"),
    ("SHIELD_JWT_JWKS_URL", "id.example/jwks"),
    ("SHIELD_JWT_ALGORITHMS", "none"),
    ("SHIELD_JWT_ALGORITHMS", "RS256"),
    ("SHIELD_RECORDING_URL", "javascript:alert(1)"),
    ("SHIELD_SIGN_IN_URL", "https://"),
    ("SHIELD_SIGN_IN_URL", "https://[x/"),
    ("SHIELD_RETRY_AFTER", "0"),
    ("SHIELD_NO_SUCH_SETTING", "1"),
    ("SHIELD_IP_LIMITS", "1/minute"),
]


@pytest.mark.parametrize(("name", "value"), WRONG, ids=[f"{name}={value[:40]!r}" for name, value in WRONG])
def test_every_wrong_variable_is_one_line_and_status_2(name: str, value: str) -> None:
    """The line begins with the variable's name and is not endless; nothing else is printed."""
    ran = invoke("check", **{name: value})
    assert ran.status == 2
    assert ran.out == ""
    assert len(ran.err.splitlines()) == 1, ran.err
    assert ran.err.startswith(f"shieldmw: {name}"), ran.err
    assert len(ran.err) < 1000


def test_many_wrong_variables_are_a_line_each() -> None:
    """All are said at once, so that they can be corrected at once; as a real process, with no traceback."""
    one_each = dict(reversed(WRONG))
    for later in ("SHIELD_RULES_FILE", "SHIELD_JWT_PUBLIC_KEY", "SHIELD_ADDRESS_BURST", "SHIELD_API_KEYS_FILE"):
        del one_each[later]  # these are only looked at where the single settings are right
    ran = shieldmw("check", **one_each)
    assert ran.status == 2
    named = [line.removeprefix("shieldmw: ").partition("=")[0].partition(":")[0] for line in ran.err.splitlines()]
    assert sorted(named) == sorted(one_each), ran.err


@pytest.mark.parametrize("command", [("serve", "json:dumps"), ("keys", "list"), ("keys", "new", "x"), ("check",)])
def test_every_command_that_reads_settings_says_so(command: tuple[str, ...]) -> None:
    """Status 2 and the line, as a real process."""
    ran = shieldmw(*command, SHIELD_IP_LIMIT="nonsense")
    assert (ran.status, len(ran.err.splitlines())) == (2, 1)
    assert ran.err.startswith("shieldmw: SHIELD_IP_LIMIT='nonsense': not a limit")


def test_an_unknown_variable_is_answered_with_the_nearest() -> None:
    """A slip of the pen is an error, not a setting that silently does nothing."""
    assert "did you mean SHIELD_IP_LIMIT?" in invoke("check", SHIELD_IP_LIMITS="1/minute").err


@pytest.mark.parametrize("name", ["SHIELD_SECRET", "SHIELD_JWT_SECRET"])
def test_secrets_are_not_shown(name: str) -> None:
    """A secret that is too short is still a secret."""
    ran = invoke("check", **{name: "too-short-secret"})
    assert ran.status == 2
    assert "too-short" not in ran.printed


def test_a_private_key_in_the_place_of_the_public_one_is_not_shown() -> None:
    """If the two keys are mixed up, the private one does not get into the log."""
    private = Ed25519PrivateKey.generate().private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode()
    ran = invoke("check", SHIELD_JWT_PUBLIC_KEY=private)
    assert ran.status == 2
    assert private.splitlines()[1][20:40] not in ran.printed


def test_a_key_or_token_in_a_file_of_keys_is_not_shown(tmp_path: Path) -> None:
    """A line of another form may be a key itself: it is named by its number."""
    file = tmp_path / "keys"
    file.write_text("# keys\nshk_a-real-key alice host\n")
    ran = invoke("check", SHIELD_API_KEYS_FILE=str(file))
    assert ran.status == 2
    assert "line 2" in ran.err
    assert "a-real-key" not in ran.printed


def test_keys_that_exclude_each_other_are_named() -> None:
    """Two sources of JWT keys are a line that names both."""
    ran = invoke("check", SHIELD_JWT_SECRET=SECRET, SHIELD_JWT_JWKS_URL="https://id.example/jwks")
    assert ran.status == 2
    assert "SHIELD_JWT_SECRET and SHIELD_JWT_JWKS_URL" in ran.err
