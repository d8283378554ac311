"""Detects a shield inside another one: if both charged the same buckets, clients would have half of their limits."""

from __future__ import annotations

import logging
from typing import Any

from shieldmw.settings import Settings
from shieldmw.settings.store_url import scheme_of

from .facts import AuthenticateScope

log = logging.getLogger(__name__)


class Nesting:
    """Compares a shield with those around it, and logs the result once.

    - With the same setup, the inner one steps aside, and the outer one reports to the ``observers`` of both:
      ``shieldmw serve`` wraps an app that has the middleware, or the middleware was added twice.
    - With another setup but the same buckets, both decide: skipping a stricter one would lift a limit.
    - With a store or key prefix of its own, the inner one is intended: both decide, and nothing is logged.
    """

    def __init__(self, settings: Settings, authenticate: AuthenticateScope | None, observers: list[Any]) -> None:
        self._settings = settings
        self._authenticate = authenticate
        self._observers = observers
        self._outer: Nesting | None = None
        self._aside = False

    def steps_aside(self, outer: Nesting) -> bool:
        """Whether ``outer`` makes this shield superfluous."""
        if self._outer is not outer:
            same = self._authenticate is outer._authenticate and self._settings == outer._settings
            self._outer, self._aside = outer, same
            if same:
                outer._observers += [one for one in self._observers if one not in outer._observers]
            self._say(outer)
        return self._aside

    def _shares_buckets(self, outer: Nesting) -> bool:
        mine, theirs = self._settings, outer._settings
        if scheme_of(mine.redis_url) == "memory":  # each instance has buckets of its own
            return False
        return (mine.redis_url, mine.key_prefix) == (theirs.redis_url, theirs.key_prefix)

    def _say(self, outer: Nesting) -> None:
        if self._aside:
            log.info(
                "the app is inside a shield with the same settings already (shieldmw serve, or added twice): "
                "the inner one steps aside, the outer one reports to its observers"
            )
        elif self._shares_buckets(outer):
            log.warning(
                "the app is inside a shield with other settings but the same buckets: both charge them. Leave one out "
                "(uvicorn instead of shieldmw serve, for one), or give the inner one another SHIELD_KEY_PREFIX"
            )
