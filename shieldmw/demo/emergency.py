"""The second act of the live event, as data: a full room, an attack, an emergency, and the room open again.

The attack has two parts: an attacker over every limit, and a botnet under all of them.

Only data, no I/O. The seats and limits are stated once, here, and both the served
shield's settings and the verdict are made from them.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Final

from shieldmw.demo.botnet import BOT_PACE, BOT_SOURCES, BOTNET, app_settings, botnet
from shieldmw.demo.live_event import ATTACKER, GUESTS, MEMBER_PACE, MEMBERS, groups, issuer
from shieldmw.demo.polled import LEASE_S, POLL_EACH_S
from shieldmw.rehearsal.load.crowd import Pace, Phase, Story
from shieldmw.rehearsal.load.listeners import Arrival
from shieldmw.rehearsal.load.tokens import Issuer

NEW_MEMBERS: Final = "new members"
POLLING_MEMBERS: Final = "polling members"
POLLING_GUESTS: Final = "polling guests"

# In normal mode there are seats for all; in the emergency for every member, and for no guest (see below). With leases
# as short as these a tenth of the seats stay empty.
CAPACITY: Final = 500
EMERGENCY_CAPACITY: Final = 110
ADMIN_PATH: Final = "/-/shield"
REASON: Final = "a flood on the live stream"

_GUEST_SOURCES: Final = tuple(f"127.0.4.{n}" for n in range(1, 91))
_MEMBERS_SOURCE: Final = "127.0.3.2"
PROBE_SOURCES: Final = tuple(f"127.0.5.{n}" for n in range(1, 41))
_PROBES_NETWORK: Final = "127.0.5.0/24"
_POLLING_SOURCES: Final = tuple(f"127.0.8.{n}" for n in range(1, 31))
SECOND_ACT_SOURCES: Final = (*_GUEST_SOURCES, _MEMBERS_SOURCE, *PROBE_SOURCES, *BOT_SOURCES, *_POLLING_SOURCES)
_MEMBERS_LISTENING: Final = 60
_NEW_MEMBERS: Final = 6
_MEMBERS_POLLING: Final = 20
_PLAYLIST: Final = "/hls/live.m3u8"

# Wait of clients that are turned away; at a real event it would be minutes.
_RETRY_AFTER_S: Final = 3
# One request a second: enough for listeners that obey their waits, and far less than an attacker sends.
_EMERGENCY_IP_LIMIT: Final = "6 per 6 second"
_GUEST_PACE: Final = Pace(per_s=0.4)
# A third of the first act's: the machine has to carry the botnet as well.
_ATTACK_PACE: Final = Pace(per_s=10, lanes=2)

_CALM: Final = {GUESTS: _GUEST_PACE, MEMBERS: MEMBER_PACE}
_STORM: Final = {**_CALM, BOTNET: BOT_PACE, ATTACKER: _ATTACK_PACE}


@dataclass(frozen=True, slots=True)
class _Scene:
    """A phase of the act: its part of the time, its minimum, and the pace of each group."""

    name: str
    part: float
    least_s: float
    paces: Mapping[str, Pace]


# A worker that has not yet been flooded takes a second to learn what its app can do.
LEARNT_AFTER_S: Final = 2.0

# However short the demo, a cut takes ten seconds and a lease, and clients that were turned away return some seconds
# after its end.
_FILL, _ATTACK, _EMERGENCY, _AFTER = _SCENES = (
    _Scene("the room fills", 3 / 35, 3, _CALM),
    _Scene("attack", 5 / 35, 5, _STORM),
    _Scene("EMERGENCY", 21 / 35, 21, _STORM),
    _Scene("open again", 6 / 35, 6, _CALM),
)


@dataclass(frozen=True, slots=True)
class Plan:
    """The schedule of the act; times are seconds from its beginning."""

    story: Story
    arrivals: tuple[Arrival, ...]
    attack_at_s: float
    flip_at_s: float
    emergency_s: int


def fewer_listeners(seconds: float, jwt_secret: str, now_s: int) -> Plan:
    """The act, in about this many seconds. ``now_s`` is Unix time."""
    lasting = {scene.name: max(scene.least_s, round(seconds * scene.part, 1)) for scene in _SCENES}
    emergency_s = lasting[_EMERGENCY.name] = round(lasting[_EMERGENCY.name])
    phases = tuple(Phase(scene.name, lasting[scene.name], scene.paces) for scene in _SCENES)
    signed_by = issuer(jwt_secret, now_s)
    attack_at_s = lasting[_FILL.name]
    flip_at_s = attack_at_s + lasting[_ATTACK.name]
    arrivals = (*_first(signed_by, attack_at_s * 0.7), *_late(signed_by, flip_at_s + 2, emergency_s * 0.5))
    story = Story((*groups(signed_by), botnet()), phases)
    return Plan(story, arrivals, attack_at_s, flip_at_s, emergency_s)


def emergency_settings(url: str, admin_token: str) -> Mapping[str, str]:
    """The settings of this act, in addition to those of the first."""
    return {
        **app_settings(),
        # On the allow list, as monitoring would be: probes that queue in an overload would measure the queue.
        "SHIELD_ALLOW_IPS": _PROBES_NETWORK,
        "SHIELD_LIVE_PATHS": "/live,/chat",
        "SHIELD_RULES": json.dumps([{"name": "playlist", "path": _PLAYLIST, "polled": True, "lease_seconds": LEASE_S}]),
        "SHIELD_CAPACITY": str(CAPACITY),
        "SHIELD_EMERGENCY_CAPACITY": str(EMERGENCY_CAPACITY),
        "SHIELD_EMERGENCY_GUEST_SHARE": "0",
        "SHIELD_EMERGENCY_IP_LIMIT": _EMERGENCY_IP_LIMIT,
        "SHIELD_RETRY_AFTER": str(_RETRY_AFTER_S),
        "SHIELD_TOKEN_QUERY": "token",
        "SHIELD_RECORDING_URL": f"{url}/recording",
        "SHIELD_SIGN_IN_URL": f"{url}/",
        "SHIELD_ADMIN_TOKEN": admin_token,
        "SHIELD_ADMIN_PATH": ADMIN_PATH,
    }


def switch_lines(url: str, admin_token: str) -> tuple[str, ...]:
    """Commands to try the switch by hand."""
    return (
        "# flip the switch, with listeners on: open the page above in a browser, or",
        f"curl -N {url}/live &",
        f"export SHIELD_ADMIN_URL={url} SHIELD_ADMIN_TOKEN={admin_token}",
        'shieldmw mode emergency --for 1m --reason "trying it out"',
        f"curl -i {url}/live    # a guest at the door",
        "shieldmw mode normal",
    )


def _first(signed_by: Issuer, within_s: float) -> Iterable[Arrival]:
    """The arrivals of the first members and guests, one after the other."""
    members = [_member(signed_by, f"listener-{n:02}", MEMBERS) for n in range(1, _MEMBERS_LISTENING + 1)]
    guests = [(source, GUESTS, source, "/live") for source in _GUEST_SOURCES]
    polling = [_member(signed_by, f"poller-{n:02}", POLLING_MEMBERS, _PLAYLIST) for n in range(1, _MEMBERS_POLLING + 1)]
    polling += [(source, POLLING_GUESTS, source, _PLAYLIST) for source in _POLLING_SOURCES]
    return (*_spread([*members, *guests], 0.0, within_s), *_spread(polling, 0.0, within_s, POLL_EACH_S))


def _late(signed_by: Issuer, from_s: float, within_s: float) -> Iterable[Arrival]:
    """The arrivals of members in the middle of the emergency."""
    late = [_member(signed_by, f"latecomer-{n}", NEW_MEMBERS) for n in range(1, _NEW_MEMBERS + 1)]
    return _spread(late, from_s, within_s)


def _member(signed_by: Issuer, name: str, group: str, path: str = "/live") -> tuple[str, str, str, str]:
    # A page cannot set headers of an EventSource: the token is in the query.
    return name, group, _MEMBERS_SOURCE, f"{path}?token={signed_by.token(name)}"


def _spread(
    people: list[tuple[str, str, str, str]], from_s: float, within_s: float, polls_each_s: float = 0.0
) -> Iterable[Arrival]:
    for index, person in enumerate(people):
        yield Arrival(*person, at_s=from_s + within_s * index / len(people), polls_each_s=polls_each_s)
