"""Signed tickets and numbers: valid only if signed for this event and client, and not expired."""

from __future__ import annotations

import base64
import math
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shieldmw.core.bounds import LONGEST_SIGNED_TICKET
from shieldmw.core.client import ListenerClass
from shieldmw.core.seats import COHORTS
from shieldmw.core.tickets import Number, Signer, Ticket, number_in, ticket_of

SECRET = b"a secret of at least 32 characters"
NOW_S = 1_800_000_000.0
ALICE = Signer(SECRET, "interview").client_digest(b"token:alice")


def signer(secret: bytes = SECRET, event: str = "interview") -> Signer:
    """What signs papers of the event."""
    return Signer(secret, event)


def ticket(listener_class: ListenerClass = ListenerClass.MEMBER, until_s: int = int(NOW_S) + 3600) -> Ticket:
    """Alice's ticket."""
    return Ticket("0011223344556677", ALICE, listener_class, until_s, first_ms=int(NOW_S * 1000))


def number(until_s: int = int(NOW_S) + 600) -> Number:
    """Alice's number."""
    return Number(17, ALICE, until_s)


@pytest.mark.parametrize("listener_class", list(ListenerClass))
def test_a_ticket_that_was_signed_is_read_back(listener_class: ListenerClass) -> None:
    """What was signed is what is read, in every class."""
    signed = ticket(listener_class)
    assert signer().read_ticket(signer().sign_ticket(signed), NOW_S) == signed


def test_a_ticket_holds_the_end_of_a_lease() -> None:
    """The end of a lease seat is signed with the ticket."""
    leased = ticket()._replace(leased_until_s=int(NOW_S) + 30)
    assert signer().read_ticket(signer().sign_ticket(leased), NOW_S + 60) == leased


LARGEST = 2**64 - 1
numbers = st.integers(0, LARGEST)


@given(
    numbers, numbers, st.binary(min_size=12, max_size=12), st.sampled_from(ListenerClass), numbers, numbers, st.text()
)
def test_every_ticket_is_read_back(
    id_: int, number_: int, client: bytes, name: ListenerClass, until_s: int, ms: int, event: str
) -> None:
    """Whatever its fields, for its own event, and the id of one that was a number in the waiting room, too."""
    signed_for = signer(event=event)
    for id_text in (f"{id_:016x}", ticket_of(number_, client.hex())):
        signed = Ticket(id_text, client.hex(), name, until_s, ms, id_, number_ & 0xFFFFFFFF)
        assert signed_for.read_ticket(signed_for.sign_ticket(signed), -1) == signed
    given_number = Number(number_, client.hex(), until_s)
    assert signed_for.read_number(signed_for.sign_number(given_number), -1) == given_number


@pytest.mark.parametrize("id_", ["", "n", "n-", "nx-1", "0011", "x" * 16, "12-34", ":" * 5])
def test_other_ids_hold_no_number(id_: str) -> None:
    """An id comes in other workers' messages, too."""
    assert number_in(id_) is None


def test_a_number_that_was_signed_is_read_back() -> None:
    """A number in the waiting room comes back as it was given."""
    assert signer().read_number(signer().sign_number(number()), NOW_S) == number()


@pytest.mark.parametrize(
    ("other", "why"),
    [
        (signer(b"another secret of at least 32 characters"), "signed by somebody else"),
        (signer(event="debate"), "of another event, signed with the same secret"),
        (signer(event=""), "of no event"),
    ],
)
def test_signed_tickets_of_others_are_worth_nothing(other: Signer, why: str) -> None:
    """A paper that another secret or another event signed is none of ours."""
    assert signer().read_ticket(other.sign_ticket(ticket()), NOW_S) is None, why
    assert signer().read_number(other.sign_number(number()), NOW_S) is None, why


@pytest.mark.parametrize(("later_s", "good"), [(-1, True), (-0.001, True), (0, False), (1, False), (1e9, False)])
def test_signed_tickets_end(later_s: float, good: bool) -> None:
    """A paper is good until its time and not a moment longer."""
    signed_tickets = signer()
    until_s = int(NOW_S)
    shown_s = until_s + later_s
    assert (
        signed_tickets.read_ticket(signed_tickets.sign_ticket(ticket(until_s=until_s)), shown_s) is not None
    ) is good
    assert (signed_tickets.read_number(signed_tickets.sign_number(number(until_s)), shown_s) is not None) is good


def test_a_number_is_no_ticket_and_a_ticket_no_number() -> None:
    """A paper is good for what it was signed for alone."""
    signed_tickets = signer()
    assert signed_tickets.read_ticket(signed_tickets.sign_number(number()), NOW_S) is None
    assert signed_tickets.read_number(signed_tickets.sign_ticket(ticket()), NOW_S) is None


def test_every_single_change_of_a_signed_ticket_is_seen() -> None:
    """Not one character of a paper can be changed, dropped or added."""
    signed_tickets = signer()
    text = signed_tickets.sign_ticket(ticket())
    alphabet = "Ab0-_.="
    changed = {text[:at] + letter + text[at + 1 :] for at in range(len(text)) for letter in alphabet}
    dropped = {text[:at] + text[at + 1 :] for at in range(len(text))}
    added = {text[:at] + letter + text[at:] for at in range(len(text) + 1) for letter in alphabet}
    for forged in (changed | dropped | added) - {text}:
        assert signed_tickets.read_ticket(forged, NOW_S) is None


