"""The process that serves only the admin routes, started by ``admin_listener``. It ends if its parent does."""

from __future__ import annotations

import asyncio
import logging
import resource
import signal
import sys
from typing import Any

import click
from granian.constants import HTTPModes, Interfaces
from granian.http import HTTP1Settings
from granian.server.embed import Server

from shieldmw.settings import Settings
from shieldmw.wiring import admin_alone

from .listening import free_tcp_address, free_unix_address
from .orphan import end_with
from .worker import LOG_FORMAT

# Time for a request in flight to finish. Shorter than the main process waits (``admin_listener.STOP_S``).
DRAIN_S = 3

# Time for a request head, after which the connection is dropped.
HEADER_TIMEOUT_MS = 5000

# Mode of the unix socket: only the user of the server, and root, may connect.
PERMISSIONS = 0o600


async def serve(host: str, port_or_path: str, metrics_path: str | None) -> None:
    """Serve until SIGTERM."""
    where: dict[str, Any]
    if host == "unix":
        where = {"uds": free_unix_address(port_or_path, "--admin").path}  # replaces a killed process's
    else:
        where = {"address": host, "port": free_tcp_address(host, int(port_or_path)).port}
    app = admin_alone(Settings.from_environ(), metrics_path)
    server = Server(
        app,
        **where,
        interface=Interfaces.ASGI,
        http=HTTPModes.http1,
        websockets=False,
        http1_settings=HTTP1Settings(header_read_timeout=HEADER_TIMEOUT_MS),
        log_enabled=False,
    )
    server.uds_permissions = PERMISSIONS  # the embedded server takes no such argument

    def stop() -> None:
        app.leave()
        server.stop()  # type: ignore[no-untyped-call]

    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop)
    await server.serve()


def main() -> None:
    """Run ``admin_process PARENT LOG_LEVEL METRICS HOST PORT``, or ``… unix PATH``; METRICS may be empty."""
    parent, log_level, metrics_path, host, port_or_path = sys.argv[1:]
    end_with(int(parent), DRAIN_S)
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    # Raised so that connections of others, however many, do not keep the operator out.
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    logging.basicConfig(level=log_level.upper(), format=LOG_FORMAT)
    try:
        asyncio.run(serve(host, port_or_path, metrics_path or None))
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)


if __name__ == "__main__":
    main()
