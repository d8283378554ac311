"""The deny list as text: complete, without overlaps, the same bytes on every worker, and nothing but networks."""

from __future__ import annotations

import asyncio
import re
from ipaddress import ip_address, ip_network
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shieldmw import Settings
from shieldmw.core.address import IPNetwork, Networks, parse_networks
from shieldmw.core.deny import DenyEntry, DenyList
from shieldmw.gate.operator.edge_list import EdgeList, edge_list
from shieldmw.store.memory import MemoryStore
from shieldmw.wiring import build_worker

NOW_S = 1_800_000_000.0


def entry(cidr: str, for_s: float = 60, **text: str) -> DenyEntry:
    """One entry of the fleet's list."""
    return DenyEntry(ip_network(cidr), NOW_S + for_s, text.get("actor", "kim"), text.get("reason", "flood"))


def listed(entries: list[DenyEntry], always: str = "", now_s: float = NOW_S, version: int = 7) -> EdgeList:
    """The list of these."""
    return edge_list(DenyList(version, tuple(entries)), parse_networks(always), now_s)


def networks(listed: EdgeList) -> list[IPNetwork]:
    """What the text denies."""
    return [ip_network(line) for line in listed.text.splitlines() if not line.startswith("#")]


def test_the_text_is_one_cidr_a_line_in_order_with_its_end_above() -> None:
    """The head tells the version and how many follow; every network has its length, and its end or none."""
    told = listed([entry("2001:db8::/32"), entry("203.0.113.7/32", 59.2), entry("9.0.0.0/8", 1)], "198.51.100.0/24")
    assert told.text == (
        "# shieldmw deny list\n# version: 7\n# networks: 4\n"
        "# until: 1800000001\n9.0.0.0/8\n"
        "# always\n198.51.100.0/24\n"
        "# until: 1800000060\n203.0.113.7/32\n"
        "# until: 1800000060\n2001:db8::/32\n"
        "# end\n"
    )
    assert told.until_s == NOW_S + 1
    assert re.fullmatch(r'"[0-9a-f]{32}"', told.etag)


def test_an_empty_list_is_told_as_such() -> None:
    """It has its head, so that nobody takes an empty file for it, and no end."""
    told = listed([])
    assert told.text == "# shieldmw deny list\n# version: 7\n# networks: 0\n# end\n"
    assert told.until_s == float("inf")


@pytest.mark.parametrize(
    ("entries", "always", "left"),
    [
        ([entry("10.0.0.0/8"), entry("10.1.0.0/16"), entry("10.1.2.3/32")], "", ["10.0.0.0/8"]),
        ([entry("10.1.0.0/16")], "10.0.0.0/8", ["10.0.0.0/8"]),
        ([entry("10.0.0.0/8")], "10.1.0.0/16", ["10.0.0.0/8"]),
        ([entry("10.0.0.0/9"), entry("10.128.0.0/9")], "", ["10.0.0.0/9", "10.128.0.0/9"]),
        ([entry("0.0.0.0/0"), entry("::/0"), entry("10.0.0.0/8"), entry("::1/128")], "", ["0.0.0.0/0", "::/0"]),
        ([entry("0.0.0.1/32")], "::1/128", ["0.0.0.1/32", "::1/128"]),
    ],
)
def test_no_network_is_inside_another(entries: list[DenyEntry], always: str, left: list[str]) -> None:
    """nftables accepts no overlaps; what is beside a network, or in the other family, is not inside it."""
    assert [str(network) for network in networks(listed(entries, always))] == left


def test_a_network_appears_when_the_one_around_it_ends() -> None:
    """The list says when that is, and is another one then."""
    entries = [entry("10.0.0.0/8", 10), entry("10.1.0.0/16", 20)]
    first = listed(entries)
    then = listed(entries, now_s=first.until_s)
    assert (first.until_s, str(networks(then)[0]), then.until_s) == (NOW_S + 10, "10.1.0.0/16", NOW_S + 20)
    assert first.etag != then.etag


