"""Several wrong settings, or settings that conflict: each problem is reported once, for the right variable."""

from __future__ import annotations

from pathlib import Path

import pytest

from shieldmw import Settings, SettingsError
from shieldmw.core.limits import aggregate
from shieldmw.core.rules import Scope

SECRET = "x" * 32
PEM = "-----BEGIN PUBLIC KEY-----\\nabc\\n-----END PUBLIC KEY-----"


def problems(environ: dict[str, str]) -> tuple[str, ...]:
    with pytest.raises(SettingsError) as caught:
        Settings.from_environ(environ)
    assert str(caught.value) == "\n".join(caught.value.problems)
    return caught.value.problems


def test_all_wrong_values_are_told_at_once() -> None:
    """Nobody has to start a server four times to find four mistakes."""
    lines = problems(
        {"SHIELD_IP_LIMIT": "fast", "SHIELD_RETRY_AFTER": "0", "SHIELD_REDIS_URL": "here", "SHIELD_IP_LIMITS": "x"}
    )
    assert {line.partition("=")[0].partition(":")[0] for line in lines} == {
        "SHIELD_IP_LIMIT",
        "SHIELD_RETRY_AFTER",
        "SHIELD_REDIS_URL",
        "SHIELD_IP_LIMITS",
    }
    assert len(lines) == 4


def test_a_wrong_value_does_not_hide_a_file_that_is_missing() -> None:
    """What is wrong between settings and in files is told together with what is wrong in single values."""
    lines = problems({"SHIELD_IP_LIMIT": "fast", "SHIELD_API_KEYS_FILE": "/no/such/keys"})
    assert [line.partition("=")[0] for line in lines] == ["SHIELD_IP_LIMIT", "SHIELD_API_KEYS_FILE"]


def test_all_problems_between_settings_are_told_at_once() -> None:
    """Nor are two problems between settings told one after the other."""
    lines = problems(
        {
            "SHIELD_API_KEYS_FILE": "/no/such/keys",
            "SHIELD_JWT_PUBLIC_KEY": "/no/such/key.pem",
            "SHIELD_JWT_ALGORITHMS": "HS256",
        }
    )
    assert [line.partition("=")[0] for line in lines] == [
        "SHIELD_API_KEYS_FILE",
        "SHIELD_JWT_PUBLIC_KEY",
        "SHIELD_JWT_ALGORITHMS",
    ]


@pytest.mark.parametrize(
    ("environ", "line"),
    [
        pytest.param(
            {"SHIELD_IP_LIMIT": "1/second; 9/minute", "SHIELD_IP_BURST": "5"},
            "SHIELD_IP_BURST='5': a burst of 5 goes only with a single limit: remove it, or keep one limit",
            id="a-burst-beside-several-limits",
        ),
        pytest.param(
            {"SHIELD_ADDRESS_BURST": "5"},
            "SHIELD_ADDRESS_BURST='5': a burst of 5 has no meaning beside 'off': remove it",
            id="a-burst-beside-off",
        ),
        pytest.param(
            {"SHIELD_TOKEN_LIMIT": "1/day", "SHIELD_TOKEN_BURST": "40000"},
            "SHIELD_TOKEN_BURST='40000': a burst of 40000 would take more than 100 years to fill: use a smaller one",
            id="a-burst-that-takes-a-century",
        ),
        pytest.param(
            {"SHIELD_JWT_SECRET": SECRET, "SHIELD_JWT_JWKS_URL": "https://idp.example.org/jwks"},
            "SHIELD_JWT_SECRET and SHIELD_JWT_JWKS_URL are set: keep one of them",
            id="two-sources-of-keys",
        ),
        pytest.param(
            {"SHIELD_JWT_ALGORITHMS": "RS256"},
            "SHIELD_JWT_ALGORITHMS='RS256': no key is set: set SHIELD_JWT_SECRET or another",
            id="algorithms-without-a-key",
        ),
        pytest.param(
            {"SHIELD_JWT_SECRET": SECRET, "SHIELD_JWT_ALGORITHMS": "HS256,RS256"},
            "SHIELD_JWT_ALGORITHMS='HS256,RS256': with SHIELD_JWT_SECRET use HS256, HS384 or HS512",
            id="a-signature-by-a-shared-secret",
        ),
        pytest.param(
            {"SHIELD_JWT_PUBLIC_KEY": PEM, "SHIELD_JWT_ALGORITHMS": "HS256"},
            "SHIELD_JWT_ALGORITHMS='HS256': HS* would let anyone sign with the public key: use RS*, ES* or EdDSA",
            id="a-public-key-as-a-shared-secret",
        ),
        pytest.param(
            {"SHIELD_JWT_JWKS_URL": "https://idp.example.org/jwks", "SHIELD_JWT_ALGORITHMS": "RS256,HS256"},
            "SHIELD_JWT_ALGORITHMS='RS256,HS256': HS* would let anyone sign with the public key: use RS*, ES* or EdDSA",
            id="a-key-set-as-a-shared-secret",
        ),
    ],
)
def test_settings_that_contradict_each_other(environ: dict[str, str], line: str) -> None:
    """A contradiction is told once, and named by the variable that has to change."""
    assert problems(environ) == (line,)


def test_a_limit_too_large_for_its_aggregate() -> None:
    """Every limit that is accepted has an aggregate for a /56, however large its burst."""
    settings = Settings(ip_limit="1000000/second", ip_burst=10**15)
    assert aggregate(settings.policy.limits(Scope.IP)[0]).burst == 4 * 10**15


def test_a_public_key_may_be_text_or_a_file(tmp_path: Path) -> None:
    """A PEM on one line, with \\n for its line ends, is as good as the path of a file."""
    path = tmp_path / "key.pem"
    path.write_text(PEM.replace("\\n", "\n"))
    by_text = Settings.from_environ({"SHIELD_JWT_PUBLIC_KEY": PEM})
    by_file = Settings.from_environ({"SHIELD_JWT_PUBLIC_KEY": str(path)})
    assert by_text.jwt_public_key_pem == by_file.jwt_public_key_pem == PEM.replace("\\n", "\n")
    assert Settings().jwt_public_key_pem is None


def test_a_public_key_that_is_no_text(tmp_path: Path) -> None:
    """A key in DER is refused with a word about PEM."""
    path = tmp_path / "key.der"
    path.write_bytes(b"\x30\x82\xff")
    (line,) = problems({"SHIELD_JWT_PUBLIC_KEY": str(path)})
    assert line == f"SHIELD_JWT_PUBLIC_KEY={str(path)!r}: the file is not PEM text"
