"""URLs of stores that are several servers: who is named in them, in parts."""

from __future__ import annotations

import re
from typing import NamedTuple
from urllib.parse import quote, unquote

CLUSTER = "redis+cluster"
SENTINEL = "redis+sentinel"

_PORTS = {CLUSTER: 6379, SENTINEL: 26379}
_RIGHT = {
    CLUSTER: f"{CLUSTER}://host:6379,host:6379",
    SENTINEL: f"{SENTINEL}://host:26379,host:26379/service",
}
_ADDRESS = re.compile(r"(?P<host>[\w.-]+|\[[0-9A-Fa-f:.]+\])(?::(?P<port>\d{1,5}))?")


class Address(NamedTuple):
    """Where a server listens."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


class Servers(NamedTuple):
    """What a URL says: servers to ask first, and the user and password of those that hold the data.

    ``service`` is what sentinels call the master, '' for a cluster.
    """

    addresses: tuple[Address, ...]
    user: str
    password: str
    service: str
    database: int

    def url_of(self, address: Address) -> str:
        """The URL of one server that holds data."""
        login = f"{quote(self.user, safe='')}:{quote(self.password, safe='')}@" if self.user or self.password else ""
        return f"redis://{login}{address}/{self.database}"


def parse_servers(url: str) -> Servers:
    """The parts of a ``redis+cluster://`` or ``redis+sentinel://`` URL.

    Raises:
        ValueError: says what would be right.
    """
    scheme, _, rest = url.partition("://")
    right = f"write it like {_RIGHT[scheme]}"
    login, _, place = rest.rpartition("@")
    user, _, password = login.partition(":")
    hosts, _, path = place.partition("/")
    addresses = tuple(_address(text, _PORTS[scheme], right) for text in hosts.split(","))
    if scheme == CLUSTER:
        if path:
            raise ValueError(f"a cluster has one database, which is not named: {right}")
        service, database = "", ""
    else:
        service, _, database = path.partition("/")
        if not re.fullmatch(r"[\w.-]+", service):
            raise ValueError(f"no service, which is what the sentinels call the master: {right}")
        if not re.fullmatch(r"\d{0,6}", database, re.ASCII):
            raise ValueError(f"its database is no number: {right}/0")
    return Servers(addresses, unquote(user), unquote(password), service, int(database or 0))


def _address(text: str, default_port: int, right: str) -> Address:
    found = _ADDRESS.fullmatch(text)
    if found is None:
        if text.startswith(":") or not text:
            raise ValueError(f"a host is empty: {right}")
        raise ValueError(f"a host or a port cannot be: {right}; a password is written with %-escapes")
    port = int(found["port"] or default_port)
    if not 0 < port <= 65_535:
        raise ValueError(f"its port is no number from 1 to 65535: {right}")
    return Address(found["host"].strip("[]"), port)