def data_of(text: str) -> bytes:
    """What is written in base64url."""
    return base64.urlsafe_b64decode(text)


def test_no_bit_of_a_ticket_can_be_rewritten() -> None:
    """Neither class, client nor time under the old MAC, nor the MAC."""
    signed_tickets = signer()
    for text in (signed_tickets.sign_ticket(ticket(ListenerClass.GUEST)), signed_tickets.sign_number(number())):
        data = data_of(text)
        for bit in range(8 * len(data)):
            forged = bytearray(data)
            forged[bit >> 3] ^= 1 << (bit & 7)
            shown = base64.urlsafe_b64encode(forged).decode()
            assert (signed_tickets.read_ticket(shown, 0), signed_tickets.read_number(shown, 0)) == (None, None)


def test_a_ticket_has_one_spelling() -> None:
    """Neither the standard alphabet, nor padding, white space or line ends are read as the same."""
    signed_tickets = signer()
    for id_ in range(64):  # so that some have both special letters
        text = signed_tickets.sign_ticket(ticket()._replace(id=f"{id_:016x}"))
        other = base64.b64encode(data_of(text)).decode()
        for shown in (other, f"{text}=", f"{text}====", f" {text}", f"{text}\n", f"{text[:40]}\n{text[40:]}"):
            assert shown == text or signed_tickets.read_ticket(shown, NOW_S) is None


def test_the_fields_without_their_mac_are_none() -> None:
    """An empty MAC, that of another ticket, or that of the same fields for another purpose prove nothing."""
    signed_tickets = signer()
    data = data_of(signed_tickets.sign_ticket(ticket()))
    fields, other = data[:-17], data_of(signed_tickets.sign_ticket(ticket(ListenerClass.HOST)))[-17:]
    number_mac = signed_tickets._numbers.copy()
    number_mac.update(fields)
    for mac in (b"", bytes(17), other, data[-17:-1], number_mac.digest()):
        shown = base64.urlsafe_b64encode(fields + mac).decode()
        assert signed_tickets.read_ticket(shown, NOW_S) is None


of_their_length = st.sampled_from([60, 88]).flatmap(
    lambda size: st.text("aA0-_=/+\x80\ud800", min_size=size, max_size=size)
)


@given(text=st.text(max_size=2 * LONGEST_SIGNED_TICKET) | st.text("aA0-_=.", max_size=300) | of_their_length)
def test_no_text_at_all_raises(text: str) -> None:
    """Whatever is shown is read as nothing; no text is an error."""
    assert signer().read_ticket(text, NOW_S) is None
    assert signer().read_number(text, NOW_S) is None


@pytest.mark.parametrize(
    "text", ["\ud800.\udfff", "\x00.\x00", "é.é", "a.b.c.d", "..", "=.=", "=" * 500 + "." + "=" * 11, "[].[]", "٣.٣"]
)
def test_odd_text_is_nothing(text: str) -> None:
    """Surrogates, controls, foreign digits and too many dots are read as nothing."""
    assert signer().read_ticket(text, NOW_S) is None
    assert signer().read_number(text, NOW_S) is None


def test_a_signed_ticket_says_nothing_of_its_client() -> None:
    """The subject is on no paper, and its digest differs from event to event's secret."""
    text = signer().sign_ticket(ticket())
    assert b"alice" not in data_of(text)
    assert signer(b"another secret of at least 32 characters").client_digest(b"token:alice") != ALICE
    assert len(text) < LONGEST_SIGNED_TICKET


def test_a_cohort_stays_for_an_hour() -> None:
    """A reconnect within the hour, on any worker, does not roll the dice again."""
    hour_s = int(NOW_S // 3600) * 3600
    for name in (b"token:listener-%d" % number for number in range(200)):
        cohorts = {signer().cohort(name, hour_s + second) for second in (0, 1, 59.9, 1800, 3599.999)}
        assert len(cohorts) == 1


@pytest.mark.parametrize(
    ("event", "later_s"), [("debate", 0.0), ("interview", 3600.0)], ids=["another event", "the next hour"]
)
def test_cohorts_are_dealt_anew(event: str, later_s: float) -> None:
    """Another event and another hour have other cohorts: as many stay the same as by chance."""
    names = [b"token:listener-%d" % number for number in range(12_800)]
    same = sum(signer().cohort(name, NOW_S) == signer(event=event).cohort(name, NOW_S + later_s) for name in names)
    assert 50 <= same <= 150  # 100 expected, five deviations of 10


@pytest.mark.parametrize(
    "names", [[b"token:%d" % n for n in range(64_000)], [b"ip:\n\0%c%c" % (n // 256, n % 256) for n in range(64_000)]]
)
def test_cohorts_are_uniform(names: list[bytes]) -> None:
    """Every cohort is as large as every other, for subjects and for addresses in a row (chi-square)."""
    counts = Counter(signer().cohort(name, NOW_S) for name in names)
    assert set(counts) == set(range(COHORTS))
    expected = len(names) / COHORTS
    chi_square = sum((count - expected) ** 2 / expected for count in counts.values())
    freedom = COHORTS - 1
    assert abs(chi_square - freedom) < 5 * math.sqrt(2 * freedom)
