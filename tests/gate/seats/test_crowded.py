"""Several workers on one store in virtual time: seated listeners never lose their seats to newcomers while they fit."""

from __future__ import annotations

import pytest

from gate.doubles import loop_time, pass_time, run
from gate.seats.fleet import G, M, fleet
from shieldmw.core.decision import Reason
from shieldmw.core.mode import Mode, ModeChange
from shieldmw.core.seats import Audience


@pytest.mark.parametrize("workers", [1, 2, 3])
@pytest.mark.parametrize("seed", range(5))
def test_in_a_cut_no_seated_member_leaves_for_a_new_one(workers: int, seed: int) -> None:
    """While guests are still leaving an emergency whose seats members fill, the newcomers wait, and no member goes."""

    async def story() -> None:
        async with fleet(workers, seed, capacity=40, emergency_capacity=20) as one:
            await one.fills(20)
            assert one.here == Audience(0, 20, 20)
            await one.switch(ModeChange(Mode.EMERGENCY, "ops", for_s=60))
            await pass_time(3.0)
            assert one.here.guests > 0
            for number in range(100, 110):
                await one.comes(M, number)
                await pass_time(0.05)
            newcomers = [one.answers[f"{M}-{number}"] for number in range(100, 110)]
            await pass_time(20.0)
            assert one.left(M) == []
            assert [answer.reason for answer in newcomers] == [Reason.NO_SEAT] * 10
            assert all(answer.place and answer.signed_ticket for answer in newcomers)
            assert one.here == Audience(0, 20, 0)

    run(story())


@pytest.mark.parametrize("workers", [1, 2, 3])
@pytest.mark.parametrize("seed", range(3))
def test_in_a_cut_new_members_take_the_seats_that_members_leave_free(workers: int, seed: int) -> None:
    """Half of the seats are free for members: as many newcomers find one at once, in place of guests."""

    async def story() -> None:
        async with fleet(workers, seed, capacity=40, emergency_capacity=20) as one:
            await one.fills(10)
            for number in range(10, 20):
                await one.comes(G, number)
            await one.switch(ModeChange(Mode.EMERGENCY, "ops", for_s=60))
            await pass_time(3.0)
            for number in range(100, 120):
                await one.comes(M, number)
                await pass_time(0.1)
            await pass_time(10.0)
            assert one.left(M) == []
            assert 20 - workers <= one.here.members <= 20

    run(story())


@pytest.mark.parametrize("workers", [1, 2, 3])
@pytest.mark.parametrize("seed", range(3))
def test_in_a_cut_a_live_member_comes_back_at_once(workers: int, seed: int) -> None:
    """A member whose network blinks takes a guest's seat wherever it comes back, and nobody leaves for it."""

    async def story() -> None:
        async with fleet(workers, seed, capacity=40, emergency_capacity=20) as one:
            await one.fills(20)
            await one.switch(ModeChange(Mode.EMERGENCY, "ops", for_s=60))
            await pass_time(1.5)
            for number in range(2):
                ticket = one.blinks(M, number)
                assert not (await one.comes(M, number, ticket)).refused
                await pass_time(0.3)
            await pass_time(20.0)
            assert one.left(M) == []
            assert one.here == Audience(0, 20, 0)

    run(story())


@pytest.mark.parametrize("workers", [2, 3])
@pytest.mark.parametrize("pairs", [2, 20])
@pytest.mark.parametrize("seed", range(5))
def test_nobody_leaves_while_everybody_fits(workers: int, pairs: int, seed: int) -> None:
    """A member at a full worker waits a moment for a seat that is free elsewhere, rather than take a guest's."""

    async def story() -> None:
        async with fleet(workers, seed, capacity=2 * pairs) as one:
            await one.fills(pairs)
            await pass_time(20.0)
            assert one.here == Audience(0, pairs, pairs)
            assert one.left(G) == one.left(M) == []
            assert not any(answer.refused for answer in one.answers.values())

    run(story())


def test_no_member_waits_for_a_number_that_cannot_come() -> None:
    """The first answer has a number, even if none is at hand; while the store is away it comes at once, without."""

    async def story() -> None:
        async with fleet(1, 0, capacity=2) as one:
            for number in range(2):
                await one.comes(M, number)
            answer = await one.comes(M, 10)
            assert answer.place
            one.store.has_no_numbers = True
            await pass_time(2.0)
            began_s = loop_time()
            answer = await one.comes(M, 11)
            assert (answer.refused, answer.place) == (True, None)
            assert loop_time() == began_s

    run(story())
