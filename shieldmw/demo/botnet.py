"""The botnet under every limit, as data: what each bot requests and how fast, and what the app can serve.

Only data, no I/O. Each bot stays below the limit of its address in both modes, so
no limit stops it: together they send several times the requests that the app can serve.
"""

from __future__ import annotations

from collections.abc import Mapping
from random import Random
from typing import Final

from shieldmw.rehearsal.load.crowd import Ask, Client, Group, Pace

BOTNET: Final = "botnet"

# Each from a loopback address of its own.
BOT_SOURCES: Final = tuple(f"127.0.{net}.{n}" for net in (6, 7) for n in range(1, 151))

# A bot has one request in flight at a time. In the emergency an address may send one a second.
BOT_PACE: Final = Pace(per_s=0.9)

# The app's capacity is bounded by a small pool, not by the machine, so that the verdict is the same on any. The pool is
# not even smaller, since quick requests need places in the app, too, and hold them longer on a busy machine.
PATH: Final = "/api/questions"
_CONNECTIONS: Final = 4
_QUERY_MS: Final = 80


def app_settings() -> Mapping[str, str]:
    """The settings of the served app that bound its capacity."""
    return {"LIVE_EVENT_DATABASE_CONNECTIONS": str(_CONNECTIONS), "LIVE_EVENT_QUERY_MS": str(_QUERY_MS)}


def app_can_do_per_s(workers: int) -> float:
    """The number of requests for ``PATH`` that ``workers`` workers can answer per second."""
    return workers * _CONNECTIONS * 1000 / _QUERY_MS


def botnet() -> Group:
    """All bots. A request that is late because an earlier answer took long is dropped."""
    return Group(BOTNET, tuple(Client(source, source, _ask) for source in BOT_SOURCES), impatient=True)


def _ask(_rng: Random) -> Ask:
    return Ask(PATH)
