"""Secrets never reach a message: neither the shield's, nor those of tokens, the store's password or an API key."""

from __future__ import annotations

from hashlib import sha256
from pathlib import Path
from traceback import format_exception

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from shieldmw import Identity, ListenerClass, Settings, SettingsError

relaxed = settings(deadline=None)

# Letters that no message of ours has in a row, so that what is found in one has leaked.
secret_words = st.text(alphabet="QXZJVW", min_size=6, max_size=15)
short_secrets = st.one_of(secret_words, st.tuples(secret_words, st.text(max_size=8)).map("".join))


def complaint(environ: dict[str, str]) -> str:
    """All that is said and shown of settings that are wrong."""
    with pytest.raises(SettingsError) as caught:
        Settings.from_environ(environ)
    return str(caught.value) + repr(caught.value) + "".join(format_exception(caught.value))


@relaxed
@given(st.sampled_from(["SHIELD_SECRET", "SHIELD_JWT_SECRET"]), secret_words, st.booleans())
def test_a_secret_that_is_too_short_is_not_shown(variable: str, secret: str, beside_others: bool) -> None:
    """Neither alone nor beside other mistakes is a secret shown, not even a wrong one."""
    others = {"SHIELD_IP_LIMIT": "fast", "SHIELD_NOPE": "1"} if beside_others else {}
    said = complaint({variable: secret, **others})
    assert secret not in said
    assert f"{variable}=********" in said


@relaxed
@given(st.sampled_from(["secret", "jwt_secret"]), secret_words)
def test_a_secret_of_a_wrong_type_is_not_shown(name: str, secret: str) -> None:
    """Whatever holds the secret, what is said of it does not."""
    for value in ([secret], {secret: secret}, secret.encode(), (secret, secret)):
        with pytest.raises(SettingsError) as caught:
            Settings(**{name: value})
        assert secret not in str(caught.value)


@relaxed
@given(secret_words)
def test_good_secrets_are_not_shown_when_something_else_is_wrong(secret: str) -> None:
    """Settings that are right are not shown because others are wrong, nor ever when settings are printed."""
    long_enough = secret + "x" * 32
    secrets = {"SHIELD_SECRET": long_enough, "SHIELD_JWT_SECRET": long_enough}
    said = complaint({**secrets, "SHIELD_REDIS_URL": "here", "SHIELD_IP_LIMIT": "fast"})
    said += complaint({**secrets, "SHIELD_JWT_ALGORITHMS": "RS256", "SHIELD_JWT_JWKS_URL": "https://idp/jwks"})
    shown = Settings.from_environ(secrets)
    assert secret not in said + repr(shown) + str(shown)


@relaxed
@given(secret_words, st.sampled_from([*":/?#[]@%&=+$!;, ", "@@", "//", ":/", "%40"]), secret_words)
@example("QXZJVWQ", "@", "VWQXZJV")
@example("QXZJVWQ", "/", "VWQXZJV")
@example("QXZJVWQ", "x", "VWQXZJV")
def test_the_password_of_the_store_is_not_shown(first: str, between: str, second: str) -> None:
    """A store URL that is wrong is shown without its password, whatever characters somebody forgot to escape in it."""
    password = first + between + second
    for url in (
        f"http://user:{password}@localhost",
        f"http://:{password}@localhost",
        f"redis://user:{password}@localhost:port",
        f"redis://user:{password}@localhost:99999",
        f"redis://:{password}@:6379",
        f"redis:/user:{password}@localhost",
        f"user:{password}@localhost:6379",
        f"redis://user@example.org:{password}@localhost:99999",
        f"redis://localhost:99999/0?password={password}",
        f"redis+cluster://user:{password}@localhost:99999",
        f"rediss+cluster://localhost:99999?password={password}",
        f"rediss+sentinel://localhost:99999/main?sentinel_password={password}",
        f"rediss+sentinel://localhost/main?ssl_ca_certs=/ca.pem&sentinel_pasword={password}",
    ):
        try:
            Settings.from_environ({"SHIELD_REDIS_URL": url})
        except SettingsError as error:
            said = str(error)
            assert first not in said, url
            assert second not in said, url


