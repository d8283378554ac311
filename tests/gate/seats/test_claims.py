"""One ticket in a fleet: however many players show it, and at whichever workers, it is one seat, and two players."""

from __future__ import annotations

from random import Random

import pytest

from gate.doubles import loop_time, pass_time, run
from gate.seats.test_polled import LEASE_S, POLL_S, Fleet, G, M, Viewer, fleet, viewers
from shieldmw.core.claims import LEASES_IN_SLOT
from shieldmw.core.decision import Reason
from shieldmw.core.tickets import Ticket
from shieldmw.errors import StoreUnavailable
from shieldmw.gate.seats.claims import CLAIMS_PER_S, COPIES, Claims


def barred(all_of_them: Fleet) -> int:
    """How many copies any of the workers bars."""
    return max(len(worker.polls.claims._barred) for worker in all_of_them.workers)


async def shared(all_of_them: Fleet, players: int) -> list[Viewer]:
    """Players that all have the ticket of the first one."""
    first = Viewer(M, 1)
    all_of_them.polls(first)
    return [first, *(Viewer(M, 1, first.ticket) for _ in range(players - 1))]


@pytest.mark.parametrize("workers", [3, 20])
@pytest.mark.parametrize("seed", range(3))
def test_a_ticket_shared_by_a_hundred_players_is_one_seat_of_the_fleet(workers: int, seed: int) -> None:
    """After two leases two of them play on, counted as one; the others are told why, and nobody is when they stop."""

    async def story() -> None:
        async with fleet(workers, 600, seed) as all_of_them:
            players, honest = await shared(all_of_them, 100), viewers(G, 20, first=500)
            await all_of_them.plays(players + honest, 2 * LEASE_S + 5)
            for _ in range(4):
                await all_of_them.plays(players + honest, LEASE_S)
                assert 1 <= sum(viewer.plays for viewer in players) <= 2
                assert all_of_them.counted <= 21 + 2, "a lease may be counted twice for a second"
            assert {decision.reason for viewer in players for decision in viewer.refused} == {Reason.TOO_MANY_STREAMS}
            assert not any(viewer.refused for viewer in honest)
            going_on = [viewer for viewer in players if viewer.plays]
            stay = [viewer for viewer in players if not viewer.plays][:1]
            assert going_on
            await all_of_them.plays(stay, 2 * LEASE_S)
            assert stay[0].plays, "it may once the others have stopped"

    run(story())


@pytest.mark.parametrize("playlists", [2, 3])
def test_a_player_that_polls_several_playlists_at_once_is_one_seat(playlists: int) -> None:
    """The same ticket at several workers in the same moment, and whichever answer comes last is kept.

    With two it is never refused; with three now and then, for a moment, where its last answer was that of the third.
    """

    async def story() -> None:
        async with fleet(5, 100) as all_of_them:
            players, dice, too_few, most = viewers(G, 30), Random(3), 0, 0
            for viewer in players:
                all_of_them.polls(viewer)
            for turn in range(150):
                for viewer in players:
                    text = viewer.ticket
                    answers = []
                    for _ in range(playlists):
                        viewer.ticket = text
                        all_of_them.polls(viewer)
                        answers += [viewer.ticket] if viewer.ticket != text else []
                    viewer.ticket = dice.choice(answers) if answers else text
                    await pass_time(POLL_S / len(players))
                if turn > 10:
                    too_few = max(too_few, all_of_them.leased - all_of_them.counted)
                    most = max(most, all_of_them.counted)
            polls, refused = 150 * playlists * 30, sum(len(viewer.refused) for viewer in players)
            assert refused <= (0 if playlists == 2 else polls / 500)
            assert too_few == 0, "whoever holds a lease is counted"
            # A player that was refused comes back at three workers at once, and counts at each until they have told.
            assert most <= 30 * (1.0 if playlists == 2 else 1.2)
            await all_of_them.plays(players, LEASE_S)
            assert all(viewer.plays for viewer in players)

    run(story())


