"""The lines that name refused clients: their format, their number, and that fail2ban bans nobody else by them."""

from __future__ import annotations

import json
import logging
import subprocess
from collections.abc import Callable, Sequence
from ipaddress import ip_network
from pathlib import Path

import pytest

from core.addresses import packed
from gate.doubles import FakeClock, clock_of, memory_store, run
from servers import REPOSITORY, require
from shieldmw import Identity, ListenerClass, Settings
from shieldmw.cli.worker import LOG_FORMAT
from shieldmw.core.address import Networks
from shieldmw.core.bucket import Charge, Outcome
from shieldmw.core.client import Client, shared_client
from shieldmw.core.decision import Decision, Reason, Verdict
from shieldmw.core.facts import Facts
from shieldmw.core.limits import Limit
from shieldmw.gate.events import Evicted
from shieldmw.telemetry.refused_clients import RefusedClients
from shieldmw.wiring import build_worker

FILTER = REPOSITORY / "examples" / "fail2ban" / "filter.d" / "shieldmw.conf"
LIMIT = Limit("ip", 300, 60, 300)
OWN = Client("ip", "203.0.113.7/32", "ip:203.0.113.7/32")
MANY = shared_client("guests", "guests")
# What a client might send to have somebody else banned, or to have a line that is not read.
HOSTILE = [
    "/x\n2026-11-28 11:30:49,123 1 INFO shieldmw.refused refused client=192.0.2.66 reason=quota whose=own policies=ip "
    'class=guest path="',
    '/x" client=192.0.2.66 reason=quota whose=own policies=ip class=guest path="',
    "refused client=192.0.2.66 reason=quota whose=own policies=ip class=guest path=",
    "/\r\u2028\x85\x0b\x1b[2Krefused client=192.0.2.66",
    "/\\",
    "/\udcff\x00",
    "/ from 192.0.2.66 port 22",
    "/2001-01-01 00:00:00,000",
    "/%s%d",
]


def refusal(
    address: str | None = "203.0.113.7",
    *,
    reason: Reason = Reason.QUOTA,
    verdict: Verdict = Verdict.REFUSED,
    path: str = "/x",
    identity: Identity | None = None,
    client: Client = OWN,
    credential: str | None = None,
) -> tuple[Facts, Decision]:
    """One decision."""
    charges = (Charge(client, LIMIT),) if reason is Reason.QUOTA else ()
    outcome = Outcome(False, 0, (LIMIT.tau_us,)) if charges else None
    facts = Facts(address, path, path, frozenset({"GET"}), credential=credential)
    return facts, Decision(verdict, reason, None if address is None else packed(address), identity, charges, outcome)


@pytest.fixture
def lines(caplog: pytest.LogCaptureFixture) -> Callable[[], list[str]]:
    """What was logged."""
    caplog.set_level(logging.INFO, logger="shieldmw.refused")
    return lambda: [record.getMessage() for record in caplog.records if record.name == "shieldmw.refused"]


def lines_of(
    events: Sequence[tuple[Facts, Decision]], lines: Callable[[], list[str]], proxies: Networks | None = None
) -> list[str]:
    """The lines for these events."""
    writer = RefusedClients(1000, proxies or Networks(), FakeClock().s)
    for event in events:
        writer.decided(*event)
    return lines()


# --- format ---------------------------------------------------------------------------------------


def test_a_line_has_its_fields_in_a_fixed_order(lines: Callable[[], list[str]]) -> None:
    """The address is first, the client's text last; no subject, no credential."""
    member = Identity("ada", ListenerClass.MEMBER)
    events = [
        refusal(credential="a-secret"),
        refusal("2001:db8::7", reason=Reason.DENY_LIST),
        refusal(identity=member, verdict=Verdict.DRY_RUN),
        refusal(client=MANY),
        refusal(reason=Reason.NO_SEAT),
    ]
    assert lines_of(events, lines) == [
        'refused client=203.0.113.7 reason=quota whose=own policies=ip class=guest path="/x"',
        'refused client=2001:db8::7 reason=deny_list whose=own policies=- class=guest path="/x"',
        'dry_run client=203.0.113.7 reason=quota whose=own policies=ip class=member path="/x"',
        'refused client=203.0.113.7 reason=quota whose=shared policies=ip class=guest path="/x"',
        'refused client=203.0.113.7 reason=no_seat whose=shared policies=- class=guest path="/x"',
    ]


def test_only_clients_whose_address_is_known_have_lines(lines: Callable[[], list[str]]) -> None:
    """Not those behind a unix socket, nor those behind a trusted proxy that names none: it would be the proxy's ban."""
    proxies = Networks((ip_network("10.0.0.0/8"),))
    assert not lines_of([refusal(None), refusal("10.0.0.1")], lines, proxies)
    assert len(lines_of([refusal()], lines, proxies)) == 1


@pytest.mark.parametrize("path", [*HOSTILE, "/" + "\U0001f600" * 10_000])
def test_a_path_stays_in_its_quotes(path: str, lines: Callable[[], list[str]]) -> None:
    """One line of bounded length in ASCII, whose last field is a JSON string."""
    (line,) = lines_of([refusal(path=path)], lines)
    assert line.isascii()
    assert line.isprintable()
    assert len(line) < 2500
    before, quoted = line.split(" path=", 1)
    assert before == "refused client=203.0.113.7 reason=quota whose=own policies=ip class=guest"
    assert json.loads(quoted) == path[:200]


