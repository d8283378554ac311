"""URLs of stores that are several servers, taken apart."""

from __future__ import annotations

import pytest

from shieldmw import Settings, SettingsError
from shieldmw.settings.store_url import Address, parse_servers


@pytest.mark.parametrize(
    ("url", "addresses", "login", "service", "database"),
    [
        ("redis+cluster://one", "one:6379", ("", ""), "", 0),
        ("redis+cluster://one:1,two:2,[2001:db8::1]:3", "one:1 two:2 [2001:db8::1]:3", ("", ""), "", 0),
        ("redis+cluster://:p%40%2Fw@one:1", "one:1", ("", "p@/w"), "", 0),
        ("redis+cluster://me:a@b@one:1", "one:1", ("me", "a@b"), "", 0),  # a bare @ is the password's
        ("redis+sentinel://one/main", "one:26379", ("", ""), "main", 0),
        ("redis+sentinel://me:pw@one:1,two/main/15", "one:1 two:26379", ("me", "pw"), "main", 15),
        ("redis+sentinel://one/main/", "one:26379", ("", ""), "main", 0),
    ],
)
def test_a_url_says_whom_to_ask(url: str, addresses: str, login: tuple[str, str], service: str, database: int) -> None:
    """Ports have defaults, passwords are unescaped."""
    named = parse_servers(url)
    assert " ".join(map(str, named.addresses)) == addresses
    assert (named.user, named.password) == login
    assert (named.service, named.database) == (service, database)
    assert Settings.from_environ({"SHIELD_REDIS_URL": url}).redis_url == url


def test_a_server_has_the_password_and_the_database() -> None:
    """Escaped as a URL wants it."""
    named = parse_servers("redis+sentinel://me:a@b/c@one:1/main/2")
    assert named.url_of(Address("2001:db8::1", 7)) == "redis://me:a%40b%2Fc@[2001:db8::1]:7/2"


@pytest.mark.parametrize(
    "url",
    [
        "redis+cluster://",
        "redis+cluster://:6379",
        "redis+cluster://one:",
        "redis+cluster://one:0",
        "redis+cluster://one:65536",
        "redis+cluster://one:6379,",
        "redis+cluster://one:6379/0",
        "redis+cluster://one:6379?db=1",
        "redis+cluster://user:sesame@one two:6379",
        "redis+sentinel://:sesame@one",
        "redis+sentinel://:sesame@one/ma in",
        "redis+sentinel://:sesame@one/main/one",
        "redis+sentinel://:sesame@one/main/1/2",
    ],
)
def test_one_line_says_what_would_be_right(url: str) -> None:
    """It names the variable and shows no password."""
    with pytest.raises(SettingsError) as wrong:
        Settings.from_environ({"SHIELD_REDIS_URL": url})
    [line] = wrong.value.problems
    assert line.startswith("SHIELD_REDIS_URL='redis+")
    assert "write it like redis+" in line
    assert "sesame" not in line