def test_a_ticket_renewed_for_six_seconds_holds_one_seat_of_ten_minutes() -> None:
    """Its newest copies are shown on a path with long leases, each at another worker: they count as one seat there."""
    rules = '[{"name": "r", "path": "/long", "polled": true, "lease_seconds": 600}]'

    async def story() -> None:
        async with fleet(8, 100, rules=rules) as all_of_them:
            here, *others = all_of_them.workers
            player = Viewer(M, 1, lease_s=6)
            for polls in range(80):
                all_of_them.polls(player, here)
                if polls % 8 == 7 and others:
                    copy = Viewer(M, 1, player.ticket, lease_s=600)
                    all_of_them.polls(copy, others.pop())
                    assert all_of_them.ticket(copy.ticket) != all_of_them.ticket(player.ticket)
                await pass_time(1.5)
            assert not others
            assert not player.refused
            assert all_of_them.counted == 2

    run(story())


def test_no_player_with_a_ticket_of_its_own_is_ever_barred() -> None:
    """Five hundred of them for half an hour, at random workers with clocks apart; each loses one of its answers."""

    async def story() -> None:
        async with fleet(4, 600, apart_s=0.4) as all_of_them:
            players, dice = viewers(G, 500), Random(5)
            await all_of_them.plays(players, 20)
            loses_after = {viewer.number: (dice.randrange(400), viewer.ticket) for viewer in players}
            counted, looked_s = [], 0.0

            def loses(now_s: float) -> None:
                nonlocal looked_s
                if now_s < looked_s + 1:
                    return
                looked_s = now_s
                counted.append(all_of_them.counted)
                for viewer in players:
                    if viewer.number in loses_after:
                        polls, before = loses_after[viewer.number]
                        if viewer.polls > polls and viewer.ticket != before:
                            del loses_after[viewer.number]
                            viewer.ticket = before
                        else:
                            loses_after[viewer.number] = polls, viewer.ticket

            await all_of_them.plays(players, 1800, loses)
            assert not loses_after
            assert not any(viewer.refused for viewer in players)
            assert barred(all_of_them) == 0
            assert min(counted) >= 495, "the workers' clocks differ by a little at the end of a second"
            assert max(counted) <= 505

    run(story())


def test_a_player_whose_answers_are_lost_at_several_workers_waits_for_less_than_a_lease() -> None:
    """Its ticket is barred as if it were shared, until the leases that it never saw are over."""

    async def story() -> None:
        async with fleet(4, 60) as all_of_them:
            player = Viewer(M, 1)
            all_of_them.polls(player)
            await pass_time(LEASE_S - 9)
            player.keeps_ticket = False
            for worker in all_of_them.workers:
                all_of_them.polls(player, worker)
            player.keeps_ticket = True
            await pass_time(2)
            assert barred(all_of_them) >= 2
            await pass_time(8)
            began_s = loop_time()
            await all_of_them.plays([player], LEASE_S)
            assert player.plays
            assert player.refused
            assert {decision.reason for decision in player.refused} == {Reason.TOO_MANY_STREAMS}
            assert len(player.refused) * POLL_S < LEASE_S
            player.refused.clear()
            await all_of_them.plays([player], 5 * LEASE_S)
            assert not player.refused
            assert all_of_them.counted == 1
            assert loop_time() > began_s

    run(story())


def test_the_ticket_of_a_stream_is_one_seat_of_the_fleet() -> None:
    """Shown for its first lease at several workers in the same moment, it is counted once."""

    async def story() -> None:
        async with fleet(2, 60) as all_of_them:
            admission = all_of_them.workers[0].entrance.admission
            player = Viewer(M, 1)
            client = admission.client_of(player.identity, b"\x01\x02\x03\x04")
            player.ticket = text = admission.signed(Ticket("0011223344556677", client, M, 0))
            for worker in all_of_them.workers:
                player.ticket = text
                all_of_them.polls(player, worker)
            assert all_of_them.counted == 2
            await pass_time(2)
            assert all_of_them.counted == 1

    run(story())


def test_while_the_store_is_away_nothing_is_barred() -> None:
    """Copies are renewed by each worker as it knows them; what was barred before is forgotten."""

    async def story() -> None:
        async with fleet(3, 60) as all_of_them:
            players = await shared(all_of_them, 30)
            await all_of_them.plays(players, 3 * LEASE_S)
            assert barred(all_of_them)

            async def away(*_: object) -> None:
                raise StoreUnavailable("away")

            all_of_them.store.claim = away  # type: ignore[method-assign, assignment]
            await all_of_them.plays(players, LEASE_S)
            assert barred(all_of_them) == 0

    run(story())


