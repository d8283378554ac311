"""``shieldmw serve``: wraps any ASGI app and serves it with granian."""

from __future__ import annotations

import gc
import importlib
import logging
import multiprocessing
import os
import signal
import socket
import sys
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import click

from shieldmw.errors import SettingsError
from shieldmw.settings import Settings
from shieldmw.settings.problems import masked_url
from shieldmw.store.embedded import EmbeddedServer
from shieldmw.wiring import ShieldMiddleware

from .load import exit_with, settings_or_exit
from .orphan import end_with_parent, tell_workers

# Listeners of a live event hold their connections: none is turned away before it was decided.
CONNECTIONS_PER_WORKER = 100_000
BACKLOG = 4096

# After SIGTERM requests in flight may finish. Listeners on live paths leave at once; other streams that never end
# are cut then.
DRAIN_S = 20

RESPAWN_AFTER_S = 1.0


@click.command()
@click.argument("target", metavar="MODULE:APP")
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on.")
@click.option("--port", default=8000, show_default=True, type=click.IntRange(1, 65_535), help="Port to listen on.")
@click.option("--workers", default=1, show_default=True, type=click.IntRange(1, 1024), help="Processes that serve.")
def serve(target: str, host: str, port: int, workers: int) -> None:
    """Put the shield around MODULE:APP and serve it.

    The workers share one store. Where SHIELD_REDIS_URL is unset that is embedded://, a Valkey
    server that lives as long as this command. SIGTERM or Ctrl-C stops: requests in flight finish.
    """
    os.environ.setdefault("SHIELD_REDIS_URL", "embedded://")
    settings = settings_or_exit()
    if settings.redis_url.startswith("memory://") and workers > 1:
        click.echo(f"shieldmw: memory:// is not shared: {workers} workers allow {workers} times the limits", err=True)
    address = _free_address(host, port)
    _try_app(target)
    store = masked_url(settings.redis_url)
    with ExitStack() as stack:
        if settings.redis_url.startswith("embedded://"):
            os.environ["SHIELD_REDIS_URL"] = url = _started(stack).url
            store += f" at {url}"  # by which other commands of this user reach it
        _check_wiring()
        click.echo(
            f"shieldmw: {target} on http://{host}:{port}, {workers} worker{'s' if workers > 1 else ''}, store {store}",
            err=True,
        )
        server = _server(target, address, port, workers)
        _let_workers_hear_sigterm()
        tell_workers(lambda: bool(server.interrupt_signal))
        server.serve(target_loader=load_shielded)


def load_shielded(target: str) -> ShieldMiddleware:
    """The app inside the shield; called in each worker."""
    end_with_parent(DRAIN_S)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s %(message)s")
    shielded = ShieldMiddleware(_load_app(target))
    # What is loaded stays. Else each full collection would look at all of it again, and stop the worker for as long.
    gc.collect()
    gc.freeze()
    return shielded


def _let_workers_hear_sigterm() -> None:
    """A worker is forked with the main process' handlers: until granian has put its own there SIGTERM would only set
    a flag that nobody reads, and a stop during the start would last as long as the drain.
    """
    main = os.getpid()

    def in_child() -> None:
        if os.getppid() == main:  # and not what the app forks itself
            signal.signal(signal.SIGTERM, signal.SIG_DFL)

    os.register_at_fork(after_in_child=in_child)


def _free_address(host: str, port: int) -> str:
    """The address that ``host`` names, once it is known that we can listen there."""
    try:
        family, _, _, _, where = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        with socket.create_server((str(where[0]), port), family=family):
            return str(where[0])
    except OSError as error:
        raise click.ClickException(f"cannot listen on {host}:{port}: {error.strerror or error}") from None


def _try_app(target: str) -> None:
    """Load the app once in a child, so that what is wrong with it is said once, and nothing it opens is inherited."""
    child = multiprocessing.get_context("fork").Process(target=_load_or_exit, args=(target,))
    child.start()
    child.join()
    if child.exitcode:
        sys.exit(child.exitcode)


def _load_or_exit(target: str) -> None:
    try:
        _load_app(target)
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)


def _load_app(target: str) -> Any:
    """The app that ``module:app`` names, found from the current folder as ``python -m`` would."""
    module_name, _, path = target.partition(":")
    if not path or not all(part.isidentifier() for part in module_name.split(".")):
        raise click.BadParameter(f"{target!r} is not of the form module:app, such as app:app", param_hint="MODULE:APP")
    if str(Path.cwd()) not in sys.path:
        sys.path.insert(0, str(Path.cwd()))
    try:
        app: Any = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{module_name}.".startswith(f"{error.name}."):
            raise
        raise click.BadParameter(
            f"there is no module {module_name!r} in {Path.cwd()}", param_hint="MODULE:APP"
        ) from None
    for name in path.split("."):
        try:
            app = getattr(app, name)
        except AttributeError:
            raise click.BadParameter(f"module {module_name!r} has no {path!r}", param_hint="MODULE:APP") from None
    if not callable(app):
        raise click.BadParameter(f"{target!r} is no ASGI app: it cannot be called", param_hint="MODULE:APP")
    return app


def _started(stack: ExitStack) -> EmbeddedServer:
    try:
        return stack.enter_context(EmbeddedServer())
    except SettingsError as error:
        exit_with(error)


def _check_wiring() -> None:
    """Build everything once, so that what is wrong is said here and not by each worker."""
    try:
        ShieldMiddleware(_no_app, Settings.from_environ())
    except SettingsError as error:
        exit_with(error)


async def _no_app(scope: Any, receive: Any, send: Any) -> None:
    """Stands in for the app while the wiring is tried."""


def _server(target: str, host: str, port: int, workers: int) -> Any:
    try:
        from granian import Granian
        from granian.constants import Interfaces
    except ImportError:
        raise click.ClickException("serving needs granian: pip install 'shieldmw[server]'") from None
    return Granian(
        target,
        address=host,
        port=port,
        interface=Interfaces.ASGI,
        workers=workers,
        backlog=BACKLOG,
        backpressure=CONNECTIONS_PER_WORKER,
        respawn_failed_workers=True,
        respawn_interval=RESPAWN_AFTER_S,
        workers_kill_timeout=DRAIN_S,
    )
