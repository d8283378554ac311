"""The lockout: after each wrong password the address waits longer, and other addresses are not affected."""

from __future__ import annotations

from ipaddress import ip_address

import pytest

from core.addresses import clients_at
from shieldmw.core.client import AddressClients
from shieldmw.core.lockout import ADDRESSES_KEPT, FIRST_S, LONGEST_S, Lockout

DAY_S = 86_400.0


ATTACKER = clients_at("203.0.113.7")


def failed(lockout: Lockout, times: int, clients: AddressClients = ATTACKER, now_s: float = 0.0) -> float:
    """Fail so often; how long the address must wait then."""
    for _ in range(times):
        lockout.failed(clients, now_s)
    return lockout.wait_s(clients, now_s)


@pytest.mark.parametrize(
    ("times", "wait_s"),
    [
        (0, 0.0),
        (1, 0.0),  # a slip of the finger
        (2, 0.0),
        (3, FIRST_S),
        (4, 2 * FIRST_S),  # doubled with each
        (5, 4 * FIRST_S),
        (13, 1024 * FIRST_S),
        (14, LONGEST_S),  # and no longer than that
        (10_000, LONGEST_S),
    ],
)
def test_the_wait_grows(times: int, wait_s: float) -> None:
    """From the third failure on the wait doubles, up to an hour."""
    assert failed(Lockout(), times) == wait_s


def test_waiting_ends() -> None:
    """The wait runs down to nothing and never below."""
    lockout = Lockout()
    failed(lockout, 5)
    assert lockout.wait_s(ATTACKER, 1.0) == 4 * FIRST_S - 1.0
    assert lockout.wait_s(ATTACKER, 4 * FIRST_S) == 0.0
    assert lockout.wait_s(ATTACKER, 1e9) == 0.0


def test_a_wait_that_was_sat_out_is_not_forgotten() -> None:
    """An address that waits and fails again must wait twice as long, not as at first."""
    lockout = Lockout()
    wait_s = failed(lockout, 5)
    assert failed(lockout, 1, now_s=wait_s) == 2 * wait_s


def test_a_success_forgets() -> None:
    """A right password clears the failures."""
    lockout = Lockout()
    failed(lockout, 9)
    lockout.succeeded(ATTACKER)
    assert lockout.wait_s(ATTACKER, 0.0) == 0.0
    assert failed(lockout, 2) == 0.0


def test_a_day_without_failure_forgets() -> None:
    """After a day failures count from one again, not a moment sooner."""
    early, late = Lockout(), Lockout()
    wait_s = failed(early, 5)
    failed(late, 5)
    assert failed(early, 1, now_s=wait_s + DAY_S) == 2 * wait_s
    assert failed(late, 1, now_s=wait_s + DAY_S + 1) == 0.0


def test_others_do_not_wait() -> None:
    """One address's failures cost its neighbour nothing."""
    lockout = Lockout()
    failed(lockout, 20)
    assert lockout.wait_s(clients_at("203.0.113.8"), 0.0) == 0.0


def test_an_ipv6_site_waits_as_one() -> None:
    """Another address, or another /64, of the same /56 does not begin anew; another site does."""
    lockout = Lockout()
    failed(lockout, 20, clients_at("2001:db8:0:1::1"))
    assert lockout.wait_s(clients_at("2001:db8:0:1::2"), 0.0) == LONGEST_S
    assert lockout.wait_s(clients_at("2001:db8:0:ff::1"), 0.0) == LONGEST_S
    assert lockout.wait_s(clients_at("2001:db8:0:100::1"), 0.0) == 0.0


def test_memory_is_bounded() -> None:
    """A crowd of other addresses makes the oldest forgotten; one that fails again is among the newest."""
    lockout = Lockout()
    first, second = clients_at("198.51.100.1"), clients_at("198.51.100.2")
    failed(lockout, 5, first)
    failed(lockout, 5, second)
    for number in range(ADDRESSES_KEPT - 2):
        lockout.failed(clients_at(str(ip_address(0x0A000000 + number))), 0.0)
    lockout.failed(first, 0.0)
    lockout.failed(clients_at("192.0.2.1"), 0.0)
    assert lockout.wait_s(second, 0.0) == 0.0
    assert lockout.wait_s(first, 0.0) > 0.0
