"""Plain IPv4 addresses are found by a fast path, with the same result as by parsing the header in full."""

from __future__ import annotations

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from gate.doubles import facts, packed
from shieldmw.core.address import Addressing, Networks, parse_networks
from shieldmw.core.client import Address, Prefixes
from shieldmw.core.facts import Facts
from shieldmw.core.rules import Policy
from shieldmw.gate.limiter.lookups import Lookups

SPELLINGS = [
    *("203.0.113.7", "127.0.0.1", "127.0.0.2", "10.0.0.1", "192.0.2.1", "198.51.100.1", "0.0.0.0", "255.255.255.255"),
    *("203.0.113.7:80", "127.0.0.1:80", "[203.0.113.7]", " 203.0.113.7", "203.0.113.7\t", "203.0.113.07", "203.0.113"),
    *(
        "203.0.113.256",
        "0x7f.0.0.1",
        "2130706433",
        "127.1",
        "203.0.113.7\x00",
        "203.0.113.7%1",
        "\u0661.0.0.1",
        "1.2.3.4.5",
    ),
    *("::ffff:203.0.113.7", "::ffff:127.0.0.1", "::ffff:7f00:1", "[::ffff:127.0.0.1]:80", "::203.0.113.7", "::1"),
    *(
        "2001:db8::7",
        "[2001:db8::7]:443",
        "2001:DB8:0::7",
        "fe80::1%eth0",
        "unknown",
        "_hidden",
        "unix",
        "",
        ",",
        "\udcff",
    ),
]
HOPS = st.sampled_from(SPELLINGS) | st.ip_addresses().map(str) | st.text(max_size=16)
LINES = HOPS | st.lists(HOPS, min_size=1, max_size=3).map(", ".join) | HOPS.map(lambda hop: f"for={hop}")
TRUSTED = st.sampled_from(
    ["", "127.0.0.1", "127.0.0.0/8, 10.0.0.0/8", "0.0.0.0/0", "::/0", "127.0.0.0/8, ::1, unix", "unix", "::ffff:0:0/96"]
)
NETWORKS = st.sampled_from(["", "", "", "127.0.0.0/8", "203.0.113.0/24, 2001:db8::/32", "unix", "0.0.0.0/0"])
HEADERS = st.sampled_from(["x-forwarded-for", "x-real-ip", "forwarded", "cloudfront-viewer-address"])
PREFIXES = st.tuples(st.sampled_from([32, 32, 24]), st.sampled_from([64, 56, 48, 128]))


def networks(text: str) -> Networks:
    """Networks, and maybe a unix socket."""
    entries = [entry.strip() for entry in text.split(",") if entry.strip()]
    return Networks(parse_networks(",".join(entry for entry in entries if entry != "unix")), unix="unix" in entries)


class Careful(Lookups):
    """Lookups that count how often they read carefully."""

    careful = 0

    def _read_carefully(self, facts: Facts) -> Address | None:
        self.careful += 1
        return super()._read_carefully(facts)


def lookups(trusted: str, header: str, prefixes: tuple[int, int], allow: str = "", deny: str = "") -> Careful:
    """Lookups as settings make them."""
    addressing = Addressing(networks(trusted), header, Prefixes(*prefixes))
    return Careful(Policy(allow=networks(allow), deny=networks(deny)), addressing)


def asked(peer: str | None, *lines: str) -> Facts:
    """A request from a peer, with these lines of the proxy's header."""
    return facts(peer=peer)._replace(forwarded=lines)


REQUESTS = st.builds(asked, st.none() | HOPS, LINES) | st.builds(asked, st.none() | HOPS, LINES, LINES)
REQUESTS |= st.builds(asked, st.none() | HOPS)


@settings(deadline=None, max_examples=1000)
@given(st.lists(REQUESTS, min_size=1, max_size=6), TRUSTED, HEADERS, PREFIXES, NETWORKS, NETWORKS)
@example(
    [asked("127.0.0.1", "192.0.2.1"), asked("127.0.0.1", "127.0.0.2")], "127.0.0.0/8", "x-real-ip", (32, 64), "", ""
)
def test_an_address_found_quickly_is_the_one_found_carefully(
    requests: list[Facts], trusted: str, header: str, prefixes: tuple[int, int], allow: str, deny: str
) -> None:
    """In any order, and however hostile the text; each comes once more behind the proxies of the others."""
    quick, careful = (lookups(trusted, header, prefixes, allow, deny) for _ in range(2))
    peers = [request.peer for request in requests]
    for request in [*requests, *(request._replace(peer=peer) for peer in peers for request in requests)]:
        for _ in range(2):
            assert quick.address(request) == careful._read_carefully(request)


@pytest.mark.parametrize(
    ("peer", "lines", "address", "careful"),
    [
        ("203.0.113.7", (), "203.0.113.7", 0),
        ("127.0.0.1", (), "127.0.0.1", 0),
        ("127.0.0.1", ("203.0.113.7",), "203.0.113.7", 0),
        ("127.0.0.1", ("127.0.0.2",), "127.0.0.1", 1),
        ("127.0.0.1", ("192.0.2.1, 203.0.113.7",), "203.0.113.7", 1),
        ("127.0.0.1", ("192.0.2.1", "203.0.113.7"), "203.0.113.7", 1),
        ("203.0.113.8", ("203.0.113.7",), "203.0.113.8", 0),
        ("2001:db8::7", (), "2001:db8::7", 1),
        (None, (), None, 1),
    ],
)
def test_what_a_flood_comes_from_is_found_quickly(
    peer: str | None, lines: tuple[str, ...], address: str | None, careful: int
) -> None:
    """Once the proxy is known; a peer that is not trusted never becomes one."""
    found = lookups("127.0.0.0/8", "x-forwarded-for", (32, 64))
    for known in ("127.0.0.1", "203.0.113.8"):
        found.address(asked(known, "198.51.100.1"))
    assert found._proxy == "127.0.0.1"
    found.careful = 0
    expected: Address | None = None if address is None else packed(address)
    assert found.address(asked(peer, *lines)) == expected
    assert found.careful == careful
