"""The deny list: which addresses are refused, and until when."""

from __future__ import annotations

import random
from ipaddress import ip_address, ip_network

import pytest

from core.addresses import packed
from shieldmw.core.deny import DenyEntry, DenyList


def denying(*networks: tuple[str, float]) -> DenyList:
    """A list of networks, each until a time."""
    return DenyList(1, tuple(DenyEntry(ip_network(name), until_s, "ops", "flood") for name, until_s in networks))


LIST = denying(
    ("203.0.113.7/32", 100.0),
    ("198.51.100.0/24", 200.0),
    ("198.51.100.128/25", 50.0),
    ("198.51.0.0/16", 150.0),
    ("2001:db8::/32", 300.0),
    ("2001:db8::1/128", 400.0),
)


@pytest.mark.parametrize(
    ("address", "now_s", "until_s"),
    [
        ("203.0.113.7", 0.0, 100.0),
        ("203.0.113.7", 99.9, 100.0),
        ("203.0.113.7", 100.0, None),  # the end is not part of it
        ("203.0.113.8", 0.0, None),  # a neighbour
        ("198.51.100.1", 0.0, 200.0),  # of several networks the one that lasts longest
        ("198.51.100.200", 0.0, 200.0),
        ("198.51.101.1", 0.0, 150.0),
        ("198.51.100.1", 199.0, 200.0),
        ("198.51.100.1", 200.0, None),
        ("198.52.0.1", 0.0, None),
        ("2001:db8:ffff::1", 0.0, 300.0),
        ("2001:db8::1", 350.0, 400.0),
        ("2001:db9::1", 0.0, None),
        ("::203.0.113.7", 0.0, None),  # IPv6 that ends in the same bits is another address
        (None, 0.0, None),  # a unix socket has no address
    ],
)
def test_who_is_refused(address: str | None, now_s: float, until_s: float | None) -> None:
    """An address is refused while any network around it is."""
    assert LIST.until_s(None if address is None else packed(address), now_s) == until_s


@pytest.mark.parametrize("name", ["0.0.0.0/0", "::/0"])
def test_a_whole_world_can_be_refused(name: str) -> None:
    """A prefix of length 0 covers its own kind of address and not the other."""
    four, six = (
        denying((name, 9.0)).until_s(packed("8.8.8.8"), 0.0),
        denying((name, 9.0)).until_s(packed("2a00::1"), 0.0),
    )
    assert {four, six} == {9.0, None}


def test_an_empty_list_refuses_nobody() -> None:
    """Without entries every address passes."""
    assert DenyList().until_s(packed("203.0.113.7"), 0.0) is None


@pytest.mark.parametrize("order", [1, -1])
def test_of_two_words_on_one_network_the_longer_holds(order: int) -> None:
    """The order of entries does not matter."""
    entries = [("10.0.0.0/8", 10.0), ("10.0.0.0/8", 20.0)][::order]
    assert denying(*entries).until_s(packed("10.1.1.1"), 0.0) == 20.0


def test_a_random_list_agrees_with_looking_at_each_entry() -> None:
    """What the table of prefixes says is what a search through all entries says."""
    dice = random.Random(3)
    for _ in range(100):
        addresses = [
            ip_address(dice.getrandbits(32) | 0x0A000000) if dice.random() < 0.5 else ip_address(dice.getrandbits(128))
            for _ in range(20)
        ]
        networks = [
            ip_network((address, dice.randint(0, address.max_prefixlen)), strict=False)
            for address in dice.sample(addresses, 10)
        ]
        listed = DenyList(1, tuple(DenyEntry(network, dice.random() * 10, "ops", "") for network in networks))
        for address in addresses:
            found = [entry.until_s for entry in listed.entries if address in entry.network and entry.until_s > 5]
            assert listed.until_s(address.packed, 5.0) == max(found, default=None)


def test_entries_whose_time_has_passed_are_not_in_force() -> None:
    """At its end an entry is over, as for the address it names."""
    listed = denying(("10.0.0.0/8", 10.0), ("10.1.0.0/16", 20.0))
    assert [entry.until_s for entry in listed.in_force(9.0)] == [10.0, 20.0]
    assert [entry.until_s for entry in listed.in_force(10.0)] == [20.0]
    assert listed.in_force(20.0) == []
