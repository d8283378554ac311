"""Which tickets were lately renewed: remembered for as long as the lease runs, in as many bytes as ever."""

from __future__ import annotations

from hashlib import blake2b

from shieldmw.core.renewed import Renewal, RenewedTickets

NOW_S = 1_800_000_000.5


def key(number: int) -> int:
    """One of many random keys."""
    return int.from_bytes(blake2b(str(number).encode(), digest_size=8).digest(), "big")


def until(left_s: int, times: int = 1) -> Renewal:
    """A lease that runs for so long from now on."""
    return Renewal(int(NOW_S) + left_s, int(NOW_S) + 5, times)


def test_a_renewal_is_remembered_until_its_lease_ends() -> None:
    """However long it is, beside leases of another length."""
    renewed = RenewedTickets(1024)
    assert renewed.get(key(1), NOW_S) is None
    for number, left_s in enumerate((6, 30, 600)):
        renewed.put(key(number), until(left_s), NOW_S)
    for number, left_s in enumerate((6, 30, 600)):
        assert renewed.get(key(number), NOW_S + left_s - 1) == until(left_s)
        assert renewed.get(key(number), NOW_S + left_s) is None


def test_the_last_renewal_of_a_ticket_counts() -> None:
    """It takes the place of the one before."""
    renewed = RenewedTickets(8)
    for times in range(1, 20):
        renewed.put(key(7), until(times, times), NOW_S)
        assert renewed.get(key(7), NOW_S) == until(times, times)
    assert sum(renewed.get(key(number), NOW_S) is not None for number in range(100)) == 1


def test_half_of_what_it_holds_is_remembered() -> None:
    """But for about 1 of 100; nothing is taken for anything else, and the memory stays as it was."""
    renewed = RenewedTickets(16_384)
    renewed.put(key(0), until(30), NOW_S)
    size = len(renewed._entries)
    for number in range(8192):
        renewed.put(key(number), until(30), NOW_S)
    assert sum(renewed.get(key(number), NOW_S) is not None for number in range(8192)) > 0.98 * 8192
    assert not any(renewed.get(key(number), NOW_S) for number in range(8192, 200_000))
    assert len(renewed._entries) == size == 16_384 * 17


def test_where_there_is_no_place_the_first_to_end_is_forgotten() -> None:
    """So a flood of short leases beside a long one leaves the long one, and ended ones take no place."""
    renewed = RenewedTickets(8)
    renewed.put(key(0), until(600), NOW_S)
    for number in range(1, 100):
        renewed.put(key(number), until(6), NOW_S)
    assert renewed.get(key(0), NOW_S) == until(600)
    for number in range(100, 107):
        renewed.put(key(number), until(30), NOW_S + 7)
    assert all(renewed.get(key(number), NOW_S + 7) for number in (0, *range(100, 107)))


def test_any_time_is_taken() -> None:
    """A clock that is far ahead is no error: such a lease ends in 2106."""
    renewed = RenewedTickets(8)
    renewed.put(key(1), Renewal(2**40, 2**40, 2), 2.0**33 - 1)
    assert renewed.get(key(1), NOW_S) == Renewal(2**32 - 1, 2**32 - 1, 2)