@pytest.mark.parametrize("variable", ["SHIELD_JWT_JWKS_URL", "SHIELD_RECORDING_URL", "SHIELD_SIGN_IN_URL"])
@pytest.mark.parametrize("url", ["ftp://me:hidden@idp.example/jwks", "me:hidden@idp.example/jwks", "https:me:hidden@x"])
def test_the_password_of_a_web_address_is_not_shown(variable: str, url: str) -> None:
    """An address of a wrong scheme is shown, its password is not."""
    said = complaint({variable: url})
    assert variable in said
    assert "hidden" not in said


def test_the_password_of_a_good_web_address_is_not_shown_either() -> None:
    """Settings that are printed do not hold it."""
    shown = Settings(jwt_jwks_url="https://me:hidden@idp.example/jwks")
    assert "hidden" not in repr(shown) + str(shown)


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        pytest.param("redis://user:pw@localhost:99999", "redis://user:***@localhost:99999", id="user-and-password"),
        pytest.param("redis://:pw@localhost:99999", "redis://:***@localhost:99999", id="only-a-password"),
        pytest.param("http://user@localhost", "http://user@localhost", id="a-user-is-no-secret"),
        pytest.param("http://localhost:1/a:b", "http://localhost:1/a:b", id="a-colon-is-no-password"),
    ],
)
def test_the_rest_of_the_url_is_shown(url: str, shown: str) -> None:
    """But for its password the URL is shown, or nobody would find the mistake."""
    with pytest.raises(SettingsError) as caught:
        Settings.from_environ({"SHIELD_REDIS_URL": url})
    assert f"SHIELD_REDIS_URL={shown!r}: " in str(caught.value)


DIGEST = sha256(b"a key").hexdigest()


def keys_file(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "keys"
    path.write_text(text)
    return path


def test_a_file_of_api_keys(tmp_path: Path) -> None:
    """A line is a digest, a subject and maybe a class; comments and empty lines are none."""
    other = sha256(b"other").hexdigest()
    text = f"# who may come in\n\n{DIGEST} alice host # the host\n{other.upper()}\tbob\n"
    found = Settings(api_keys_file=keys_file(tmp_path, text)).file_api_keys
    assert found == {DIGEST: Identity("alice", ListenerClass.HOST), other: Identity("bob")}
    assert Settings().file_api_keys == {}


SHAPE = "line 3 is not of the form 'sha256-hex subject [class]'"


@pytest.mark.parametrize(
    ("line", "right"),
    [
        pytest.param("hunter2-hunter2 mallory", SHAPE, id="the-key-itself-for-its-digest"),
        pytest.param("mallory " + DIGEST, SHAPE, id="subject-and-digest-swapped"),
        pytest.param(DIGEST, SHAPE, id="no-subject"),
        pytest.param(DIGEST[:-1] + " mallory", SHAPE, id="a-digest-one-digit-short"),
        pytest.param(DIGEST[:-1] + "g mallory", SHAPE, id="a-digest-with-another-letter"),
        pytest.param(DIGEST + " mallory member extra", SHAPE, id="a-word-too-many"),
        pytest.param(DIGEST + " mallory owner", "line 3: the class is one of host, member, guest", id="no-class"),
        pytest.param(DIGEST + " " + "mallory" * 150, "1 to 1024 characters", id="a-subject-too-long"),
    ],
)
def test_a_wrong_line_is_named_but_not_shown(line: str, right: str, tmp_path: Path) -> None:
    """The message tells the number of the line and what is wrong, and shows nothing of it: it may hold a key."""
    path = keys_file(tmp_path, f"# keys\n\n{line}\n")
    with pytest.raises(SettingsError) as caught:
        Settings(api_keys_file=path)
    (said,) = caught.value.problems
    assert said.startswith(f"SHIELD_API_KEYS_FILE={str(path)!r}: ")
    assert right in said
    assert not any(word in said for word in (DIGEST[:20], "hunter2", "mallory"))


@pytest.mark.parametrize(
    ("content", "right"),
    [
        pytest.param(None, "cannot be read: Is a directory", id="a-directory"),
        pytest.param(b"\xff\xff", "is not text in UTF-8", id="not-text"),
    ],
)
def test_a_file_of_keys_that_cannot_be_read(content: bytes | None, right: str, tmp_path: Path) -> None:
    """A file that cannot be read is told as such."""
    path = tmp_path / "keys"
    if content is None:
        path.mkdir()
    else:
        path.write_bytes(content)
    with pytest.raises(SettingsError) as caught:
        Settings(api_keys_file=path)
    assert right in str(caught.value)
