"""``made`` creates the same values as the classes themselves, with every field."""

from __future__ import annotations

import ast
import asyncio
import importlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pytest

import shieldmw
from core.addresses import packed
from core.plans import charges_of
from shieldmw import Identity
from shieldmw.answers.refusals import Answer
from shieldmw.core.address import Located
from shieldmw.core.bucket import Charge, Outcome, TakeRequest
from shieldmw.core.client import Client, Prefixes
from shieldmw.core.decision import Decision, Reason, Verdict, combine
from shieldmw.core.facts import Facts
from shieldmw.core.lease import Lease
from shieldmw.core.limits import Limit
from shieldmw.core.mode import Mode
from shieldmw.core.plan import Requester
from shieldmw.core.rules import Policy, RouteRules, Scope
from shieldmw.doors.proxy import passage as proxy
from shieldmw.doors.proxy.heads import RequestHead
from shieldmw.doors.proxy.http1 import ResponseHead
from shieldmw.gate.limiter.batch import TakeReply
from shieldmw.store import scripts

ROOT = Path(shieldmw.__file__).parent
ADDRESS = packed("203.0.113.7")
ALICE = Identity("alice")
IP = Limit("ip", 10, 1, 10)
GUEST = Client("ip", "203.0.113.7/32", "ip:203.0.113.7/32")
CHARGES = (Charge(GUEST, IP),)
S = 1_000_000


class Use(NamedTuple):
    """One ``made(...)`` in the source."""

    where: str
    kind: Any
    values: ast.expr


def uses() -> Iterator[Use]:
    """All of them."""
    for path in sorted(ROOT.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "made":
                name = ".".join((shieldmw.__name__, *path.relative_to(ROOT).with_suffix("").parts))
                kind, values = node.args
                assert isinstance(kind, ast.Name)
                yield Use(f"{name}:{node.lineno}", getattr(importlib.import_module(name), kind.id), values)


USES = list(uses())


@pytest.mark.parametrize("use", USES, ids=[use.where for use in USES])
def test_each_has_as_many_values_as_its_class_has_fields(use: Use) -> None:
    """Written out, so that one can count them; a new field must be added there too."""
    assert isinstance(use.values, ast.Tuple)
    assert not any(isinstance(value, ast.Starred) for value in use.values.elts)
    assert len(use.values.elts) == len(use.kind._fields)


def test_the_uses_are_found() -> None:
    """The classes whose values are driven below, and those whose fields are only put together."""
    driven = {Outcome, Client, Decision, Charge}
    assert {use.kind for use in USES} == driven | {
        Answer,
        TakeRequest,
        TakeReply,
        Located,
        Requester,
        Facts,
        ResponseHead,
        RequestHead,
        proxy.Client,
    }


def the_same(value: Any, by_class: Any) -> None:
    """Equal, of one class, and of one type in each field."""
    assert type(value) is type(by_class)
    assert value == by_class
    assert len(value) == len(type(value)._fields)
    assert list(map(type, value)) == list(map(type, by_class))
    assert value._asdict() == by_class._asdict()


def test_a_decision() -> None:
    """On what is allowed; live or not, of a guest or a member."""
    outcome = Outcome(True, S, (2 * S,))
    for identity, mode, live in ((None, Mode.NORMAL, False), (ALICE, Mode.EMERGENCY, True)):
        by_class = Decision(
            verdict=Verdict.ALLOWED,
            reason=Reason.WITHIN_LIMITS,
            address=ADDRESS,
            identity=identity,
            charges=CHARGES,
            outcome=outcome,
            mode=mode,
            live=live,
            lease_s=30,
        )
        the_same(combine(CHARGES, outcome, ADDRESS, identity, mode, live, 30), by_class)


def test_clients_and_charges() -> None:
    """The client of an IPv4 address; a cost is at most the burst."""
    prefixes = Prefixes(24, 64)
    clients = prefixes.clients(ADDRESS)
    the_same(clients.network, Client(kind="ip", text="203.0.113.0/24", slot="ip:203.0.113.0/24"))
    for cost, charged in ((1, 1), (9, 9), (11, 10)):
        (charge,) = charges_of(Policy({Scope.IP: (IP,)}), RouteRules(cost=cost), None, ADDRESS, prefixes=prefixes)
        the_same(charge, Charge(client=clients.network, limit=IP, cost=charged))


def test_outcomes() -> None:
    """Spent from a lease, and told by a script."""
    lease = Lease(CHARGES, Outcome(True, S, (S + 5 * IP.unit_us,), leased=4))
    spent = lease.spend(S)
    the_same(spent, Outcome(allowed=True, now_us=S, tats_us=(S + 2 * IP.unit_us,), leased=0, refundable=0))

    async def reply(name: str, keys: Sequence[str], arguments: Sequence[Any]) -> Any:
        return [S, 3, 7 * S, 0, 8 * S, -1, 9 * S]

    outcomes = asyncio.run(scripts.take(reply, [TakeRequest(CHARGES)] * 3, lambda charge: charge.bucket))
    by_class = [
        Outcome(allowed=True, now_us=S, tats_us=(7 * S,), leased=3),
        Outcome(allowed=True, now_us=S, tats_us=(8 * S,)),
        Outcome(allowed=False, now_us=S, tats_us=(9 * S,)),
    ]
    for outcome, expected in zip(outcomes, by_class, strict=True):
        the_same(outcome, expected)
