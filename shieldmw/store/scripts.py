"""The Lua scripts as typed functions: what goes in, and what their replies must look like."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from importlib.resources import files

from shieldmw.core.bucket import Charge, Outcome
from shieldmw.errors import StoreError

Call = Callable[[Sequence[str], Sequence[int]], Awaitable[object]]


def source(name: str) -> str:
    """The text of ``lua/<name>.lua``."""
    return files("shieldmw.store").joinpath("lua", f"{name}.lua").read_text("ascii")


async def take(call: Call, keys: Sequence[str], charges: Sequence[Charge]) -> Outcome:
    """Run ``take.lua`` on the buckets of the charges.

    Raises:
        StoreError: the reply is none of that script's.
    """
    arguments = [number for charge in charges for number in (charge.limit.unit_us, charge.limit.tau_us, charge.cost)]
    reply = await call(keys, arguments)
    if not isinstance(reply, list) or len(reply) != 2 + len(keys) or any(type(n) is not int for n in reply):
        raise StoreError(f"take.lua returned {reply!r:.200}: expected {2 + len(keys)} whole numbers")
    allowed, now_us, *tats_us = reply
    return Outcome(allowed == 1, now_us, tuple(tats_us))
