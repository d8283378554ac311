"""What a decision means where a proxy asks about a request before it forwards it."""

from __future__ import annotations

from starlette.types import Scope

from shieldmw.answers.rate_limit import Headers, limit_headers
from shieldmw.core.decision import ALLOWED, REFUSED, Decision
from shieldmw.core.facts import Facts
from shieldmw.core.rules import LEASE_SEAT_S
from shieldmw.gate.worker import Worker

from .tickets import renewed_headers, ticket_headers


def seated(worker: Worker, facts: Facts, decision: Decision, scope: Scope) -> tuple[Decision, Headers]:
    """The decision once a seat was found, where one is needed, and the headers of the response if it is allowed.

    A proxy asks before a response begins and does not say when it has ended, so the seat of a live response is a lease
    as well.
    """
    ticket = None
    if (decision.lease_s or decision.live) and decision.verdict is not REFUSED and not facts.preflight:
        as_poll = decision._replace(live=False, lease_s=decision.lease_s or LEASE_SEAT_S)
        decision, ticket = worker.polls.enter(facts, as_poll)
    worker.counts.decided(decision)
    if decision.verdict is REFUSED:
        return decision, []
    headers = limit_headers(decision) if decision.verdict is ALLOWED else []
    if ticket is not None:
        headers += ticket_headers(ticket, scope, in_header=True)
    elif facts.signed_ticket is not None and not decision.lease_s:
        headers += renewed_headers(worker.entrance.admission, facts.signed_ticket, decision, scope)
    return decision, headers
