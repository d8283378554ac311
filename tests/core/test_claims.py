"""Renewals of one ticket: a player is alone in each round, further players are found out."""

from __future__ import annotations

import random

from shieldmw.core.claims import MOST_RENEWALS, Claim, ClaimTable, Ranked, claim_slot

NOW_S = 1_800_000_000
LEASE_S = 30
TICKET = b"a ticket"


def renewed(
    table: ClaimTable, after_s: int, lease_s: int = LEASE_S, until_s: int | None = None, copy: int = 0
) -> Ranked:
    """One renewal of the ticket, by default for a whole lease."""
    at_s = NOW_S + after_s
    claim = Claim(TICKET, at_s, lease_s, at_s + lease_s if until_s is None else until_s, copy)
    (ranked,) = table.claim(claim_slot(at_s, 600), [claim])
    return ranked


def asked(table: ClaimTable, after_s: int, copy: int = 1) -> bool:
    """Whether a copy of the ticket may be renewed that asks."""
    return renewed(table, after_s, until_s=0, copy=copy).rank <= MOST_RENEWALS


def test_a_player_that_polls_is_alone_in_each_round() -> None:
    """It renews in the last third of its lease, whenever that is; each time it is the first."""
    dice, table, after_s = random.Random(1), ClaimTable(), 0
    for _ in range(500):
        assert renewed(table, after_s).rank == 1
        after_s += dice.randint(LEASE_S * 2 // 3, LEASE_S)


def test_renewals_at_once_are_of_one_round_and_count_from_where_the_first_ends() -> None:
    """A second that is for longer holds the seat for longer; beyond the second they hold nothing."""
    table = ClaimTable()
    assert renewed(table, 0) == Ranked(1, 0)
    assert renewed(table, 2) == Ranked(2, NOW_S + 30)
    assert renewed(table, 10) == Ranked(3, NOW_S + 32)
    assert renewed(table, 14) == Ranked(4, NOW_S + 32)
    assert renewed(table, 20) == Ranked(1, NOW_S + 32)


def test_of_three_players_one_is_found_out_whatever_their_phases() -> None:
    """Two go on for ever; each round of three has one too many before long."""
    for seed in range(200):
        dice = random.Random(seed)
        for players, found in ((2, False), (3, True)):
            table = ClaimTable()
            phases = [dice.uniform(0, 22) for _ in range(players)]
            times = sorted(int(phase + turn * 22) for phase in phases for turn in range(3))
            assert any(renewed(table, after_s).rank > MOST_RENEWALS for after_s in times) is found


def test_a_copy_may_renew_once_the_others_have_not() -> None:
    """While the seat is held for longer than a sixth of a lease it may not; then one of those that ask may."""
    table = ClaimTable()
    assert asked(table, -100)
    table = ClaimTable()
    renewed(table, 0)
    assert [asked(table, after_s) for after_s in (1, 20, 24)] == [False] * 3
    assert asked(table, 25)
    assert not asked(table, 26, copy=2), "another one has just been let"
    assert asked(table, 27), "which may ask again, at another worker"
    assert renewed(table, 28).rank == 1
    assert not asked(table, 29), "since it has been renewed"


def test_short_leases_are_told_apart_as_well() -> None:
    """Of six seconds, in whole seconds of the clock: two at most between renewals of one round, four of two."""
    table = ClaimTable()
    assert [renewed(table, after_s, 6).rank for after_s in (0, 2, 4, 6, 8)] == [1, 2, 1, 2, 1]


def test_leases_of_several_lengths_leave_no_gap() -> None:
    """A long one that is renewed in the round of a short one is counted from where the short one ends."""
    table = ClaimTable()
    assert renewed(table, 0, 6) == Ranked(1, 0)
    assert renewed(table, 1, 600) == Ranked(2, NOW_S + 6)
    assert renewed(table, 401, 600) == Ranked(1, NOW_S + 601)


def test_three_copies_that_renew_apart_from_each_other_are_found_out() -> None:
    """Rounds last as long as a player takes at least, so no offsets let a third one in."""
    table = ClaimTable()
    times = sorted(offset + turn * 29 for offset in (0, 1, 15) for turn in range(20))
    assert any(renewed(table, after_s).rank > MOST_RENEWALS for after_s in times)


def test_tickets_that_are_not_renewed_are_forgotten() -> None:
    """After two slots of time nothing is left of them."""
    table = ClaimTable()
    for slot in range(10):
        table.claim(slot, [Claim(b"%08d" % (100 * slot + number), NOW_S, 30, NOW_S + 30) for number in range(100)])
    assert sum(len(rounds) for rounds in table._slots.values()) == 200
