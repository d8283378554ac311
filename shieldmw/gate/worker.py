"""A worker: the shield of one process, as far as it belongs to one event loop."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from .gate import Gate
from .limiter.limiter import Limiter
from .operator.control import Control
from .overload.overload import Overload
from .seats.entrance import Entrance


class Background(Protocol):
    """A background task of a worker."""

    async def start(self) -> None:
        """Start; returns soon, whatever fails."""

    async def stop(self) -> None:
        """Stop."""


class Worker:
    """Owns the gate and all that lives beside it. ``start`` before the first request, ``stop`` after the last; both
    can be repeated.
    """

    def __init__(
        self,
        gate: Gate,
        limiter: Limiter,
        entrance: Entrance,
        overload: Overload | None,
        control: Control,
        background: Sequence[Background],
    ) -> None:
        self.gate = gate
        self.entrance = entrance
        self.overload = overload
        self.control = control
        self._limiter = limiter
        self._background = tuple(background)

    async def start(self) -> None:
        """Start the background tasks. Never fails because the store or another server is away."""
        for background in self._background:
            await background.start()

    async def stop(self) -> None:
        """Stop the background tasks, and close the connections."""
        for background in reversed(self._background):
            await background.stop()
        await self._limiter.aclose()
