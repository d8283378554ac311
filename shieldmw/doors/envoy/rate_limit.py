"""Envoy's global rate limit service (v3): whether descriptors still fit their limits."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from google.protobuf.message import DecodeError

from shieldmw.answers.rate_limit import Headers, limit_headers
from shieldmw.answers.refusals import RefusalAnswers
from shieldmw.core.bucket import LimitStatus
from shieldmw.core.decision import ALLOWED, Decision, Reason, Verdict, nearest
from shieldmw.core.limits import US_PER_S
from shieldmw.gate.worker import Worker

from .protos.rate_limit_pb2 import RateLimitDescriptor, RateLimitRequest, RateLimitResponse
from .server import MalformedMessage

# Envoy makes it itself.
_OF_ENVOY = b"content-length"

_NS_PER_US = 1000

_UNITS = {
    1: RateLimitResponse.RateLimit.SECOND,
    60: RateLimitResponse.RateLimit.MINUTE,
    3600: RateLimitResponse.RateLimit.HOUR,
    86_400: RateLimitResponse.RateLimit.DAY,
    30 * 86_400: RateLimitResponse.RateLimit.MONTH,
    360 * 86_400: RateLimitResponse.RateLimit.YEAR,
}
_LARGEST = 2**32 - 1


_STRICTEST_FIRST = (Verdict.REFUSED, Verdict.DRY_RUN, Verdict.ALLOWED)

# Counted where no descriptor means a limit.
_UNLIMITED = Decision(Verdict.ALLOWED, Reason.UNLIMITED, None)


class RateLimit:
    """Answers what Envoy asks about descriptors. Each is charged by itself, also beside one that is over its limit."""

    def __init__(self, worker: Worker, answers: RefusalAnswers) -> None:
        self._worker = worker
        self._named_limits = worker.named_limits
        self._answers = answers

    async def check(self, message: bytes) -> bytes:
        """Answer a RateLimitRequest."""
        try:
            asked = RateLimitRequest.FromString(message)
        except DecodeError:
            raise MalformedMessage from None
        questions = [
            self._named_limits.decide(
                asked.domain, [(entry.key, entry.value) for entry in descriptor.entries], _hits(asked, descriptor)
            )
            for descriptor in asked.descriptors
        ]
        # Several are asked together, so that they share a call to the store; for one a task would be a waste.
        decisions = [await questions[0]] if len(questions) == 1 else await asyncio.gather(*questions)
        self._count(asked, decisions)
        return self._answer(decisions)

    def _count(self, asked: RateLimitRequest, decisions: Sequence[Decision | None]) -> None:
        """Count one request: by the first descriptor that refuses it, in a dry run would, or limits it.

        One of 0 hits, which is about requests that have not been made, only if it refuses.
        """
        told = [
            (_strictness(decision), at, decision)
            for at, decision in enumerate(decisions)
            if _hits(asked, asked.descriptors[at]) or (decision is not None and decision.verdict is not ALLOWED)
        ]
        if told:
            _, at, decision = min(told, key=lambda one: one[:2])
            entries = [(entry.key, entry.value) for entry in asked.descriptors[at].entries]
            self._worker.decided(self._named_limits.facts(entries), decision or _UNLIMITED, ())

    def _answer(self, decisions: Sequence[Decision | None]) -> bytes:
        response = RateLimitResponse(overall_code=RateLimitResponse.OK)
        for decision in decisions:
            _describe(decision, response.statuses.add(code=RateLimitResponse.OK))
        headers: Headers = []
        refused = [decision for decision in decisions if decision is not None and decision.refused]
        if refused:
            response.overall_code = RateLimitResponse.OVER_LIMIT
            last = max(refused, key=lambda decision: decision.retry_after_us)
            _, headers, response.raw_body = self._answers.answer(last, wants_html=False)
        else:
            limited = [decision for decision in decisions if decision is not None and decision.verdict is ALLOWED]
            if limited:
                headers = limit_headers(min(limited, key=_share_left))
        for name, value in headers:
            if name != _OF_ENVOY:
                response.response_headers_to_add.add(key=name.decode("latin-1"), value=value.decode("latin-1"))
        return response.SerializeToString()


def _hits(asked: RateLimitRequest, descriptor: RateLimitDescriptor) -> int:
    """How many requests a descriptor counts for. Only its own number can be 0, which in the request's is none."""
    if descriptor.HasField("hits_addend"):
        return descriptor.hits_addend.value
    return asked.hits_addend or 1


def _strictness(decision: Decision | None) -> int:
    if decision is None:
        return len(_STRICTEST_FIRST)
    return _STRICTEST_FIRST.index(decision.verdict)


def _describe(decision: Decision | None, status: RateLimitResponse.DescriptorStatus) -> None:
    """Fill in what is known of a descriptor: nothing for one that means no limit."""
    if decision is None:
        return
    if decision.refused:
        status.code = RateLimitResponse.OVER_LIMIT
    bucket = _nearest(decision)
    if bucket is None:
        return
    limit = bucket.limit
    status.current_limit.name = limit.name
    status.current_limit.requests_per_unit = min(limit.amount, _LARGEST)
    status.current_limit.unit = _UNITS.get(limit.period_s, RateLimitResponse.RateLimit.UNKNOWN)
    status.limit_remaining = min(bucket.remaining, _LARGEST)
    seconds, us = divmod(bucket.full_after_us, US_PER_S)
    status.duration_until_reset.seconds, status.duration_until_reset.nanos = seconds, us * _NS_PER_US


def _nearest(decision: Decision) -> LimitStatus | None:
    """The bucket nearest to exhaustion."""
    if decision.outcome is None or not decision.charges:
        return None
    return decision.statuses[nearest(decision.charges, decision.outcome)]


def _share_left(decision: Decision) -> float:
    bucket = _nearest(decision)
    return 1.0 if bucket is None else bucket.remaining / bucket.limit.burst
