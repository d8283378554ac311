"""``shieldmw serve``: puts the shield around any ASGI app and serves it with granian."""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import ExitStack
from functools import partial
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import click

from shieldmw.core.text import counted
from shieldmw.doors.proxy.upstreams import UpstreamAddress, parse_upstream
from shieldmw.errors import SettingsError
from shieldmw.gate.metrics.slots import shared_slots
from shieldmw.settings import Settings
from shieldmw.settings.problems import masked_url
from shieldmw.settings.store_url import scheme_of
from shieldmw.store.redis.embedded import EmbeddedServer
from shieldmw.wiring import ShieldMiddleware, upstream_app

from .admin_listener import AdminListener, admin_address
from .app_target import try_app
from .listening import (
    Address,
    UnixAddress,
    free_tcp_address,
    free_unix_address,
    is_loopback,
    url_of,
)
from .load import exit_with, settings_or_exit
from .numbers import Number, Whole
from .orphan import tell_workers
from .server import BACKLOG, HEADER_TIMEOUT_S, ServerOptions, check_tls, granian_server
from .worker import let_workers_hear_sigterm, load_shielded

LOG_LEVELS = ("critical", "error", "warning", "info", "debug")

_FILE = click.Path(exists=True, dir_okay=False, readable=True, path_type=Path)


class Upstream(click.ParamType[UpstreamAddress]):
    """The address of an upstream."""

    name = "url"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> UpstreamAddress:
        """The address that a text spells."""
        try:
            return parse_upstream(str(value))
        except ValueError as error:
            self.fail(f"{masked_url(str(value))!r}: {error}", param, ctx)


class Permissions(click.ParamType[int]):
    """File permissions in octal, as for chmod."""

    name = "octal"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        """The bits that ``660`` means."""
        text = str(value)
        if not (text.isascii() and text.isdecimal() and len(text) <= 4) or set(text) & {"8", "9"}:
            self.fail(f"{text!r} is no file mode: write it like 660", param, ctx)
        if not (bits := int(text, 8)) <= 0o777:
            self.fail(f"{text!r} is more than 777", param, ctx)
        return bits


