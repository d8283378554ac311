"""The two RateLimit fields of an answer (draft-ietf-httpapi-ratelimit-headers-10)."""

from __future__ import annotations

from shieldmw.core.bucket import Costs, remaining
from shieldmw.core.decision import Decision, nearest
from shieldmw.core.limits import US_PER_S, Limit

Headers = list[tuple[bytes, bytes]]


def limit_headers(decision: Decision) -> Headers:
    """``RateLimit-Policy`` of all limits charged, and ``RateLimit`` of the one nearest to exhaustion."""
    outcome = decision.outcome
    if outcome is None or not outcome.tats_us:
        return []
    charges, at = decision.charges, 0
    if len(charges) == 1:
        _, policies, rate = _fields(charges[0].limit)
    else:
        at = nearest(charges, outcome)
        policies, rate = _policies(charges), _fields(charges[at].limit)[2]
    limit, full_after_us = charges[at].limit, outcome.tats_us[at] - outcome.now_us
    seconds = -(-full_after_us // US_PER_S) if full_after_us > 0 else 0
    return [(b"ratelimit-policy", policies), (b"ratelimit", rate % (remaining(limit, full_after_us), seconds))]


# By name, with the limit itself: in an emergency another limit has the same name. A dictionary of names is much faster
# than ``lru_cache``, which would hash and compare whole limits.
_rendered: dict[str, tuple[Limit, bytes, bytes]] = {}


def _fields(limit: Limit) -> tuple[Limit, bytes, bytes]:
    """A limit, its part of ``RateLimit-Policy``, and its ``RateLimit`` with room for the units and seconds left."""
    known = _rendered.get(limit.name)
    if known is not None and known[0] is limit:
        return known
    burst = "" if limit.burst == limit.amount else f";burst={limit.burst}"
    policy = f'"{limit.name}";q={limit.amount};w={limit.period_s}{burst}'.encode("latin-1")
    rate = f'"{limit.name}"'.encode("latin-1").replace(b"%", b"%%") + b";r=%d;t=%d"
    _rendered[limit.name] = rendered = (limit, policy, rate)
    return rendered


# By identity, with what was joined: all requests under one plan have the same terms.
_joined: dict[int, tuple[Costs, bytes]] = {}
JOINED_KEPT = 1024


def _policies(charges: Costs) -> bytes:
    """``RateLimit-Policy`` of several limits."""
    known = _joined.get(id(charges))
    if known is not None and known[0] is charges:
        return known[1]
    policies = b", ".join([_fields(charge.limit)[1] for charge in charges])
    if len(_joined) >= JOINED_KEPT:
        _joined.clear()
    _joined[id(charges)] = charges, policies
    return policies