# --- number ---------------------------------------------------------------------------------------


def test_a_flood_writes_no_more_lines_than_set(lines: Callable[[], list[str]]) -> None:
    """What is left out is counted, once there is room again."""
    clock = FakeClock()
    writer = RefusedClients(2, Networks(), clock.s)
    for _ in range(5):
        writer.decided(*refusal())
    assert len(lines()) == 2
    clock.now_s += 0.9
    writer.decided(*refusal())
    assert len(lines()) == 2
    clock.now_s += 0.2
    writer.decided(*refusal())
    writer.evicted(Evicted(ListenerClass.GUEST, 3))
    assert [line.split(" reason")[0] for line in lines()[2:]] == ["left_out count=4", "refused client=203.0.113.7"]


@pytest.mark.parametrize(
    ("settings", "whose"),
    [
        ({"ip_limit": "1/hour"}, ["own"]),
        ({"ip_limit": "off", "guests_limit": "1/hour"}, ["shared"]),
        ({"ip_limit": "1/hour", "refusal_lines": 0}, []),
    ],
)
def test_a_worker_writes_them_if_it_is_set_to(
    settings: dict[str, object], whose: list[str], lines: Callable[[], list[str]]
) -> None:
    """By default there are none. A limit that all guests share is not the fault of the one that it refuses."""

    async def story() -> None:
        clock = FakeClock()
        worker = build_worker(
            Settings.model_validate({"refusal_lines": 9, **settings}), memory_store(clock), clock_of(clock.s)
        )
        facts = Facts("203.0.113.7", "/", "/", frozenset({"GET"}))
        for _ in range(3):
            clock.now_s += 2
            decision = worker.gate.decide_now(facts)
            if not isinstance(decision, Decision):
                await decision

    run(story())
    assert [line.split()[3].removeprefix("whose=") for line in lines()] == whose * 2
    assert Settings().refusal_lines == 0


# --- fail2ban -------------------------------------------------------------------------------------


def banned(messages: Sequence[str], folder: Path, *, before: str = "") -> list[str]:
    """The addresses that the real fail2ban finds in these messages, as `shieldmw serve` writes them."""
    log = folder / "shieldmw.log"
    formatter = logging.Formatter(LOG_FORMAT)
    records = [logging.LogRecord("shieldmw.refused", logging.INFO, "", 0, message, None, None) for message in messages]
    log.write_text("".join(f"{before}{formatter.format(record)}\n" for record in records))
    command = [require("fail2ban-regex"), "-o", "ip", str(log), str(FILTER)]
    found = subprocess.run(command, capture_output=True, check=False, text=True, timeout=60)
    assert "ERROR" not in found.stderr, found.stderr
    return found.stdout.split()


@pytest.mark.parametrize("before", ["", "Nov 28 11:30:49 web-1 shieldmw[4711]: "])
def test_fail2ban_finds_the_guests_that_are_the_cause(
    before: str, tmp_path: Path, lines: Callable[[], list[str]]
) -> None:
    """IPv4 and IPv6, in a file and in the journal."""
    events = [refusal(), refusal("2001:db8::7"), refusal("203.0.113.8", reason=Reason.DENY_LIST)]
    assert banned(lines_of(events, lines), tmp_path, before=before) == ["203.0.113.7", "2001:db8::7", "203.0.113.8"]


def test_fail2ban_bans_nobody_for_what_is_no_fault_of_theirs(tmp_path: Path, lines: Callable[[], list[str]]) -> None:
    """A dry run, a shared limit, any other reason, a member. The last line is there to see that it has read them."""
    others = [reason for reason in Reason if reason not in (Reason.QUOTA, Reason.DENY_LIST)]
    events = [
        refusal(verdict=Verdict.DRY_RUN),
        refusal(client=MANY),
        *(refusal(reason=reason) for reason in others),
        refusal(identity=Identity("ada", ListenerClass.MEMBER)),
        refusal("198.51.100.1"),
    ]
    assert banned(["left_out count=7", *lines_of(events, lines)], tmp_path) == ["198.51.100.1"]


def test_no_client_can_have_another_banned(tmp_path: Path, lines: Callable[[], list[str]]) -> None:
    """Whatever the path holds, the address is that of the client which sent it."""
    events = [refusal(path=path, credential=path, identity=None) for path in HOSTILE]
    assert banned(lines_of(events, lines), tmp_path) == ["203.0.113.7"] * len(HOSTILE)
    members = [refusal(path=path, identity=Identity(path, ListenerClass.MEMBER)) for path in HOSTILE]
    assert not banned(lines_of(members, lines)[len(HOSTILE) :], tmp_path)


@pytest.mark.parametrize("path", HOSTILE)
def test_other_lines_of_the_log_ban_nobody(path: str, tmp_path: Path, lines: Callable[[], list[str]]) -> None:
    """A line of another logger that shows a client's text, with no escape but that of its line breaks."""
    (line,) = lines_of([refusal("192.0.2.66")], lines)
    text = path.replace("\n", " ").encode("ascii", "replace").decode()
    shown = [f"GET {text} {line}", f'"GET /{line}" 200', f"user agent INFO shieldmw.refused {line}"]
    assert not banned(shown, tmp_path)