@click.command()
@click.argument("target", metavar="[MODULE:APP]", required=False)
@click.option(
    "--upstream",
    "upstreams",
    metavar="URL",
    multiple=True,
    type=Upstream(),
    help="Pass requests on to a server instead of an app: http://HOST:PORT, https://HOST:PORT or unix:PATH. Give it "
    "again for each other server of the same site.",
)
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on.")
@click.option("--port", default=8000, show_default=True, type=Whole(1, 65_535), help="Port to listen on.")
@click.option("--uds", metavar="PATH", help="Listen on a unix socket instead of a host and port.")
@click.option(
    "--uds-permissions", metavar="MODE", type=Permissions(), help="File mode of the unix socket, such as 660."
)
@click.option("--workers", default=1, show_default=True, type=Whole(1, 1024), help="Processes that serve.")
@click.option(
    "--backlog",
    default=BACKLOG,
    show_default=True,
    type=Whole(128, 65_535),
    help="Connections that may wait to be accepted, per worker; the kernel caps it at net.core.somaxconn.",
)
@click.option(
    "--header-timeout",
    metavar="SECONDS",
    default=HEADER_TIMEOUT_S,
    show_default=True,
    type=Number(0.1, 3600, "10 (seconds)"),
    help="Drop a connection whose request head takes longer, or that is kept alive but idle for longer. Behind a "
    "proxy: set it higher than the proxy keeps idle connections.",
)
@click.option(
    "--keep-alive/--no-keep-alive",
    default=True,
    show_default=True,
    help="Whether a connection may carry more than one request.",
)
@click.option(
    "--http",
    default="auto",
    show_default=True,
    type=click.Choice(["auto", "1", "2"]),
    help="HTTP version. With auto and 2 a client that connects and sends nothing is not dropped; 2 has no WebSockets.",
)
@click.option("--tls-cert", metavar="FILE", type=_FILE, help="Serve TLS: the certificate with its chain, PEM.")
@click.option("--tls-key", metavar="FILE", type=_FILE, help="Its key, PEM, without a password.")
@click.option(
    "--log-level", default="info", show_default=True, type=click.Choice(LOG_LEVELS), help="Lowest level that is logged."
)
@click.option(
    "--admin",
    metavar="ADDRESS",
    help="Serve the admin routes also on HOST:PORT or unix:PATH, from a process that answers while all workers are "
    "busy. Needs SHIELD_ADMIN_TOKEN.",
)
def serve(
    target: str | None,
    upstreams: tuple[UpstreamAddress, ...],
    host: str,
    port: int,
    uds: str | None,
    tls_cert: Path | None,
    tls_key: Path | None,
    admin: str | None,
    **options: Any,
) -> None:
    """Put the shield around MODULE:APP, or in front of the servers that --upstream names, and serve it.

    The workers share one store. If SHIELD_REDIS_URL is unset, that is embedded://, a Valkey
    server that lives as long as this command. SIGTERM or Ctrl-C stops it: requests in flight finish.
    """
    os.environ.setdefault("SHIELD_REDIS_URL", "embedded://")
    settings = settings_or_exit()
    if (target is None) == (not upstreams):
        raise click.UsageError("name either an app as MODULE:APP, or --upstream URL")
    check_tls(tls_cert, tls_key)
    if uds is not None and any(map(_is_given, ("host", "port"))):
        raise click.BadParameter("it takes the place of --host and --port: leave these out", param_hint="--uds")
    if options["uds_permissions"] is not None and uds is None:
        raise click.BadParameter("it is for a unix socket: it needs --uds beside it", param_hint="--uds-permissions")
    chosen = ServerOptions(
        address=free_tcp_address(host, port) if uds is None else free_unix_address(uds, "--uds"),
        header_timeout_s=options.pop("header_timeout"),
        tls_cert=tls_cert,
        tls_key=tls_key,
        **options,
    )
    _refuse_loops(upstreams, chosen.address)
    if scheme_of(settings.redis_url) == "memory" and chosen.workers > 1:
        click.echo(
            f"shieldmw: memory:// is not shared: {chosen.workers} workers allow {chosen.workers} times the limits",
            err=True,
        )
    if settings.dry_run:
        click.echo("shieldmw: SHIELD_DRY_RUN=true: nothing is refused, it is only counted and logged", err=True)
    store = masked_url(settings.redis_url)
    operators = None if admin is None else admin_address(admin, chosen.address, settings)
    if target is not None:
        try_app(target)
    with ExitStack() as stack:
        if scheme_of(settings.redis_url) == "embedded":
            os.environ["SHIELD_REDIS_URL"] = url = _started(stack).url
            store += f" at {url}"  # other commands of this user reach it by this URL
        _check_wiring(upstreams)
        server = granian_server(target or "upstream", chosen)
        metrics_path = None if settings.admin_token is None else shared_slots(chosen.workers)
        if operators is not None:
            stack.enter_context(AdminListener(operators, chosen.log_level, metrics_path))
            click.echo(f"shieldmw: admin routes also on {url_of(operators)}", err=True)
        workers = counted(chosen.workers, "worker")
        served = target or f"proxy to {', '.join(address.text for address in upstreams)}"
        click.echo(f"shieldmw: {served} on {chosen.url}, {workers}, store {store}", err=True)
        let_workers_hear_sigterm()
        tell_workers(lambda: bool(server.interrupt_signal))
        server.serve(
            target_loader=partial(
                load_shielded, upstreams=upstreams, log_level=chosen.log_level, metrics_path=metrics_path
            )
        )


def _refuse_loops(upstreams: Sequence[UpstreamAddress], own: Address) -> None:
    """Check that no upstream is the address that we are going to listen on."""
    for upstream in upstreams:
        if _is_at(upstream, own):
            raise click.BadParameter(f"{upstream.text} is where the proxy itself listens", param_hint="--upstream")


def _is_at(upstream: UpstreamAddress, own: Address) -> bool:
    if isinstance(own, UnixAddress):
        return upstream.path == str(own.path)
    host = "127.0.0.1" if upstream.host == "localhost" else upstream.host
    is_here = host in (own.host, own.ip) or (is_loopback(host) and ip_address(own.ip).is_unspecified)
    return upstream.path is None and upstream.port == own.port and is_here


def _is_given(option: str) -> bool:
    """Whether an option of this command is on the command line."""
    source = click.get_current_context().get_parameter_source(option)
    return source is click.core.ParameterSource.COMMANDLINE


def _started(stack: ExitStack) -> EmbeddedServer:
    try:
        return stack.enter_context(EmbeddedServer())
    except SettingsError as error:
        exit_with(error)


def _check_wiring(upstreams: Sequence[UpstreamAddress]) -> None:
    """Build everything once, so that errors show here and not in each worker."""
    settings = Settings.from_environ()
    try:
        ShieldMiddleware(upstream_app(settings, upstreams) if upstreams else _no_app, settings)
    except SettingsError as error:
        exit_with(error)


async def _no_app(scope: Any, receive: Any, send: Any) -> None:
    """A placeholder for the app while the wiring is checked."""
