"""Group commit: waiting requests share a call, each gets its own outcome, and none waits forever."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Sequence

import pytest

from gate.doubles import (
    FakeClock,
    FlakyStore,
    LeasingStore,
    LoopClock,
    clock_of,
    loop_time,
    pass_time,
    run,
    yield_often,
)
from shieldmw.core.bucket import Charge, Outcome, TakeRequest
from shieldmw.core.client import Client
from shieldmw.core.limits import Limit
from shieldmw.errors import StoreError, StoreUnavailable
from shieldmw.gate.limiter.batch import MOST_CHARGES, MOST_REQUESTS, Batch, TakeReply

WIDE = Limit("ip", 1, 1, 1_000_000)
COSTS = 97


class Recording(FlakyStore):
    """A store that keeps what each call brought."""

    def __init__(self, inner: LeasingStore) -> None:
        super().__init__(inner)
        self.groups: list[list[TakeRequest]] = []
        self.forgets_one = False
        self.fails_after: int | None = None

    async def take(self, requests: Sequence[TakeRequest]) -> Sequence[Outcome]:
        """Keep it; fail after so many calls, or answer one outcome too few, where told so."""
        self.groups.append(list(requests))
        if self.fails_after is not None and len(self.groups) > self.fails_after:
            self.failing = StoreUnavailable("away")
        outcomes = await super().take(requests)
        return outcomes[:-1] if self.forgets_one else outcomes


Result = TakeReply | None


def answered(_: object, request: TakeRequest, outcome: Outcome, sent_us: int) -> TakeReply:
    """The reply from an outcome."""
    return TakeReply(request.charges, outcome, sent_us)


def failed(_: object, request: TakeRequest, others_answered: bool) -> None:
    """The reply to a request whose call has failed."""


def make(clock: FakeClock | None = None) -> tuple[Batch, Recording]:
    """A batch above a store that does as it is told."""
    clock = clock or LoopClock()
    store = Recording(LeasingStore(clock))
    return Batch(store, answered, failed, clock_of(clock.s)), store


def somebody(name: str) -> Client:
    """A client with a slot of its own."""
    return Client("ip", name, f"ip:{name}")


def ask(number: int, limit: Limit = WIDE, charges: int = 1) -> TakeRequest:
    """An ask whose outcome can be no other's: its cost is told by its number."""
    return TakeRequest(
        tuple(Charge(somebody(f"{number}/{index}"), limit, 1 + number % COSTS) for index in range(charges))
    )


def outcome_in(told: Result) -> Outcome:
    """The outcome, where there is one."""
    assert isinstance(told, TakeReply), told
    return told.outcome


def is_own(number: int, told: Result) -> bool:
    """Whether the outcome is that of the ask of this number."""
    outcome = outcome_in(told)
    return outcome.allowed and outcome.tats_us[0] - outcome.now_us == (1 + number % COSTS) * WIDE.unit_us


async def outcome_of(waiting: asyncio.Future[Result]) -> Result:
    """What came of it, within a limit that nobody reaches who is not forgotten."""
    async with asyncio.timeout(3600):
        return await waiting


def test_an_idle_batch_calls_at_once() -> None:
    """There is no timer: the call is under way after one turn of the loop, and no time has passed."""

    async def story() -> None:
        batch, store = make()
        for number in range(3):
            store.held = asyncio.Event()
            told = batch.take(None, ask(number))
            await asyncio.sleep(0)
            assert (store.under_way, store.calls) == (1, number + 1)
            store.held.set()
            begun = loop_time()
            assert is_own(number, await told)
            assert loop_time() == begun

    run(story())


def test_who_asks_while_a_call_is_under_way_goes_with_the_next() -> None:
    """A hundred queue behind one: two calls, one at a time, and each gets its own outcome."""

    async def story() -> None:
        batch, store = make()
        store.held = asyncio.Event()
        waiting = [batch.take(None, ask(0))]
        await yield_often()
        for number in range(1, 101):
            waiting.append(batch.take(None, ask(number)))
            await asyncio.sleep(0)
        assert (store.calls, store.requests) == (1, 1)
        store.held.set()
        told = await asyncio.gather(*waiting)
        assert all(is_own(number, one) for number, one in enumerate(told))
        assert (store.calls, store.requests, store.most_under_way) == (2, 101, 1)

    run(story())


