"""Parses and checks addresses to listen on, TCP or unix sockets, before a server is started."""

from __future__ import annotations

import os
import socket
import stat
from dataclasses import dataclass
from ipaddress import ip_address
from pathlib import Path

import click

# sizeof(sun_path) on Linux is 108 with the final zero byte; macOS has 104.
LONGEST_UNIX_PATH = 107


@dataclass(frozen=True, slots=True)
class TcpAddress:
    """A host as the user wrote it, the address it resolves to, and a port."""

    host: str
    ip: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


@dataclass(frozen=True, slots=True)
class UnixAddress:
    """A unix socket's path."""

    path: Path

    def __str__(self) -> str:
        return f"unix:{self.path}"


Address = TcpAddress | UnixAddress


def is_loopback(host: str | None) -> bool:
    """Whether a host is a loopback address or ``localhost``."""
    try:
        return host == "localhost" or ip_address(host or "").is_loopback
    except ValueError:
        return False


def overlap(one: Address, other: Address) -> bool:
    """Whether a connection to one address could reach a listener on the other."""
    if isinstance(one, TcpAddress) and isinstance(other, TcpAddress):
        ips = {one.ip, other.ip}
        return one.port == other.port and (len(ips) == 1 or any(ip_address(ip).is_unspecified for ip in ips))
    return one == other


def url_of(address: Address, scheme: str = "http") -> str:
    """The URL for clients."""
    return f"{scheme}://{address}" if isinstance(address, TcpAddress) else str(address)


def parse_address(text: str, option: str) -> Address:
    """The address that ``HOST:PORT``, ``[IPV6]:PORT`` or ``unix:PATH`` spells, after checking that it is free.

    Raises:
        click.ClickException: it is not an address (status 2), or we cannot listen there (status 1).
    """
    if text.startswith("unix:"):
        return free_unix_address(text.removeprefix("unix:"), option)
    host, _, port = text.rpartition(":")
    host = host.removeprefix("[").removesuffix("]")
    if not host or not (port.isascii() and port.isdecimal() and len(port) <= 5 and 1 <= int(port) <= 65_535):
        raise click.BadParameter(
            f"{text!r} is no address: write it like 127.0.0.1:9000 or unix:/run/shieldmw/admin.sock", param_hint=option
        )
    return free_tcp_address(host, int(port))


def free_tcp_address(host: str, port: int) -> TcpAddress:
    """The address that ``host`` names, after checking that we can listen there.

    Raises:
        click.ClickException: we cannot.
    """
    try:
        family, _, _, _, where = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        with socket.create_server((str(where[0]), port), family=family):
            return TcpAddress(host, str(where[0]), port)
    except OSError as error:
        raise click.ClickException(f"cannot listen on {host}:{port}: {error.strerror or error}") from None


def free_unix_address(text: str, option: str) -> UnixAddress:
    """A path where a socket can be created; one that a killed server left behind is removed.

    Raises:
        click.ClickException: it cannot be created there.
    """
    path = Path(text).absolute()
    if not text or len(os.fsencode(path)) > LONGEST_UNIX_PATH:
        raise click.BadParameter(
            f"{text!r} is no path for a unix socket: write one of 1 to {LONGEST_UNIX_PATH} bytes", param_hint=option
        )
    try:
        if not path.parent.is_dir():
            raise FileNotFoundError(0, f"there is no folder {path.parent}")
        if not os.access(path.parent, os.W_OK | os.X_OK):
            raise PermissionError(0, f"no file can be made in {path.parent}")
        _remove_left_behind(path)
    except OSError as error:
        raise click.ClickException(f"cannot listen on unix:{text}: {error.strerror or error}") from None
    return UnixAddress(path)


def _remove_left_behind(path: Path) -> None:
    try:
        is_socket = stat.S_ISSOCK(path.lstat().st_mode)
    except FileNotFoundError:
        return
    if not is_socket:
        raise FileExistsError(0, "something that is no socket is there")
    with socket.socket(socket.AF_UNIX) as probe:
        try:
            probe.connect(str(path))
        except ConnectionRefusedError:
            path.unlink()
            return
    raise OSError(0, "another server listens there")
