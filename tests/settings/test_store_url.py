"""Parsing the URLs of stores with several servers."""

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
        ("rediss+cluster://me:pw@one,two?ssl_ca_certs=/ca.pem", "one:6379 two:6379", ("me", "pw"), "", 0),
        ("rediss+sentinel://one/main/2?sentinel_password=a@b", "one:26379", ("", ""), "main", 2),
        ("REDIS+CLUSTER://:a[b@one", "one:6379", ("", "a[b"), "", 0),
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


def test_every_server_has_the_options_and_sentinels_a_login_of_their_own() -> None:
    """TLS with its options as they are written, for those that hold data and for sentinels; each with its password."""
    login = "sentinel_username=it&sentinel_password=p%2Bq+%26%40"
    address = Address("one", 1)
    named = parse_servers(f"rediss+sentinel://me:pw@one:1/main?ssl_ca_certs=/my%20ca.pem&{login}&ssl_cert_reqs=none")
    options = "ssl_ca_certs=/my%20ca.pem&ssl_cert_reqs=none"
    assert named.url_of(address) == f"rediss://me:pw@one:1/0?{options}"
    assert named.sentinel_url_of(address) == f"rediss://it:p%2Bq%2B%26%40@one:1?{options}"
    assert parse_servers("redis+sentinel://me:pw@one:1/main").sentinel_url_of(address) == "redis://one:1"
    assert parse_servers("rediss+cluster://one:1").url_of(address) == "rediss://one:1/0"


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
        "redis+cluster://one:6379?ssl_ca_certs=/ca.pem",  # without TLS they would mean nothing
        "redis+sentinel://one/main?ssl_cert_reqs=required",
        "rediss+cluster://one:6379?sentinel_password=sesame",
        "rediss+cluster://one:6379?password=sesame",
        "rediss+cluster://one:6379?ssl_ca_certs=",
        "rediss+sentinel://one/main?sentinel_password",
        "rediss+sentinel://one/main?sentinel_password=a&sesame",
        "rediss+sentinel://one/main?sesame=1",
        "redis+cluster://me:123?sesame@one:6379",
        "rediss+sentinel://one?sentinel_password=sesame",
    ],
)
def test_one_line_says_what_would_be_right(url: str) -> None:
    """It names the variable and shows no password."""
    with pytest.raises(SettingsError) as wrong:
        Settings.from_environ({"SHIELD_REDIS_URL": url})
    [line] = wrong.value.problems
    scheme = url.partition("://")[0]
    assert line.startswith(f"SHIELD_REDIS_URL='{scheme}://")
    assert f"write it like {scheme}://" in line
    assert not any(part in line for part in ("sesame", "123"))