def test_the_store_is_asked_where_something_was_renewed_and_once_a_second_at_most() -> None:
    """Not at all inside leases, nor where no path is polled."""

    async def story() -> None:
        async with fleet(2, 3000) as all_of_them:
            asked: list[int] = []
            inner = all_of_them.store.claim

            async def claim(claims, now_s, longest_s):  # type: ignore[no-untyped-def]
                asked.append(len(claims))
                return await inner(claims, now_s, longest_s)

            all_of_them.store.claim = claim  # type: ignore[method-assign]
            crowd = viewers(G, 2000)
            await all_of_them.plays(crowd, LEASE_S * 2 / 3 - POLL_S - 1)
            assert asked == []
            await all_of_them.plays(crowd, 60)
            assert len(asked) <= 2 * 62
            assert sum(asked) >= 60 * CLAIMS_PER_S
            asked.clear()
            await pass_time(120)
            assert asked == []

    run(story())


def test_of_a_large_audience_a_part_is_claimed_by_turns() -> None:
    """The same tickets on every worker, about as many as it may; others in the next slot, and all of them in time."""

    async def story() -> None:
        async with fleet(2, 20_000) as all_of_them:
            await all_of_them.plays(viewers(G, 10_000), 12)
            await pass_time(2)
            one, other = (worker.polls.claims for worker in all_of_them.workers)
            grant = all_of_them.workers[0].entrance.seats.grant
            assert grant is not None
            assert grant.leased.total > 9000

            def of(claims: Claims, slot: int) -> set[int]:
                return {n for n in range(64_000) if claims._is_claimed(n, LEASE_S, slot * 2 * LEASE_S)}

            claimed = of(one, 7)
            assert claimed == of(other, 7)
            a_second = len(claimed) / 64_000 * grant.leased.total / (LEASE_S * 5 / 6)
            assert CLAIMS_PER_S / 2 <= a_second / 2 <= CLAIMS_PER_S
            assert set().union(*(of(one, slot) for slot in range(16))) == set(range(64_000))

    run(story())


def test_in_a_large_audience_a_shared_ticket_is_found_in_its_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    """A quarter of all tickets is looked at. Copies of one are barred once it is its turn, and within two leases."""
    monkeypatch.setattr("shieldmw.gate.seats.claims.CLAIMS_PER_S", 1)

    async def story() -> None:
        async with fleet(5, 2000) as all_of_them:
            honest = viewers(G, 400, first=500)
            await all_of_them.plays(honest, LEASE_S)
            worker, is_turn = all_of_them.workers[0], True
            claims, seats = worker.polls.claims, worker.entrance.seats

            def is_looked_at(viewer: Viewer) -> bool:
                ticket = all_of_them.ticket(viewer.ticket)
                assert ticket is not None
                return claims._is_claimed(claims._number_of(ticket.id), LEASE_S, seats.now_s())

            first = Viewer(M, 0)
            while is_turn:  # of another ticket, then
                first = Viewer(M, first.number + 1)
                all_of_them.polls(first)
                is_turn = is_looked_at(first)
            players = [first, *(Viewer(M, first.number, first.ticket) for _ in range(39))]
            slots_s = 4 * LEASES_IN_SLOT * LEASE_S
            for _ in range(0, slots_s, 5):
                if is_looked_at(first):
                    break
                assert barred(all_of_them) == 0
                await all_of_them.plays(players + honest, 5)
            await all_of_them.plays(players + honest, 2 * LEASE_S)
            assert barred(all_of_them) > 0
            assert not any(viewer.refused for viewer in honest)

    run(story())


@pytest.mark.parametrize("change", ["", "x", "-", "-x", "1", "-1,", "+é", "-1,-zz,-2", "-" + "f" * 400])
def test_a_malformed_message_is_no_error(change: str) -> None:
    """What comes before the point where it is malformed counts."""

    async def story() -> None:
        async with fleet(1, 10) as all_of_them:
            all_of_them.workers[0].heard(COPIES + change)
            assert barred(all_of_them) == change.startswith("-1") + (change.startswith("-ff"))

    run(story())
