"""The drill of the live event is fair: its paces, limits, addresses and settings agree with one another."""

from __future__ import annotations

from random import Random

from shieldmw.demo.live_event import (
    ATTACKER,
    GUESTS,
    MEMBERS,
    PER_ADDRESS,
    PER_TOKEN,
    SOURCES,
    calm_then_storm,
    curl_lines,
    serve_command,
    shield_settings,
    tallies,
)
from shieldmw.rehearsal.load.crowd import Pace

SECRET = "a secret of the issuer, long enough for HS256"
STORY = calm_then_storm(30, SECRET, now_s=1_750_000_000)
CLIENTS = {group.name: group.clients for group in STORY.groups}


def pace(group: str) -> Pace:
    return STORY.phases[-1].paces[group]


def test_calm_comes_before_the_storm() -> None:
    """For the first 5 of 30 seconds the attacker is silent, and everybody else is there from the start."""
    calm, storm = STORY.phases
    assert (calm.seconds, storm.seconds) == (5, 25)
    assert set(calm.paces) == {GUESTS, MEMBERS}
    assert set(storm.paces) == {GUESTS, MEMBERS, ATTACKER}


def test_the_polite_stay_within_their_limits_and_the_attacker_does_not() -> None:
    """Nobody polite can be refused rightly; the attacker asks for far more than allowed, yet is bounded."""
    assert pace(GUESTS).per_s < PER_ADDRESS.rate_per_s
    assert pace(MEMBERS).per_s < PER_TOKEN.rate_per_s
    assert pace(ATTACKER).per_s >= 5 * PER_ADDRESS.rate_per_s
    assert pace(ATTACKER).per_s * len(CLIENTS[ATTACKER]) <= 1500
    assert pace(ATTACKER).lanes * len(CLIENTS[ATTACKER]) <= 100


def test_members_share_one_address_which_could_not_feed_them_all() -> None:
    """As guests they would be refused: that they are served shows that their tokens count, not their address."""
    assert len({client.source for client in CLIENTS[MEMBERS]}) == 1
    assert len(CLIENTS[MEMBERS]) * pace(MEMBERS).per_s > 5 * PER_ADDRESS.rate_per_s


def test_no_two_groups_share_an_address() -> None:
    """Guests and attackers have an address each, of their own, all of them loopback."""
    sources = [client.source for name in (GUESTS, ATTACKER) for client in CLIENTS[name]]
    sources.append(CLIENTS[MEMBERS][0].source)
    assert len(set(sources)) == len(sources)
    assert sorted(sources) == sorted(SOURCES)
    assert all(source.startswith("127.") for source in sources)


def test_the_verdict_and_the_shield_are_told_the_same_limits() -> None:
    """The settings spell out the very figures that the tallies are judged by."""
    settings = shield_settings(SECRET)
    judged = tallies(STORY)
    assert settings["SHIELD_IP_LIMIT"] == "5/second"
    assert settings["SHIELD_IP_BURST"] == "20"
    assert judged[GUESTS].allowance == judged[ATTACKER].allowance == PER_ADDRESS
    assert settings["SHIELD_TOKEN_LIMIT"] == "20/second"
    assert settings["SHIELD_TOKEN_BURST"] == "40"
    assert judged[MEMBERS].allowance == PER_TOKEN
    assert [judged[name].promised_share for name in (GUESTS, MEMBERS, ATTACKER)] == [None, 0.99, None]


def test_members_ask_with_their_own_token_and_guests_with_none() -> None:
    """Each member sends one token, its own; a guest sends no header at all."""
    tokens = [client.next_ask(Random(1)).headers["Authorization"] for client in CLIENTS[MEMBERS]]
    assert len(set(tokens)) == len(tokens)
    assert not CLIENTS[GUESTS][0].next_ask(Random(1)).headers


def test_the_command_serves_with_two_workers_and_the_curl_lines_name_its_url() -> None:
    """What is run and what is offered to try fit together."""
    command = serve_command("127.0.0.1", 8123)
    assert command[1:5] == ["-m", "shieldmw", "serve", "app:app"]
    assert command[5:] == ["--host", "127.0.0.1", "--port", "8123", "--workers", "2"]
    lines = curl_lines("http://127.0.0.1:8123")
    assert all(line.startswith("#") or "http://127.0.0.1:8123/" in line for line in lines)
