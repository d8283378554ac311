"""Seats for requests that a proxy asks about before it forwards them."""

from __future__ import annotations

from starlette.types import Scope

from shieldmw.answers.rate_limit import Headers, limit_headers
from shieldmw.core.decision import ALLOWED, REFUSED, Decision
from shieldmw.core.facts import Facts
from shieldmw.core.rules import LEASE_SEAT_S
from shieldmw.gate.worker import Worker

from .tickets import renewed_headers, ticket_headers


def seated(worker: Worker, facts: Facts, decision: Decision, scope: Scope) -> tuple[Decision, Headers]:
    """The decision after taking a seat, if the request needs one, and the headers to add to an allowed response.

    A proxy asks before a response begins and does not say when it has ended, so the seat of a live response is a lease
    as well.
    """
    ticket = None
    if (decision.lease_s or decision.live) and decision.verdict is not REFUSED and not facts.preflight:
        as_poll = decision._replace(live=False, lease_s=decision.lease_s or LEASE_SEAT_S)
        decision, ticket = worker.polls.enter(facts, as_poll)
    worker.decided(facts, decision, scope["headers"])
    if decision.verdict is REFUSED:
        return decision, []
    headers = limit_headers(decision) if decision.verdict is ALLOWED else []
    if ticket is not None:
        headers += ticket_headers(ticket, scope, in_header=True)
    elif facts.signed_ticket is not None and not decision.lease_s:
        headers += renewed_headers(worker.entrance.admission, facts.signed_ticket, decision, scope)
    return decision, headers
