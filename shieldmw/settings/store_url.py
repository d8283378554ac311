"""Parses the URLs of stores with several servers."""

from __future__ import annotations

import re
from typing import NamedTuple
from urllib.parse import quote, unquote

# Schemes, each without and with TLS.
CLUSTERS = ("redis+cluster", "rediss+cluster")
SENTINELS = ("redis+sentinel", "rediss+sentinel")

# Options with the user and password for Sentinels, named as in the URLs of go-redis and prefect-redis, and in the
# options of redis-rb.
_SENTINEL_LOGIN = ("sentinel_username", "sentinel_password")

# For messages: the options that a URL of each scheme may have.
_OPTIONS = {
    "redis+cluster": "without options; ssl_ca_certs and the like need rediss+cluster://",
    "rediss+cluster": "with the options ssl_ca_certs and the like",
    "redis+sentinel": "with the options sentinel_username and sentinel_password; ssl_… need rediss+sentinel://",
    "rediss+sentinel": "with the options sentinel_username, sentinel_password, ssl_ca_certs and the like",
}

_ADDRESS = re.compile(r"(?P<host>[\w.-]+|\[[0-9A-Fa-f:.]+\])(?::(?P<port>\d{1,5}))?")


class Address(NamedTuple):
    """The host and port of a server."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


class Servers(NamedTuple):
    """The parts of a URL: the servers to contact first, and the user and password for those that hold the data.

    ``service`` is the Sentinels' name for the master, '' for a cluster. ``scheme`` and ``options`` are those of each
    server's URL, the options as written.
    """

    addresses: tuple[Address, ...]
    user: str
    password: str
    service: str
    database: int
    scheme: str
    options: str
    sentinel_user: str
    sentinel_password: str

    def url_of(self, address: Address) -> str:
        """The URL of a server that holds data."""
        return self._url(self.user, self.password, f"{address}/{self.database}")

    def sentinel_url_of(self, address: Address) -> str:
        """The URL of a Sentinel."""
        return self._url(self.sentinel_user, self.sentinel_password, str(address))

    def _url(self, user: str, password: str, place: str) -> str:
        login = f"{quote(user, safe='')}:{quote(password, safe='')}@" if user or password else ""
        return f"{self.scheme}://{login}{place}" + (f"?{self.options}" if self.options else "")


def scheme_of(url: str) -> str:
    """The scheme of a store's URL, in lower case. The URL need not be valid."""
    return url.partition("://")[0].lower()


def parse_servers(url: str) -> Servers:
    """Parse a URL with one of the schemes in ``CLUSTERS`` or ``SENTINELS``.

    Raises:
        ValueError: it is invalid; the message says what would be right.
    """
    scheme = scheme_of(url)
    is_cluster = scheme in CLUSTERS
    port, path = (6379, "") if is_cluster else (26379, "/service")
    right = f"write it like {scheme}://host:{port},host:{port}{path}"
    rest, _, query = url.partition("://")[2].partition("?")
    login, _, place = rest.rpartition("@")
    user, _, password = login.partition(":")
    hosts, _, path = place.partition("/")
    addresses = tuple(_address(text, port, right) for text in hosts.split(","))
    if is_cluster:
        if path:
            raise ValueError(f"a cluster has one database, which is not named: {right}")
        service, database = "", ""
    else:
        service, _, database = path.partition("/")
        if not re.fullmatch(r"[\w.-]+", service):
            raise ValueError(f"no service, which is what the sentinels call the master: {right}")
        if not re.fullmatch(r"\d{0,6}", database, re.ASCII):
            raise ValueError(f"its database is not a number: {right}/0")
    options = _options(query, scheme, right)
    sentinel_login = [unquote(options.pop(name, "")) for name in _SENTINEL_LOGIN]
    return Servers(
        addresses,
        unquote(user),
        unquote(password),
        service,
        int(database or 0),
        scheme.partition("+")[0],
        "&".join(f"{name}={value}" for name, value in options.items()),
        *sentinel_login,
    )


def _options(query: str, scheme: str, right: str) -> dict[str, str]:
    """The options of a URL, as written. An invalid one is not shown, since it may be part of a password."""
    logins = _SENTINEL_LOGIN if scheme in SENTINELS else ()
    options = dict(option.partition("=")[::2] for option in query.split("&") if option)
    for name, value in options.items():
        if not value or not (name in logins or (name.startswith("ssl_") and scheme.startswith("rediss"))):
            raise ValueError(f"an option is not valid: {right}, {_OPTIONS[scheme]}; passwords with %-escapes")
    return options


def _address(text: str, default_port: int, right: str) -> Address:
    found = _ADDRESS.fullmatch(text)
    if found is None:
        if text.startswith(":") or not text:
            raise ValueError(f"a host is empty: {right}")
        raise ValueError(f"a host or port is not valid: {right}; a password is written with %-escapes")
    port = int(found["port"] or default_port)
    if not 0 < port <= 65_535:
        raise ValueError(f"its port is not a number from 1 to 65535: {right}")
    return Address(found["host"].strip("[]"), port)
