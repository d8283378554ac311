"""The rate limit service: a question with descriptors in, an answer for each of them out."""

from __future__ import annotations

import json

import pytest

from doors.asgi.harness import run
from shieldmw import Settings
from shieldmw.core.metrics import DECISIONS, cell
from shieldmw.core.top import Kind
from shieldmw.doors.envoy.protos.rate_limit_pb2 import RateLimitRequest, RateLimitResponse
from shieldmw.doors.envoy.rate_limit import RateLimit
from shieldmw.doors.envoy.server import MalformedMessage
from shieldmw.gate.worker import Worker
from shieldmw.store.opener import store_opener
from shieldmw.wiring import build_worker
from shieldmw.wiring.doors import replies_of

RULES = json.dumps(
    [
        {"name": "search", "path": "/search/*", "limits": "2/hour"},
        {"name": "odd", "path": "/odd", "limits": "5 per 10 second"},
    ]
)
OK, OVER = RateLimitResponse.OK, RateLimitResponse.OVER_LIMIT
ADDRESS = {"remote_address": "203.0.113.7"}
SEARCH = {"generic_key": "search"}


def asked(*descriptors: dict[str, str], hits: int = 0, own_hits: dict[int, int] | None = None) -> bytes:
    """A question; ``own_hits`` by the index of the descriptor."""
    request = RateLimitRequest(domain="web", hits_addend=hits)
    for at, entries in enumerate(descriptors):
        descriptor = request.descriptors.add()
        for key, value in entries.items():
            descriptor.entries.add(key=key, value=value)
        if own_hits and at in own_hits:
            descriptor.hits_addend.value = own_hits[at]
    return request.SerializeToString()


def told(*questions: bytes) -> list[RateLimitResponse]:
    """The answers to these questions, one after the other."""
    return answered_by(*questions)[0]


def answered_by(*questions: bytes, dry_run: bool = False) -> tuple[list[RateLimitResponse], Worker]:
    """The same, with the worker that answered."""

    async def telling() -> tuple[list[RateLimitResponse], Worker]:
        settings = Settings(ip_limit="4/minute", rules=RULES, dry_run=dry_run)
        worker = build_worker(settings, store_opener(settings)())
        service = RateLimit(worker, replies_of(settings).answers)
        await worker.start()
        try:
            return [RateLimitResponse.FromString(await service.check(question)) for question in questions], worker
        finally:
            await worker.stop()

    return run(telling())


def headers(response: RateLimitResponse) -> dict[str, str]:
    return {line.key: line.value for line in response.response_headers_to_add}


def test_each_descriptor_has_a_status() -> None:
    """The limit that it is nearest to, what is left of it, and when it is full again; nothing for an unknown one."""
    (response,) = told(asked(ADDRESS, SEARCH, {"generic_key": "nothing"}))
    first, second, third = response.statuses
    assert response.overall_code == OK
    assert [status.code for status in response.statuses] == [OK, OK, OK]
    limit = first.current_limit
    assert (limit.name, limit.requests_per_unit, limit.unit) == ("ip", 4, RateLimitResponse.RateLimit.MINUTE)
    assert (first.limit_remaining, first.duration_until_reset.seconds) == (3, 15)
    limit = second.current_limit
    assert (limit.name, limit.requests_per_unit, limit.unit) == ("search", 2, RateLimitResponse.RateLimit.HOUR)
    assert not third.HasField("current_limit")
    assert headers(response) == {
        "ratelimit-policy": '"search";q=2;w=3600',  # of the descriptor with the smaller share left
        "ratelimit": '"search";r=1;t=1800',
    }
    assert response.raw_body == b""


def test_one_over_its_limit_makes_a_refusal_of_all() -> None:
    """The others are charged all the same; the client is told of the longest wait, in headers and body."""
    *_, response, after = told(*[asked(SEARCH, ADDRESS)] * 3, asked(ADDRESS))
    assert response.overall_code == OVER
    assert [status.code for status in response.statuses] == [OVER, OK]
    problem = json.loads(response.raw_body)
    assert (problem["status"], problem["violated-policies"]) == (429, ["search"])
    found = headers(response)
    assert found["content-type"] == "application/problem+json"
    assert int(found["retry-after"]) * 1000 >= problem["retry_after_ms"] > 1_700_000
    assert "content-length" not in found
    assert after.statuses[0].limit_remaining == 0


@pytest.mark.parametrize(
    ("hits", "own", "left"), [(0, None, 1), (2, None, 0), (0, {0: 0}, 2), (2, {0: 1}, 1), (1, {0: 0}, 2)]
)
def test_hits(hits: int, own: dict[int, int] | None, left: int) -> None:
    """Absent is 1; a descriptor's own wins, and only that one can be 0, which charges nothing."""
    (response,) = told(asked(SEARCH, hits=hits, own_hits=own))
    assert response.statuses[0].limit_remaining == left


def test_a_period_that_envoy_has_no_name_for() -> None:
    """Its unit is unknown, its name says which limit it is."""
    (response,) = told(asked({"generic_key": "odd"}))
    limit = response.statuses[0].current_limit
    assert (limit.name, limit.requests_per_unit, limit.unit) == ("odd", 5, RateLimitResponse.RateLimit.UNKNOWN)


def test_no_descriptors() -> None:
    """Nothing is asked, so nothing is over a limit."""
    (response,) = told(b"")
    assert (response.overall_code, len(response.statuses)) == (OK, 0)


def test_what_is_no_question_is_said_to_be_none() -> None:
    """Bytes that are no RateLimitRequest."""
    with pytest.raises(MalformedMessage):
        told(b"\xff\xff")


def counted(worker: Worker) -> dict[tuple[str, str], int]:
    """The decisions of guests that were counted, by outcome and reason."""
    found = {(outcome, reason): worker._decided.counts.cells[cell(DECISIONS, outcome, reason, "guest")]
             for outcome, reason, name in DECISIONS.series if name == "guest"}  # fmt: skip
    return {labels: int(count) for labels, count in found.items() if count}


def test_each_question_is_counted_once() -> None:
    """By its strictest descriptor; one about no hits only if it refuses."""
    questions = [
        *(asked(ADDRESS, SEARCH), asked(SEARCH), asked(ADDRESS, SEARCH)),  # the third is refused
        *(asked({"generic_key": "nothing"}), asked(SEARCH, own_hits={0: 0}), asked()),
    ]
    _, worker = answered_by(*questions)
    assert counted(worker) == {("allowed", "within_limits"): 2, ("allowed", "unlimited"): 1, ("refused", "quota"): 2}
    _, requests, refusals = worker._decided.tallies(10)
    assert (requests.total, refusals.total) == (5, 2)
    assert refusals.of[Kind.PATH].counts == {"generic_key=search": 2}


def test_a_look_that_refuses_is_counted() -> None:
    """Envoy refuses the request for it; a descriptor beside it that fits lets nothing in."""
    taken = asked(SEARCH, hits=2)
    look = asked(SEARCH, own_hits={0: 0})
    both = asked(SEARCH, ADDRESS, own_hits={0: 0})
    _, worker = answered_by(taken, look, both)
    assert counted(worker) == {("allowed", "within_limits"): 1, ("refused", "quota"): 2}


def test_in_a_dry_run_what_would_be_refused_is_counted_as_such() -> None:
    """As with other doors."""
    _, worker = answered_by(*[asked(SEARCH)] * 3, dry_run=True)
    assert counted(worker) == {("allowed", "within_limits"): 2, ("dry_run", "quota"): 1}
