"""The second act is fair: seats, limits, waits and addresses agree with one another."""

from __future__ import annotations

import pytest
from limits import parse

from core.addresses import packed
from shieldmw.demo.botnet import BOT_SOURCES, BOTNET, app_can_do_per_s
from shieldmw.demo.emergency import (
    CAPACITY,
    EMERGENCY_CAPACITY,
    NEW_MEMBERS,
    POLLING_GUESTS,
    POLLING_MEMBERS,
    PROBE_SOURCES,
    SECOND_ACT_SOURCES,
    emergency_settings,
    fewer_listeners,
    switch_lines,
)
from shieldmw.demo.live_event import (
    ATTACKER,
    GUESTS,
    MEMBERS,
    PER_ADDRESS,
    SOURCES,
    WORKERS,
    shield_settings,
)
from shieldmw.demo.polled import GONE_WITHIN_S, LEASE_S
from shieldmw.demo.second_act import spans_of
from shieldmw.settings import Settings

SECRET = "a secret of the issuer, long enough for HS256"
URL = "http://127.0.0.1:8123"
ADMIN_TOKEN = "the operator's own token"
SETTINGS = emergency_settings(URL, ADMIN_TOKEN)
PLAN = fewer_listeners(35, SECRET, now_s=1_750_000_000)


def arrivals(group: str) -> list[str]:
    return [arrival.source for arrival in PLAN.arrivals if arrival.group == group]


def test_the_scenes_come_one_after_the_other() -> None:
    """35 seconds: attacker and botnet come after the room is full, and have gone when it is open again."""
    fills, attack, emergency, after = PLAN.story.phases
    assert [phase.seconds for phase in PLAN.story.phases] == [3, 5, 21, 6]
    assert (PLAN.attack_at_s, PLAN.flip_at_s, PLAN.emergency_s) == (3, 8, 21)
    for group in (ATTACKER, BOTNET):
        assert [group in phase.paces for phase in (fills, attack, emergency, after)] == [False, True, True, False]


@pytest.mark.parametrize("seconds", [1.0, 3.5, 35, 41.3, 2000])
def test_however_short_a_cut_has_the_time_it_takes(seconds: float) -> None:
    """Ten steps of a second, a lease, and some time to count; then some for those who come back. The switch takes
    whole seconds.
    """
    plan = fewer_listeners(seconds, SECRET, now_s=1_750_000_000)
    assert plan.emergency_s >= GONE_WITHIN_S + 3
    assert plan.story.phases[2].seconds == plan.emergency_s
    assert plan.story.phases[3].seconds >= 6
    assert plan.story.seconds == pytest.approx(max(seconds, 35), abs=1)
    before, after = spans_of(plan)
    assert before.begins_s == plan.attack_at_s + 2
    assert before.ends_s - before.begins_s >= 3
    assert (after.begins_s, after.ends_s) == (plan.flip_at_s, plan.flip_at_s + plan.emergency_s)
    assert before.ends_s == plan.flip_at_s


def test_members_and_guests_are_in_before_the_attack_and_new_members_come_in_the_emergency() -> None:
    """Nobody arrives when it would show nothing."""
    for arrival in PLAN.arrivals:
        if arrival.group == NEW_MEMBERS:
            assert PLAN.flip_at_s + 1 < arrival.at_s < PLAN.flip_at_s + PLAN.emergency_s - 4
        else:
            assert arrival.at_s < PLAN.attack_at_s


def test_all_fit_before_and_every_member_fits_in_the_emergency() -> None:
    """Else a member who is let go would break no promise of the shield's."""
    assert len(PLAN.arrivals) < CAPACITY // 2  # however unevenly two workers get them
    members = sum(len(arrivals(group)) for group in (MEMBERS, NEW_MEMBERS, POLLING_MEMBERS))
    assert members < EMERGENCY_CAPACITY * 9 // 10, "with short leases up to a tenth of the seats stay empty"
    assert len(PLAN.arrivals) > EMERGENCY_CAPACITY


