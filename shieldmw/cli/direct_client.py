"""Client of the store for commands, if the admin routes do not answer. It answers in the routes' format."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Self, TypeVar

import click
from pydantic import BaseModel, ValidationError

from shieldmw.admin.limits import LimitsAnswer, LimitsBody
from shieldmw.admin.problems import field_errors, not_valid
from shieldmw.admin.schema import AuditItem, DenyBody, DenyItem, ModeBody, StatusAnswer, admin_called
from shieldmw.core.address import network_of
from shieldmw.core.bounds import MOST_ERRORS
from shieldmw.core.deny import DenyEntry
from shieldmw.core.text import harmless
from shieldmw.errors import NotApplied, NotPermitted, SettingsError, StoreError
from shieldmw.gate.operator.deny_editor import FULL_LINE, DenyRefusal
from shieldmw.gate.operator.direct import DirectControl
from shieldmw.settings import Settings
from shieldmw.settings.problems import masked_url, not_shared
from shieldmw.store.opener import store_opener

from .load import exit_with, failure_line, patient, settings_or_exit
from .operator import PATIENCE_S, WrongInput, actor, somebody_else

# Time for all calls of a command together; the rest of the operator's patience is for Python's start.
BUDGET_S = PATIENCE_S - 1

T = TypeVar("T")
M = TypeVar("M", bound=BaseModel)

_MAYBE = " It may be done all the same: see 'shieldmw {} --direct'."
_DONE = " The change itself was made."


class DirectClient:
    """Operators' requests through the store. Needs no token: anyone who can write to the store could bypass a check."""

    def __init__(self) -> None:
        settings = settings_or_exit()
        _must_be_shared(settings)
        # Log lines of the store and the switch are meant for workers; here a failure is reported in one line.
        logging.getLogger("shieldmw").addHandler(logging.NullHandler())
        self._url = settings.redis_url
        self._place = f"the store {masked_url(settings.redis_url)}"
        try:
            self._store = store_opener(patient(settings))()
        except SettingsError as error:
            exit_with(error)
        self._control = DirectControl(self._store, settings)
        self._runner = asyncio.Runner()
        self._until_s = 0.0

    def __enter__(self) -> Self:
        self._until_s = self._runner.get_loop().time() + BUDGET_S
        return self

    def __exit__(self, *_: object) -> None:
        self._runner.run(self._store.aclose())
        self._runner.close()

    @property
    def place(self) -> str:
        """The store, its password masked."""
        return self._place

    def status(self) -> dict[str, Any]:
        """The status of the fleet."""
        return self._ask(self._status)

    def set_mode(self, body: Mapping[str, object], if_version: int | None) -> dict[str, Any]:
        """Change the mode; returns the new status of the fleet."""
        change = _valid(ModeBody, body).change(admin_called(actor()))
        changed = self._ask(lambda: self._control.set_mode(change, if_version), maybe=_MAYBE.format("mode status"))
        if changed:
            return self._ask(self._status, surely=_DONE)
        raise click.ClickException(harmless(somebody_else(self._ask(self._status))))

    def limits(self) -> dict[str, Any]:
        """The limits in force."""
        return self._ask(self._limits)

    def set_limits(self, body: Mapping[str, object], if_version: int | None) -> dict[str, Any]:
        """Change limits; returns those in force."""
        given = _valid(LimitsBody, body)
        overrides, who = given.overrides(), admin_called(actor())

        async def change() -> bool:
            return await self._control.set_limits(
                overrides, actor=who, reason=given.reason, for_s=given.for_seconds, expected_version=if_version
            )

        try:
            changed = self._ask(change, maybe=_MAYBE.format("limits show"))
        except SettingsError as error:
            raise WrongInput(harmless(f"Nothing was changed. {'; '.join(error.problems[:MOST_ERRORS])}")) from None
        if changed:
            return self._ask(self._limits, surely=_DONE)
        raise click.ClickException(harmless(somebody_else(self._ask(self._limits))))

    def deny_list(self) -> list[dict[str, Any]]:
        """Every network that is denied now."""

        async def look() -> list[DenyEntry]:
            return await (await self._control.denials()).denied()

        return [self._denial(entry) for entry in self._ask(look)]

    def denied(self, network: str) -> dict[str, Any] | None:
        """The entry of exactly this network; None if there is none."""

        async def look() -> DenyEntry | None:
            return await (await self._control.denials()).denied_network(network_of(network))

        entry = self._ask(look)
        return None if entry is None else self._denial(entry)

    def deny(self, network: str, body: Mapping[str, object]) -> dict[str, Any]:
        """Deny a network, even the operator's own, which the store does not know; returns its entry."""
        given = _valid(DenyBody, body)

        async def change() -> DenyEntry | DenyRefusal:
            denials = await self._control.denials()
            return await denials.deny(
                *(network_of(network), given.for_seconds),
                actor=admin_called(actor()),
                reason=given.reason,
                own=None,
                force=given.force,
            )

        entry = self._ask(change, maybe=_MAYBE.format("deny list"))
        if isinstance(entry, DenyRefusal):
            raise click.ClickException(FULL_LINE)
        return self._denial(entry)

    def lift(self, network: str) -> bool:
        """Lift the denial of a network; returns whether it was denied."""

        async def change() -> bool:
            return await (await self._control.denials()).undeny(network_of(network), admin_called(actor()))

        return self._ask(change, maybe=_MAYBE.format("deny list"))

    def audit(self, count: int) -> list[dict[str, Any]]:
        """The last changes, newest first."""
        entries = self._ask(lambda: self._control.audit(count))
        return [AuditItem.of(entry).model_dump(mode="json", by_alias=True) for entry in entries]

    def _denial(self, entry: DenyEntry) -> dict[str, Any]:
        return DenyItem.of(entry, self._control.now_s()).model_dump(mode="json")

    async def _limits(self) -> dict[str, Any]:
        return LimitsAnswer.of_report(await self._control.limits()).model_dump(mode="json")

    async def _status(self) -> dict[str, Any]:
        status = await self._control.status()
        answer = StatusAnswer.of(status).model_dump(mode="json")
        return answer if status.seats.fleet_wide else {**answer, "seats": None}

    def _ask(self, work: Callable[[], Awaitable[T]], *, maybe: str = "", surely: str = "") -> T:
        """Run ``work`` within the rest of the budget.

        To the line of a failure ``surely`` is added, and ``maybe`` if the store may have received the change.
        """

        async def within() -> T:
            async with asyncio.timeout_at(self._until_s):
                return await work()

        try:
            return self._runner.run(within())
        except TimeoutError:
            failure = f"did not answer within {BUDGET_S:.0f} s.{maybe}"
        except NotPermitted as error:
            failure = f"does not permit it: {_sentence(error)}"
        except StoreError as error:
            failure = f"{failure_line(self._url, error).rstrip('.')}.{'' if isinstance(error, NotApplied) else maybe}"
        raise click.ClickException(f"{self._place} {failure}{surely}")


def _valid(model: type[M], body: Mapping[str, object]) -> M:
    """The body, checked as the admin routes do."""
    try:
        return model.model_validate_json(json.dumps(body))
    except ValidationError as error:
        raise WrongInput(harmless(not_valid(field_errors(error)))) from None


def _sentence(error: StoreError) -> str:
    return f"{harmless(error).rstrip('.')}."


def _must_be_shared(settings: Settings) -> None:
    """Exit with a line if other processes cannot reach the store of these settings."""
    if "redis_url" not in settings.model_fields_set:
        raise WrongInput("SHIELD_REDIS_URL is not set: --direct needs the one that the workers were started with")
    if line := not_shared(settings.redis_url):
        raise WrongInput(line)
