"""The way of an operator's command to the fleet: through a worker's admin routes, or through the store."""

from __future__ import annotations

import gc
import os
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, suppress
from typing import Any, Protocol

import click

from shieldmw.core.text import harmless

from .operator import Unanswered, sentence
from .options import is_url_given, typed

# Nice value of a command that goes through the store, if its user may raise its priority.
HURRY_NICE = -10

# The command that goes through the store in place of those that cannot.
_OTHERWISE = "shieldmw mode"

Answer = dict[str, Any]


class Client(Protocol):
    """Access to the fleet: through a worker, or through the store. Answers are those of the admin routes."""

    @property
    def place(self) -> str:
        """The source of the answers, for messages, without secrets."""

    def status(self) -> Answer:
        """The status of the fleet."""

    def set_mode(self, body: Mapping[str, object], if_version: int | None) -> Answer:
        """Change the mode; returns the new status of the fleet."""

    def limits(self) -> Answer:
        """The limits in force."""

    def set_limits(self, body: Mapping[str, object], if_version: int | None) -> Answer:
        """Change limits; returns those in force."""

    def deny_list(self) -> list[Answer]:
        """Every network that is denied now."""

    def denied(self, network: str) -> Answer | None:
        """The entry of exactly this network; None if there is none."""

    def deny(self, network: str, body: Mapping[str, object]) -> Answer:
        """Deny a network; returns its entry."""

    def lift(self, network: str) -> bool:
        """Lift the denial of a network; returns whether it was denied."""

    def audit(self, count: int) -> list[Answer]:
        """The last changes, newest first."""


@contextmanager
def client(url: str, *, direct: bool, to_look: bool) -> Iterator[Client]:
    """The client for the current command; ``to_look``: the view token is sufficient.

    Raises:
        click.ClickException: it could not be carried out; if no worker answered, the line ends with the next step.
    """
    if direct and is_url_given(click.get_current_context()):
        raise click.UsageError("--direct goes to the store and --url to the admin routes: give one of them.")
    with next_step(), _direct() if direct else _through_a_worker(url, to_look=to_look) as found:
        yield found


@contextmanager
def next_step() -> Iterator[None]:
    """Add to the line of a command that no worker answers what to try instead."""
    try:
        yield
    except Unanswered as error:
        ctx = click.get_current_context()
        command = typed(ctx) if "direct" in ctx.params else _OTHERWISE
        way = f"With SHIELD_REDIS_URL set as for the workers, try: {command} --direct"
        raise click.ClickException(f"{sentence(error.message)} {harmless(way)}") from None


def _through_a_worker(url: str, *, to_look: bool) -> AbstractContextManager[Client]:
    try:
        from .admin_client import admin_client
    except ModuleNotFoundError as error:
        raise Unanswered(f"the admin routes need {error.name}: pip install 'shieldmw[cli]'") from None
    return admin_client(url, to_look=to_look)


@contextmanager
def _direct() -> Iterator[Client]:
    """Access through the store, as fast as possible, since workers may be using all of the CPU."""
    usual = os.getpriority(os.PRIO_PROCESS, 0)
    gc.disable()  # collecting garbage, now and at exit, would take a quarter of the time
    try:
        with suppress(PermissionError):  # ahead of the workers, for half a second, if the user may
            os.setpriority(os.PRIO_PROCESS, 0, min(usual, HURRY_NICE))
        from .direct_client import DirectClient

        with DirectClient() as found:
            yield found
    finally:
        os.setpriority(os.PRIO_PROCESS, 0, usual)
        gc.freeze()
        gc.enable()
