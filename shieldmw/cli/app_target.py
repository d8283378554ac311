"""Imports the app that MODULE:APP names, as ``python -m`` would. Each error is one line."""

from __future__ import annotations

import importlib
import multiprocessing
import signal
import sys
import traceback
from collections.abc import Callable
from contextlib import suppress
from inspect import signature
from pathlib import Path
from types import TracebackType
from typing import Any

import click

from shieldmw.core.text import harmless

# Exit status of the child after Ctrl-C, by the convention of shells.
_INTERRUPTED = 128 + signal.SIGINT


def try_app(target: str) -> None:
    """Load the app in a child process, so that errors are shown once, and workers inherit nothing that it opens."""
    child = multiprocessing.get_context("fork").Process(target=_load_or_exit, args=(target,))
    child.start()
    child.join()
    if child.exitcode:
        sys.exit(child.exitcode)


def _load_or_exit(target: str) -> None:
    try:
        load_app(target)
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)
    except KeyboardInterrupt:  # the main process gets Ctrl-C as well, and reports it
        sys.exit(_INTERRUPTED)
    except Exception as error:
        traceback.print_exception(error.with_traceback(_own_frames(error.__traceback__)))
        message = next(iter(str(error).splitlines()), "")
        click.echo(f"Error: {target} cannot be loaded: {type(error).__name__}: {harmless(message)}", err=True)
        sys.exit(1)


def _own_frames(trace: TracebackType | None) -> TracebackType | None:
    """The app's own frames, without the leading ones of this module and the import system."""
    ours = (__file__, importlib.__file__, "<frozen importlib")
    while trace is not None and trace.tb_frame.f_code.co_filename.startswith(ours):
        trace = trace.tb_next
    return trace


def load_app(target: str) -> Any:
    """The app that ``module:app`` names, imported from the current folder as ``python -m`` would.

    Raises:
        click.BadParameter: it does not name an app.
    """
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
    if not _takes_requests(app):
        raise click.BadParameter(
            f"{target!r} is no ASGI app: it does not take (scope, receive, send); of a factory, name what it returns, "
            "as in app = create_app()",
            param_hint="MODULE:APP",
        )
    return app


def _takes_requests(app: Callable[..., object]) -> bool:
    """Whether it can be called as an ASGI app; true if its signature is unknown."""
    with suppress(ValueError):
        try:
            signature(app).bind({}, None, None)
        except TypeError:
            return False
    return True
