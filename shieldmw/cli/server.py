"""The granian server of ``shieldmw serve``, and its options, checked so that mistakes are reported in one line."""

from __future__ import annotations

import ssl
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click

from .granian_stop import SignalSafeEvent, see_workers_end
from .listening import Address, TcpAddress, url_of
from .worker import DRAIN_S

# Maximum number of connections of a worker. High, since listeners keep theirs open, and the shield should decide who is
# turned away, not the server.
CONNECTIONS_PER_WORKER = 100_000

# Connections that the kernel queues for each worker until it accepts them, enough for an audience that returns at once.
# The kernel caps it at net.core.somaxconn, whose default this is.
BACKLOG = 4096

# A head that takes longer is a slow-header attack or a dead network, since browsers send theirs at once. granian's
# default is 30 s. The time starts at the last answer, so this also limits how long an idle connection is kept alive.
HEADER_TIMEOUT_S = 10.0

# Pause before a worker that has died is replaced.
RESPAWN_AFTER_S = 1.0


@dataclass(frozen=True, slots=True)
class ServerOptions:
    """The options of the command that configure the server."""

    address: Address
    workers: int
    backlog: int
    header_timeout_s: float
    keep_alive: bool
    http: str
    uds_permissions: int | None
    tls_cert: Path | None
    tls_key: Path | None
    log_level: str

    @property
    def url(self) -> str:
        """The URL for clients."""
        return url_of(self.address, "https" if self.tls_cert else "http")


def check_tls(cert: Path | None, key: Path | None) -> None:
    """Check that a certificate and its key can be used, or that neither is given.

    Raises:
        click.BadParameter: one is given without the other, or they cannot be used together.
    """
    if cert is None and key is None:
        return
    if cert is None or key is None:
        given, missing = ("--tls-cert", "--tls-key") if key is None else ("--tls-key", "--tls-cert")
        raise click.BadParameter(f"it needs {missing} beside it", param_hint=given)
    try:
        # The empty password makes an encrypted key fail here, instead of prompting in each worker.
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(cert, key, password=lambda: "")
    except (ssl.SSLError, OSError, ValueError) as error:
        reason = getattr(error, "reason", None) or error
        raise click.BadParameter(
            f"{cert} and {key} cannot be used ({reason}): they must be a PEM certificate with its chain, and its PEM "
            "key without a password",
            param_hint="--tls-cert",
        ) from None


def granian_server(target: str, options: ServerOptions) -> Any:
    """granian, configured but not started.

    Raises:
        click.ClickException: granian is not installed.
    """
    try:
        from granian import Granian
        from granian.constants import HTTPModes, Interfaces, SSLProtocols
        from granian.http import HTTP1Settings
        from granian.log import LogLevels
    except ImportError:
        raise click.ClickException("serving needs granian: pip install 'shieldmw[server]'") from None
    where: dict[str, Any] = (
        {"address": options.address.ip, "port": options.address.port}
        if isinstance(options.address, TcpAddress)
        else {"uds": options.address.path, "uds_permissions": options.uds_permissions}
    )
    server: Any = Granian(
        target,
        **where,
        interface=Interfaces.ASGI,
        workers=options.workers,
        http=HTTPModes(options.http),
        http1_settings=HTTP1Settings(
            header_read_timeout=round(options.header_timeout_s * 1000), keep_alive=options.keep_alive
        ),
        backlog=options.backlog,
        backpressure=CONNECTIONS_PER_WORKER,
        ssl_cert=options.tls_cert,
        ssl_key=options.tls_key,
        # granian's default is 1.3 only, which older clients and many load balancers do not speak; rustls has no weak
        # 1.2 suites.
        ssl_protocol_min=SSLProtocols.tls12,
        log_level=LogLevels(options.log_level),
        respawn_failed_workers=True,
        respawn_interval=RESPAWN_AFTER_S,
        workers_kill_timeout=DRAIN_S,
    )
    server.main_loop_interrupt = SignalSafeEvent()
    see_workers_end()
    return server
