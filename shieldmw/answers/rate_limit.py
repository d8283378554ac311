"""The two RateLimit fields of an answer (draft-ietf-httpapi-ratelimit-headers-10)."""

from __future__ import annotations

from collections.abc import Sequence

from shieldmw.core.bucket import Costs, remaining
from shieldmw.core.decision import Decision, nearest
from shieldmw.core.limits import US_PER_S, Limit

Headers = list[tuple[bytes, bytes]]


def limit_headers(decision: Decision) -> Headers:
    """``RateLimit-Policy`` of all limits charged, and ``RateLimit`` of the one nearest to exhaustion."""
    outcome = decision.outcome
    if outcome is None or not outcome.tats_us:
        return []
    charges = decision.charges
    known = _fields_of.get(id(charges))
    if known is None or known[0] is not charges:
        known = _fields(charges)
    _, policies, rates = known
    at = nearest(charges, outcome) if len(rates) > 1 else 0
    rate, full_after_us = rates[at], outcome.tats_us[at] - outcome.now_us
    seconds = -(-full_after_us // US_PER_S) if full_after_us > 0 else 0
    return [policies, (b"ratelimit", rate % (remaining(charges[at].limit, full_after_us), seconds))]


# The charges, the header with their policies, and for each charge a format of ``RateLimit`` for the units and seconds.
_Fields = tuple[Costs, tuple[bytes, bytes], Sequence[bytes]]

# Keyed by the identity of the charges, which all requests under one plan share; the value keeps them alive. Cleared
# once it has ``FIELDS_KEPT`` entries.
_fields_of: dict[int, _Fields] = {}
FIELDS_KEPT = 1024


def _fields(charges: Costs) -> _Fields:
    policies = b", ".join([_policy(charge.limit) for charge in charges])
    rates = [_rate(charge.limit) for charge in charges]
    if len(_fields_of) >= FIELDS_KEPT:
        _fields_of.clear()
    fields = _fields_of[id(charges)] = (charges, (b"ratelimit-policy", policies), rates)
    return fields


def _policy(limit: Limit) -> bytes:
    burst = "" if limit.burst == limit.amount else f";burst={limit.burst}"
    return f'"{limit.name}";q={limit.amount};w={limit.period_s}{burst}'.encode("latin-1")


def _rate(limit: Limit) -> bytes:
    return f'"{limit.name}"'.encode("latin-1").replace(b"%", b"%%") + b";r=%d;t=%d"