def test_the_settings_win_over_an_entry_of_the_same_network() -> None:
    """It is denied for ever, so the shorter end is not told."""
    told = listed([entry("10.0.0.0/8", 10)], "10.0.0.0/8")
    assert "# always\n10.0.0.0/8" in told.text
    assert "until" not in told.text


def test_the_order_of_the_entries_changes_no_byte() -> None:
    """Workers read tables of the store in any order, and an edge may ask another one each time."""
    entries = [entry("10.0.0.0/8"), entry("9.0.0.0/8"), entry("::1/128")]
    assert listed(entries) == listed(entries[::-1])
    assert listed(entries).etag != listed(entries, version=8).etag


def test_no_text_that_somebody_wrote_is_in_it() -> None:
    """Reasons and actors come from people, and could end a comment."""
    told = listed([entry("10.0.0.0/8", reason="x\n0.0.0.0/0", actor="y\r; reload")])
    assert networks(told) == [ip_network("10.0.0.0/8")]
    assert re.fullmatch(r"(# [a-z0-9: ]+\n|[0-9a-f.:]+/[0-9]+\n)+", told.text)


NETWORK = st.one_of(
    st.builds(lambda number, bits: ip_network((number >> 32 - bits << 32 - bits, bits)),
              st.integers(0, 2**32 - 1), st.integers(0, 32)),
    st.builds(lambda number, bits: ip_network((number >> 128 - bits << 128 - bits, bits)),
              st.integers(2**120, 2**128 - 1), st.integers(0, 128)),
)  # fmt: skip


@given(st.lists(st.tuples(NETWORK, st.sampled_from([-1.0, 0.0, 1.0, 5.0]))), st.lists(NETWORK), st.data())
def test_the_same_addresses_are_denied_as_by_the_shield(
    denied: list[tuple[IPNetwork, float]], always: list[IPNetwork], data: st.DataObject
) -> None:
    """Any address, near the edges of the networks above all."""
    deny_list = DenyList(1, tuple(DenyEntry(network, NOW_S + for_s, "", "") for network, for_s in denied))
    told = networks(edge_list(deny_list, always, NOW_S))
    edges = [end for network, _ in denied for end in (network[0], network[-1])] or [ip_address("10.0.0.1")]
    address = data.draw(st.sampled_from(edges))
    packed = address.packed
    by_the_shield = deny_list.until_s(packed, NOW_S) is not None or packed in Networks(tuple(always))
    assert any(address in network for network in told) == by_the_shield
    assert not any(
        one.overlaps(other) for one in told for other in told if one != other and one.version == other.version
    )


def test_it_is_made_once_and_again_after_a_change() -> None:
    """Edges ask every few seconds, so an unchanged list is kept, and a changed one is there at once."""

    async def work() -> None:
        values: dict[str, Any] = {"deny_ips": "192.0.2.0/24"}
        control = build_worker(Settings(**values), MemoryStore(b"secret")).control
        first = await control.edge_list()
        assert [str(network) for network in networks(first)] == ["192.0.2.0/24"]
        assert await control.edge_list() is first
        entry = await control.denials.deny(ip_network("10.0.0.0/8"), 60, actor="kim", reason="", own=None, force=False)
        assert isinstance(entry, DenyEntry)
        then = await control.edge_list()
        assert [str(network) for network in networks(then)] == ["10.0.0.0/8", "192.0.2.0/24"]
        assert then.until_s - entry.until_s < 1

    asyncio.run(work())


def test_it_is_made_again_when_a_network_is_no_longer_denied(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing changes in the store then."""

    async def work() -> None:
        control = build_worker(Settings(), MemoryStore(b"secret")).control
        await control.denials.deny(ip_network("10.0.0.0/8"), 60, actor="kim", reason="", own=None, force=False)
        first, now_s = await control.edge_list(), control.now_s()
        monkeypatch.setattr(type(control), "now_s", lambda _: now_s + 61)
        assert networks(first) != networks(await control.edge_list()) == []

    asyncio.run(work())
