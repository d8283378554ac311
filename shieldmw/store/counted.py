"""Counts the calls of the store's scripts, by how they ended."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence

from shieldmw.core.metrics import CallResult
from shieldmw.errors import StoreUnavailable

from .scripts import Run

# Called with the script and the result of each call.
Called = Callable[[str, CallResult], None]


def counted(run: Run, called: Called) -> Run:
    """The same ``run``, reporting each call to ``called``."""

    async def run_and_count(script: str, keys: Sequence[str], arguments: Sequence[str | int | bytes]) -> object:
        result = CallResult.ERROR
        try:
            reply = await run(script, keys, arguments)
            result = CallResult.OK
            return reply
        except StoreUnavailable:
            result = CallResult.UNAVAILABLE
            raise
        except asyncio.CancelledError:
            result = CallResult.CANCELLED
            raise
        finally:
            called(script, result)

    return run_and_count