def test_who_asks_in_one_turn_of_the_loop_shares_a_call() -> None:
    """The first call takes along all requests that came before it began."""

    async def story() -> None:
        batch, store = make()
        await asyncio.gather(*(batch.take(None, ask(number)) for number in range(50)))
        assert (store.calls, store.requests) == (1, 50)

    run(story())


@pytest.mark.parametrize(
    ("count", "charges", "groups"),
    [
        (MOST_REQUESTS, 1, [256]),
        (MOST_REQUESTS + 1, 1, [256, 1]),
        (1000, 1, [256, 256, 256, 232]),
        (150, 10, [150]),  # 1,500 charges to the unit
        (151, 10, [150, 1]),
        (200, 9, [166, 34]),  # 1,494: one more ask would be too many
        (3, 1000, [1, 1, 1]),
        (2, MOST_CHARGES + 300, [1, 1]),  # more than a call may have goes alone rather than never
    ],
)
def test_a_call_takes_so_many_along_and_no_more(count: int, charges: int, groups: list[int]) -> None:
    """256 asks or 1,500 charges; in the order in which they were asked."""

    async def story() -> None:
        batch, store = make()
        requests = [ask(number, charges=charges) for number in range(count)]
        told = await asyncio.gather(*(batch.take(None, one) for one in requests))
        assert [len(group) for group in store.groups] == groups
        assert [one for group in store.groups for one in group] == requests
        assert all(is_own(number, one) for number, one in enumerate(told))

    run(story())


def test_who_asks_first_is_decided_first() -> None:
    """Of fifty on one bucket of ten the first ten pass, over however many calls."""
    narrow = Limit("ip", 1, 3600, 10)

    async def story() -> None:
        batch, store = make()
        store.held = asyncio.Event()
        waiting = []
        for number in range(50):
            waiting.append(batch.take(None, TakeRequest((Charge(somebody("alice"), narrow),))))
            if number == 4:
                await yield_often()
        store.held.set()
        told = await asyncio.gather(*waiting)
        assert [outcome_in(one).allowed for one in told] == [True] * 10 + [False] * 40
        assert store.calls == 2

    run(story())


def test_what_is_told_was_asked_when_its_call_was_sent() -> None:
    """Not when it was queued, and not when the answer came: a time before the store decided."""
    clock = FakeClock()

    async def story() -> None:
        batch, store = make(clock)
        store.held = asyncio.Event()
        first_us = clock.us()
        first = batch.take(None, ask(0))
        await yield_often()
        clock.now_s += 1
        second = batch.take(None, ask(1))
        clock.now_s += 2
        sent_us = clock.us()
        store.held.set()
        told = [await first, await second]
        assert [one.sent_us for one in told if isinstance(one, TakeReply)] == [first_us, sent_us]

    run(story())


@pytest.mark.parametrize(
    "failure", [StoreUnavailable("Connection refused"), StoreError("nonsense", 7)], ids=["away", "nonsense"]
)
def test_a_failing_call_fails_those_who_queue_behind_it(failure: StoreError) -> None:
    """They are not sent; a later request is."""

    async def story() -> None:
        batch, store = make()
        store.held, store.failing = asyncio.Event(), failure
        waiting = [batch.take(None, ask(number)) for number in range(300)]
        await yield_often()
        waiting += [batch.take(None, ask(number)) for number in range(300, 400)]
        store.held.set()
        assert [await outcome_of(one) for one in waiting] == [None] * 400
        assert store.calls == 1
        store.held = store.failing = None
        assert is_own(905, await batch.take(None, ask(905)))
        assert store.calls == 2

    run(story())


def test_one_call_that_fails_leaves_the_outcomes_before_it() -> None:
    """Requests that were answered by an earlier call of the same run keep their answers."""

    async def story() -> None:
        batch, store = make()
        store.fails_after = 1
        waiting = [batch.take(None, ask(number)) for number in range(MOST_REQUESTS + 20)]
        results = [await outcome_of(one) for one in waiting]
        assert all(isinstance(result, TakeReply) for result in results[:MOST_REQUESTS])
        assert results[MOST_REQUESTS:] == [None] * 20

    run(story())


