"""One line for each refused client's request, for programs that ban addresses, such as fail2ban."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable

from shieldmw.core.address import Networks
from shieldmw.core.bucket import Charge, Party, Term
from shieldmw.core.client import address_text
from shieldmw.core.decision import Decision, Reason
from shieldmw.core.facts import Facts
from shieldmw.gate.events import Evicted

log = logging.getLogger("shieldmw.refused")

# Longest path in a line, in characters.
LONGEST_PATH = 200


class RefusedClients:
    """Writes ``refused client=203.0.113.7 reason=quota whose=own policies=ip class=guest path="/x"`` at level INFO.

    In a dry run the first word is ``dry_run``. ``whose`` is ``own`` if a limit of the client itself refused, ``shared``
    if only limits did that it shares with others. Only the path is the client's text: it is last, quoted and ASCII, so
    that no request can add a line, or a field before it.

    Args:
        per_second: the most lines in a second. What is left out is counted in a line of its own, ``left_out count=5``.
        proxies: the trusted ones, of which there is no line: a refused request that names no client counts as theirs.
        now_s: a clock.
    """

    def __init__(self, per_second: int, proxies: Networks, now_s: Callable[[], float] = time.monotonic) -> None:
        self._per_second = per_second
        self._proxies = proxies
        self._now_s = now_s
        self._second = float("-inf")
        self._written = 0
        self._left_out = 0

    def decided(self, facts: Facts, decision: Decision) -> None:
        """Write a line if the client's address is known."""
        address = decision.address
        if address is None or address in self._proxies or not self._has_room():
            return
        log.info(
            "%s client=%s reason=%s whose=%s policies=%s class=%s path=%s",
            decision.verdict.value,
            address_text(address),
            decision.reason.value,
            "own" if _is_its_own(decision) else "shared",
            ",".join(decision.violated) or "-",
            decision.listener_class.value,
            json.dumps(facts.path[:LONGEST_PATH]),
        )

    def evicted(self, event: Evicted) -> None:
        """Nothing: listeners that must leave have done nothing wrong."""

    def _has_room(self) -> bool:
        """Whether another line may be written in this second."""
        now_s = self._now_s()
        if now_s - self._second >= 1:
            self._second, self._written = now_s, 0
            if self._left_out:
                log.info("left_out count=%d", self._left_out)
                self._left_out = 0
        if self._written >= self._per_second:
            self._left_out += 1
            return False
        self._written += 1
        return True


def _is_its_own(decision: Decision) -> bool:
    """Whether the client itself is the cause: it is denied, or a limit of its own has refused it."""
    if decision.reason is not Reason.QUOTA:
        return decision.reason is Reason.DENY_LIST
    charges = decision.charges
    return any(status.retry_after_us and not _is_of_many(charges[at]) for at, status in enumerate(decision.statuses))


def _is_of_many(cost: Charge | Term) -> bool:
    """Whether clients that have nothing to do with one another share the limit. A site's addresses do not count."""
    return cost.client.kind == "shared" if isinstance(cost, Charge) else cost.party is Party.MANY
