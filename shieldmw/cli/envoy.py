"""``shieldmw envoy``: answers Envoy's questions over gRPC, without an app."""

from __future__ import annotations

import asyncio
import gc
import logging
import os
import signal
import socket
from collections.abc import Callable, Coroutine
from contextlib import ExitStack
from importlib.util import find_spec
from typing import Any

import click

from shieldmw.doors.envoy.door import EnvoyDoor
from shieldmw.errors import SettingsError
from shieldmw.gate.metrics.slots import shared_slots
from shieldmw.settings import Settings
from shieldmw.settings.problems import masked_url
from shieldmw.settings.store_url import scheme_of
from shieldmw.wiring import envoy_door

from .admin_listener import AdminListener, admin_address
from .listening import Address, TcpAddress, is_loopback, parse_address, url_of
from .load import exit_with, settings_or_exit
from .worker import LOG_FORMAT

LOG_LEVELS = ("critical", "error", "warning", "info", "debug")

# Connections that the kernel queues until they are accepted: Envoy opens one for each of its threads.
BACKLOG = 1024

# Time for calls in flight after SIGTERM, and for Envoy to close its connections.
DRAIN_S = 5.0

# Mode of a unix socket: only the user of this process, and root, may connect.
PERMISSIONS = 0o600


@click.command()
@click.option(
    "--listen",
    default="127.0.0.1:9001",
    show_default=True,
    metavar="ADDRESS",
    help="HOST:PORT or unix:PATH. Only Envoy must be able to connect: it is believed whatever it says.",
)
@click.option(
    "--log-level", default="info", show_default=True, type=click.Choice(LOG_LEVELS), help="Lowest level that is logged."
)
@click.option(
    "--admin",
    metavar="ADDRESS",
    help="Serve the admin routes on HOST:PORT or unix:PATH, with the metrics of this process. Needs "
    "SHIELD_ADMIN_TOKEN, and a store that processes can share.",
)
def envoy(listen: str, log_level: str, admin: str | None) -> None:
    """Answer Envoy over gRPC: ext_authz, the rate limit service, health checks.

    One process, one core. For more, run it once per core, each on its own port with the same
    SHIELD_REDIS_URL, and list all of them in Envoy's cluster. SIGTERM or Ctrl-C stops it.
    """
    settings = settings_or_exit()
    address = parse_address(listen, "--listen")
    if isinstance(address, TcpAddress) and not is_loopback(address.ip):
        click.echo(
            f"shieldmw: warning: --listen {address} can be reached from other machines, and whoever connects can name "
            "any client: let only Envoy reach it, or use 127.0.0.1 or unix:PATH",
            err=True,
        )
    if settings.dry_run:
        click.echo("shieldmw: SHIELD_DRY_RUN=true: nothing is refused, it is only counted and logged", err=True)
    logging.basicConfig(level=log_level.upper(), format=LOG_FORMAT)
    with ExitStack() as stack:
        metrics_path = None
        if admin is not None:
            operators = _operators(admin, address, settings)
            metrics_path = shared_slots(1)
            stack.enter_context(AdminListener(operators, log_level, metrics_path))
            click.echo(f"shieldmw: admin routes on {url_of(operators)}", err=True)
        _run(settings, address, metrics_path)


def _operators(admin: str, address: Address, settings: Settings) -> Address:
    """The address for the admin routes, after checking that they can be served."""
    if find_spec("granian") is None:
        raise click.UsageError("--admin needs granian: pip install 'shieldmw[server]'")
    if scheme_of(settings.redis_url) == "embedded":
        raise click.UsageError(
            "--admin needs a store that it shares with this process: set SHIELD_REDIS_URL to a Redis"
        )
    return admin_address(admin, address, settings)


def _run(settings: Settings, address: Address, metrics_path: str | None) -> None:
    async def serve() -> None:
        try:
            door = envoy_door(settings, metrics_path)
        except SettingsError as error:
            exit_with(error)
        await _serve(door, address, f"shieldmw: gRPC for Envoy on {address}, store {masked_url(settings.redis_url)}")

    _runner()(serve())


async def _serve(door: EnvoyDoor, address: Address, announcement: str) -> None:
    stopping = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):  # before the worker starts, whose own handlers must be called first
        asyncio.get_running_loop().add_signal_handler(number, stopping.set)
    with _listening(address) as sock:
        await door.start(sock)
        gc.collect()
        gc.freeze()  # loaded modules are never freed, so the collector need not traverse them
        click.echo(announcement, err=True)
        await stopping.wait()
        await door.stop(DRAIN_S)


def _listening(address: Address) -> socket.socket:
    if isinstance(address, TcpAddress):
        family = socket.AF_INET6 if ":" in address.ip else socket.AF_INET
        return socket.create_server((address.ip, address.port), family=family, backlog=BACKLOG)
    sock = socket.socket(socket.AF_UNIX)
    before = os.umask(0o777 & ~PERMISSIONS)
    try:
        sock.bind(str(address.path))
    finally:
        os.umask(before)
    sock.listen(BACKLOG)
    return sock


def _runner() -> Callable[[Coroutine[Any, Any, None]], None]:
    """uvloop's ``run`` where it is installed: it takes a third less time per call."""
    try:
        import uvloop
    except ImportError:
        return asyncio.run
    return uvloop.run
