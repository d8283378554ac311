"""Charges in a cluster: requests in the same hash slot share a call; charges in several slots are taken in turn.

Buckets of clients with the same ``slot`` are in one hash slot. Requests are grouped by slot, and the calls for all
groups are made concurrently. Charges that no single call can take are taken one after the other, the narrowest bucket
first, and refunded if a later one refuses: slot by slot for a request with charges in several slots, bucket by bucket
while a slot is moving.

**Invariant:** no lease depends on a charge that may be refunded. A request with charges in several slots prefetches
nothing. And since all workers have the same policy, all requests that charge a bucket which is not the last in turn
have their charges in the same slots, so that bucket is never leased. Only in a slot that is moving can there be a
lease; there a charge is refunded only if no other request has charged the bucket since.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Sequence
from contextlib import suppress
from itertools import groupby
from typing import TypeVar

from shieldmw.core.bucket import Charge, Charges, Outcome, TakeRequest, joined
from shieldmw.core.debts import Debt
from shieldmw.core.lease import Unspent
from shieldmw.errors import StoreError
from shieldmw.store import scripts
from shieldmw.store.port import PartialFailure
from shieldmw.store.scripts import KeyOf, Run

from .redis.calls import TryAgain

Result = Outcome | StoreError
Change = TypeVar("Change", Unspent, Debt)


# --- the plan: pure


def groups(requests: Sequence[TakeRequest]) -> list[list[int]]:
    """The indexes of the requests that share a call, in their order; a request with several slots is alone."""
    together: dict[object, list[int]] = {}
    for place, request in enumerate(requests):
        slots = {charge.client.slot for charge in request.charges}
        together.setdefault(slots.pop() if len(slots) == 1 else place, []).append(place)
    return list(together.values())


def parts(charges: Charges) -> list[Charges]:
    """The charges slot by slot, in their order."""
    return [tuple(part) for _, part in groupby(charges, key=lambda charge: charge.client.slot)]


def looks(charges: Charges) -> Charges:
    """The same charges at no cost."""
    return tuple([charge._replace(cost=0) for charge in charges])


def before(charges: Charges, outcome: Outcome) -> Outcome:
    """The outcome of charges that were taken and refunded."""
    tats_us = [tat_us - charge.step_us for charge, tat_us in zip(charges, outcome.tats_us, strict=True)]
    return outcome._replace(tats_us=tuple(tats_us))


def in_turn(outcomes: Sequence[Outcome]) -> Outcome:
    """The outcome of parts that were taken in turn: the charges of all but the last may still be refunded."""
    outcome = joined(outcomes)
    return outcome._replace(refundable=len(outcome.tats_us) - len(outcomes[-1].tats_us))


# --- the calls


async def take(run: Run, requests: Sequence[TakeRequest], key_of: KeyOf) -> list[Outcome]:
    """Take each request's charges, all or nothing; in order if they are in one slot.

    Raises:
        PartialFailure: some requests have an outcome, others failed.
        StoreError: all failed.
    """
    results: list[Result] = [StoreError("not asked")] * len(requests)

    async def take_group(places: Sequence[int]) -> None:
        for place, result in zip(places, await _group(run, [requests[place] for place in places], key_of), strict=True):
            results[place] = result

    await asyncio.gather(*(take_group(places) for places in groups(requests)))
    failures = [result for result in results if isinstance(result, StoreError)]
    if failures and len(failures) == len(results):
        raise failures[0]
    if failures:
        raise PartialFailure(results)
    return [result for result in results if isinstance(result, Outcome)]


async def give_back(run: Run, unspent: Sequence[Unspent], key_of: KeyOf) -> None:
    """Give back leases; a bucket that cannot be reached, or whose slot is moving, refills by itself.

    Raises:
        StoreError: nothing could be given back.
    """
    await _each_slot(unspent, lambda group: scripts.give_back(run, group, key_of))


async def settle(run: Run, debts: Sequence[Debt], now_us: int, worker: str, key_of: KeyOf) -> Sequence[Debt]:
    """Charge a worker's debts. Returns the debts whose charge is unconfirmed.

    Raises:
        StoreError: no charge is confirmed.
    """
    return await _each_slot(debts, lambda group: scripts.settle(run, group, now_us, worker, key_of))


def _by_slot(changes: Sequence[Change]) -> Iterable[Sequence[Change]]:
    """The changes of buckets, grouped by slot."""
    found: dict[str, list[Change]] = {}
    for change in changes:
        found.setdefault(change.charge.client.slot, []).append(change)
    return found.values()


async def _each_slot(
    changes: Sequence[Change], call: Callable[[Sequence[Change]], Awaitable[object]]
) -> Sequence[Change]:
    """Make a call for each slot, all at once. Returns the changes of the calls that failed; raises if all did."""
    groups = list(_by_slot(changes))
    results = await asyncio.gather(*map(call, groups), return_exceptions=True)
    ended = zip(groups, results, strict=True)
    failed = [(group, result) for group, result in ended if isinstance(result, BaseException)]
    if failed and len(failed) == len(groups):
        raise failed[0][1]
    return [change for group, _ in failed for change in group]


async def _group(run: Run, requests: Sequence[TakeRequest], key_of: KeyOf) -> Sequence[Result]:
    """The results of requests that share a call."""
    try:
        apart = parts(requests[0].charges)
        if len(apart) > 1:
            return [await _in_turn(run, apart, key_of, scripts.refund)]
        return await scripts.take(run, requests, key_of)
    except TryAgain:
        return [await _by_bucket(run, request, key_of) for request in requests]
    except StoreError as error:
        return [type(error)(*error.args) for _ in requests]


async def _by_bucket(run: Run, request: TakeRequest, key_of: KeyOf) -> Result:
    """The result of a request whose slot is moving."""
    try:
        if len(request.charges) == 1:
            return (await scripts.take(run, [request], key_of))[0]
        return await _in_turn(run, [(charge,) for charge in request.charges], key_of, _refund_untouched)
    except StoreError as error:
        return error


Refund = Callable[[Run, Charge, int, int, KeyOf], Awaitable[object]]


async def _in_turn(run: Run, apart: Sequence[Charges], key_of: KeyOf, refund: Refund) -> Outcome:
    """Take one part after the other. If one refuses or fails, refund those before it, and only query the rest."""
    taken: list[Outcome] = []
    refused = None
    try:
        for part in apart:
            (outcome,) = await scripts.take(run, [TakeRequest(part)], key_of)
            if not outcome.allowed:
                refused = outcome
                break
            taken.append(outcome)
    except StoreError:
        await _refund_all(run, apart, taken, key_of, refund)
        raise
    if refused is None:
        return in_turn(taken)
    await _refund_all(run, apart, taken, key_of, refund)
    rest = [looks(part) for part in apart[len(taken) + 1 :]]
    seen = [outcome for part in rest for outcome in await scripts.take(run, [TakeRequest(part)], key_of)]
    given_back = [before(part, outcome) for part, outcome in zip(apart, taken, strict=False)]
    return in_turn([*given_back, refused, *seen])


async def _refund_all(
    run: Run, apart: Sequence[Charges], taken: Sequence[Outcome], key_of: KeyOf, refund: Refund
) -> None:
    """Refund each charge alone, since its slot may be moving; a bucket that cannot be reached refills by itself."""
    for part, outcome in zip(apart, taken, strict=False):
        for charge, ceiling_us in zip(part, outcome.tats_us, strict=True):
            if charge.cost:
                with suppress(StoreError):
                    await refund(run, charge, ceiling_us, outcome.now_us, key_of)


async def _refund_untouched(run: Run, charge: Charge, ceiling_us: int, charged_us: int, key_of: KeyOf) -> None:
    """Refund a charge only if no other request has charged the bucket since, because a lease may depend on it."""
    await scripts.give_back(run, [Unspent(charge, ceiling_us, charge.step_us)], key_of)
