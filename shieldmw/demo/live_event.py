"""The drill of the live event: its limits, the requests of each group, and its first act, calm and then a storm.

Only data, no I/O. The limits are stated once, here, and both the served shield's settings and the verdict are made
from them.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass
from random import Random
from typing import Final

from shieldmw.demo.botnet import BOTNET
from shieldmw.rehearsal.load.attacker import attack
from shieldmw.rehearsal.load.crowd import Ask, Behaviour, Client, Group, Pace, Phase, Story
from shieldmw.rehearsal.load.tally import Allowance, GroupTally
from shieldmw.rehearsal.load.tokens import Issuer

WORKERS: Final = 2

GUESTS: Final = "guests"
MEMBERS: Final = "members"
ATTACKER: Final = "attacker"

# A guest's pace is well within the limit; each address of the attacker sends six times what it allows.
PER_ADDRESS: Final = Allowance(rate_per_s=5, burst=20)
PER_TOKEN: Final = Allowance(rate_per_s=20, burst=40)

# 127.0.0.0/8 is all loopback on Linux: every client has an address of its own, without forging anything.
_GUEST_ADDRESSES: Final = tuple(f"127.0.1.{n}" for n in range(1, 21))
_MEMBERS_ADDRESS: Final = "127.0.3.1"  # shared by all of them, as behind a company's NAT
_ATTACKER_ADDRESSES: Final = tuple(f"127.0.2.{n}" for n in range(1, 41))
SOURCES: Final = (*_GUEST_ADDRESSES, _MEMBERS_ADDRESS, *_ATTACKER_ADDRESSES)
_SUBJECTS: Final = tuple(f"member-{n:02}" for n in range(1, 21))

_GUEST_PACE: Final = Pace(per_s=2)
MEMBER_PACE: Final = Pace(per_s=4)
_ATTACK_PACE: Final = Pace(per_s=30, lanes=2)  # 1200/s in all, at most 80 in flight: a laptop can carry it

_AUDIENCE: Final = "live-event"


@dataclass(frozen=True, slots=True)
class _Terms:
    """The limit of a group's clients, and what the group is promised."""

    allowance: Allowance
    promised_share: float | None = None
    polite: bool = True


_TERMS: Final = {
    GUESTS: _Terms(PER_ADDRESS),
    MEMBERS: _Terms(PER_TOKEN, promised_share=0.99),
    BOTNET: _Terms(PER_ADDRESS),
    # Per real source address, whatever it forges.
    ATTACKER: _Terms(PER_ADDRESS, polite=False),
}


def shield_settings(jwt_secret: str) -> Mapping[str, str]:
    """The settings that the served shield must have for this drill's verdict to be fair."""
    return {
        "SHIELD_REDIS_URL": "embedded://",
        "SHIELD_IP_LIMIT": f"{PER_ADDRESS.rate_per_s:g}/second",
        "SHIELD_IP_BURST": str(PER_ADDRESS.burst),
        "SHIELD_TOKEN_LIMIT": f"{PER_TOKEN.rate_per_s:g}/second",
        "SHIELD_TOKEN_BURST": str(PER_TOKEN.burst),
        "SHIELD_JWT_SECRET": jwt_secret,
        "SHIELD_JWT_AUDIENCE": _AUDIENCE,
        "SHIELD_JWT_ISSUER": _AUDIENCE,
    }


def serve_command(host: str, port: int) -> list[str]:
    """The command to run in the live event's folder."""
    served = [sys.executable, "-m", "shieldmw", "serve", "app:app"]
    return [*served, "--host", host, "--port", str(port), "--workers", str(WORKERS)]


def curl_lines(url: str) -> tuple[str, ...]:
    """Commands to try the shield by hand."""
    many = "for n in $(seq 40); do curl -so /dev/null -w '%{http_code} '"
    return (
        "# as a guest, until the limit of this address is reached; then one refused answer in full",
        f"{many} {url}/api/now; done; echo",
        f"curl -i {url}/api/now",
        "# forged addresses change nothing",
        f'{many} -H "X-Forwarded-For: 203.0.113.$n" {url}/api/now; done; echo',
        "# sign in (after some seconds: this too is charged to the address), then ask as a member",
        f"TOKEN=$(curl -s {url}/sign-in -d name=ada | cut -d'\"' -f4)",
        f'curl -i -H "Authorization: Bearer $TOKEN" {url}/api/me',
    )


def calm_then_storm(seconds: float, jwt_secret: str, now_s: int) -> Story:
    """A sixth of the time only guests and members, then the attacker too. ``now_s`` is Unix time."""
    calm = {GUESTS: _GUEST_PACE, MEMBERS: MEMBER_PACE}
    phases = (
        Phase("calm", seconds / 6, calm),
        Phase("storm", seconds * 5 / 6, {**calm, ATTACKER: _ATTACK_PACE}),
    )
    return Story(groups(issuer(jwt_secret, now_s)), phases)


def issuer(jwt_secret: str, now_s: int) -> Issuer:
    """The issuer of this event's tokens."""
    return Issuer(jwt_secret, _AUDIENCE, _AUDIENCE, now_s)


def tallies(story: Story) -> dict[str, GroupTally]:
    """An empty tally for each group of the story."""
    return {group.name: tally_of(group.name) for group in story.groups}


def tally_of(group: str) -> GroupTally:
    """An empty tally, with the group's limit and promise."""
    terms = _TERMS[group]
    return GroupTally(group, terms.allowance, terms.promised_share, terms.polite)


def groups(issuer: Issuer) -> tuple[Group, ...]:
    """All groups: 20 guests, 20 members and the attacker's 40 addresses."""
    guests = tuple(Client(source, source, _guest) for source in _GUEST_ADDRESSES)
    members = tuple(Client(name, _MEMBERS_ADDRESS, _member(issuer.token(name))) for name in _SUBJECTS)
    attacker = attack(issuer, _GUEST_ADDRESSES, _SUBJECTS)
    attackers = tuple(Client(source, source, attacker) for source in _ATTACKER_ADDRESSES)
    return (
        Group(GUESTS, guests),
        Group(MEMBERS, members),
        Group(ATTACKER, attackers, impatient=True),
    )


def _guest(rng: Random) -> Ask:
    return Ask(rng.choice(("/", "/api/now", "/api/now", "/api/programme")))


def _member(token: str) -> Behaviour:
    headers = {"Authorization": f"Bearer {token}"}

    def next_ask(rng: Random) -> Ask:
        paths = ("/", "/api/now", "/api/now", "/api/programme", "/api/questions", "/api/me")
        return Ask(rng.choice(paths), headers)

    return next_ask