def test_who_listens_has_an_address_of_its_own_unless_it_is_a_member() -> None:
    """Guests and probes one each; members share one; none is anybody's of the first act."""
    guests = arrivals(GUESTS)
    assert len(set(guests)) == len(guests) == 90
    polling = arrivals(POLLING_GUESTS)
    assert len(set(polling)) == len(polling) == 30
    assert len(set(arrivals(MEMBERS) + arrivals(NEW_MEMBERS) + arrivals(POLLING_MEMBERS))) == 1
    assert len(set(SECOND_ACT_SOURCES)) == len(SECOND_ACT_SOURCES)
    assert {*guests, *polling, *PROBE_SOURCES, *BOT_SOURCES} < set(SECOND_ACT_SOURCES)
    assert not set(SECOND_ACT_SOURCES) & set(SOURCES)


def test_the_polite_stay_within_the_limit_of_the_emergency() -> None:
    """A guest who asks, and one who knocks as often as told; and the attacker's addresses have less than before."""
    limit = parse(SETTINGS["SHIELD_EMERGENCY_IP_LIMIT"])
    per_s = limit.amount / limit.get_expiry()
    assert PLAN.story.phases[2].paces[GUESTS].per_s < per_s < PER_ADDRESS.rate_per_s
    assert 1 / float(SETTINGS["SHIELD_RETRY_AFTER"]) < per_s
    assert limit.amount <= PER_ADDRESS.burst


def test_players_poll_in_the_last_third_of_their_lease_and_within_the_limit() -> None:
    """Otherwise a member would lose its seat between two polls, or a guest be refused for another reason."""
    limit = parse(SETTINGS["SHIELD_EMERGENCY_IP_LIMIT"])
    polling = [arrival for arrival in PLAN.arrivals if arrival.polls_each_s]
    assert {arrival.group for arrival in polling} == {POLLING_MEMBERS, POLLING_GUESTS}
    for arrival in polling:
        assert arrival.polls_each_s < LEASE_S / 3
        assert 1 / arrival.polls_each_s < limit.amount / limit.get_expiry()


def test_no_limit_sees_a_bot_and_together_they_are_a_flood() -> None:
    """Each is below both limits of its address; all ask for more than twice what the app can do."""
    (bots,) = (group for group in PLAN.story.groups if group.name == BOTNET)
    limit = parse(SETTINGS["SHIELD_EMERGENCY_IP_LIMIT"])
    for phase in PLAN.story.phases[1:3]:
        pace = phase.paces[BOTNET]
        assert pace.lanes == 1
        assert pace.per_s < limit.amount / limit.get_expiry() < PER_ADDRESS.rate_per_s
        assert pace.per_s * len(bots.clients) > 2 * app_can_do_per_s(WORKERS)
    assert len({client.source for client in bots.clients}) == len(bots.clients)


def test_probes_are_on_the_allow_list_and_nobody_else_is() -> None:
    """Their answers must not wait for the app; those of all others must."""
    allowed = Settings.from_environ({**shield_settings(SECRET), **SETTINGS}).allow_ips
    of_all = {source: packed(source) in allowed for source in (*SOURCES, *SECOND_ACT_SOURCES)}
    assert {source for source, is_allowed in of_all.items() if is_allowed} == set(PROBE_SOURCES)


def test_the_shield_takes_these_settings() -> None:
    """Those of both acts together, and no guest has a seat in the emergency."""
    settings = Settings.from_environ({**shield_settings(SECRET), **SETTINGS})
    (rule,) = settings.policy.rules
    assert rule.path.matches("/hls/live.m3u8")
    assert rule.lease_s == LEASE_S
    assert (settings.capacity, settings.emergency_capacity, settings.emergency_guest_share) == (500, 110, 0)


def test_the_lines_to_try_flip_the_switch_of_this_event() -> None:
    """With its URL and its token."""
    text = "\n".join(switch_lines(URL, ADMIN_TOKEN))
    assert f"SHIELD_ADMIN_URL={URL} SHIELD_ADMIN_TOKEN={ADMIN_TOKEN}" in text
    assert "shieldmw mode emergency --for 1m" in text
