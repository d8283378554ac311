"""The operator of a drill: flips the switch through the admin routes, and reads the status of the fleet."""

from __future__ import annotations

import json
import time
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Final

import aiohttp

from shieldmw.errors import ShieldError

_TIMEOUT: Final = aiohttp.ClientTimeout(total=5)


class NotObeyed(ShieldError):
    """The admin route did not answer, or refused. The message says what it answered."""


@dataclass(frozen=True, slots=True)
class Flip:
    """An emergency that was started. Seconds of the local monotonic clock."""

    asked_s: float
    answered_s: float
    ends_s: float


class Operator:
    """Client of the admin routes below ``url``, with the admin token."""

    def __init__(self, url: str, token: str) -> None:
        self._url = url
        headers = {"Authorization": f"Bearer {token}", "Shield-Actor": "demo"}
        self._session = aiohttp.ClientSession(headers=headers, timeout=_TIMEOUT)

    async def __aenter__(self) -> Operator:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._session.close()

    async def emergency(self, for_seconds: int, reason: str) -> Flip:
        """Start an emergency that ends by itself.

        Raises:
            NotObeyed: anything but the new status came back.
        """
        asked_s = time.monotonic()
        status = await self._ask("PUT", "/mode", mode="emergency", for_seconds=for_seconds, reason=reason)
        answered_s = time.monotonic()
        left_s = float(status["until"]) - float(status["now"])
        return Flip(asked_s, answered_s, answered_s + left_s)

    async def status(self) -> dict[str, Any]:
        """The status of the fleet, as known to the worker that answers.

        Raises:
            NotObeyed: anything but a status came back.
        """
        return await self._ask("GET", "/status")

    async def _ask(self, method: str, path: str, **members: object) -> dict[str, Any]:
        asked = f"{method} {path}"
        try:
            async with self._session.request(method, self._url + path, json=members or None) as answer:
                body = await answer.text()
        except (aiohttp.ClientError, OSError, TimeoutError) as error:
            raise NotObeyed(f"{asked} got no answer: {error!r}") from error
        if answer.status != 200:
            raise NotObeyed(f"{asked} was answered {answer.status}: {body[:200]}")
        return dict(json.loads(body))