@pytest.mark.parametrize("seed", range(4))
def test_whoever_goes_away_takes_nothing_along(seed: int) -> None:
    """Ten thousand cancelled at any moment among as many who stay: each of those gets its own outcome."""
    chance = random.Random(seed)

    async def story() -> None:
        batch, store = make()
        store.lags = True
        staying: list[tuple[int, asyncio.Future[Result]]] = []
        leaving: list[asyncio.Task[Result]] = []

        async def wait(number: int) -> Result:
            return await batch.take(None, ask(number))

        number = gone = 0
        while gone < 10_000:
            number += 1
            if number % 2:
                staying.append((number, batch.take(None, ask(number))))
            else:
                leaving.append(asyncio.create_task(wait(number)))
            if chance.random() < 0.1:
                await yield_often(chance.randrange(4))
            if chance.random() < 0.8 and leaving:
                gone += leaving[-chance.randrange(min(len(leaving), 30)) - 1].cancel()
        for own, waiting in staying:
            result = await outcome_of(waiting)
            assert isinstance(result, TakeReply), result
            assert is_own(own, result)
        results = await asyncio.gather(*leaving, return_exceptions=True)
        assert sum(isinstance(result, asyncio.CancelledError) for result in results) > 5000
        assert store.most_under_way == 1
        assert is_own(number + 1, await batch.take(None, ask(number + 1)))

    run(story())


def test_a_call_that_everybody_has_left_goes_on() -> None:
    """Its charges may be taken; the next request is not answered with its outcomes."""

    async def story() -> None:
        batch, store = make()
        store.held = asyncio.Event()
        gone = [batch.take(None, ask(number)) for number in range(10)]
        await yield_often()
        for one in gone:
            one.cancel()
        later = batch.take(None, ask(50))
        store.held.set()
        assert is_own(50, await later)
        assert [len(group) for group in store.groups] == [10, 1]

    run(story())


def test_closing_ends_the_call_under_way_and_tells_all_who_wait() -> None:
    """The store is away for those in the call and for those behind it; afterwards one may ask again."""

    async def story() -> None:
        batch, store = make()
        store.held = asyncio.Event()
        waiting = [batch.take(None, ask(number)) for number in range(300)]
        await yield_often()
        waiting.append(batch.take(None, ask(301)))
        await batch.aclose()
        assert [await outcome_of(one) for one in waiting] == [None] * 301
        assert store.under_way == 0
        assert asyncio.all_tasks() == {asyncio.current_task()}
        store.held = None
        assert is_own(907, await batch.take(None, ask(907)))
        await batch.aclose()

    run(story())


def test_closing_before_the_call_has_begun_leaves_nobody_waiting() -> None:
    """Requests of the same turn of the loop have replies too, and the batch can be used again."""

    async def story() -> None:
        batch, _ = make()
        waiting = batch.take(None, ask(1))
        await batch.aclose()
        assert await outcome_of(waiting) is None
        assert is_own(2, await batch.take(None, ask(2)))

    run(story())


def test_closing_an_idle_batch_is_nothing() -> None:
    """However often."""

    async def story() -> None:
        batch, store = make()
        await batch.aclose()
        assert is_own(1, await batch.take(None, ask(1)))
        await batch.aclose()
        await batch.aclose()
        assert store.calls == 1

    run(story())


@pytest.mark.parametrize("how", ["raises", "too few"])
def test_what_is_no_error_of_the_store_leaves_nobody_waiting(how: str) -> None:
    """A mistake of ours, be it in the call or in its answer: all who wait fail as they do without a store."""

    async def story() -> None:
        unexpected: list[object] = []
        asyncio.get_running_loop().set_exception_handler(lambda _, context: unexpected.append(context["exception"]))
        batch, store = make()
        store.held = asyncio.Event()
        waiting = [batch.take(None, ask(number)) for number in range(300)]
        await yield_often()
        store.failing = RuntimeError("a mistake") if how == "raises" else None
        store.forgets_one = how == "too few"
        store.held.set()
        results = [await outcome_of(one) for one in waiting]
        answered = [result for result in results if result is not None]
        assert len(answered) <= 255
        store.failing, store.forgets_one = None, False
        assert is_own(909, await batch.take(None, ask(909)))
        await pass_time(1)
        assert not answered or how == "too few"

    run(story())
