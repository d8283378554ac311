"""The deny list as text for servers in front of the shield, which refuse more cheaply. Pure.

Nothing but networks, numbers and times is ever printed: no reason, no actor, no other text that somebody wrote.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from hashlib import sha256
from math import ceil, inf

from shieldmw.core.address import IPNetwork
from shieldmw.core.deny import DenyList

# A network's place in the order, and the negated time until which it is denied (Unix seconds, infinite for one that the
# settings deny), so that of equal networks the one denied longest is first.
_Denied = tuple[int, int, int, float, IPNetwork]


@dataclass(frozen=True, slots=True)
class EdgeList:
    """The list as text, and a strong entity tag: equal lists are equal bytes, whichever worker prints them.

    It stays the same until ``until_s`` (Unix seconds), when the next network is no longer denied.
    """

    text: str
    etag: str
    until_s: float


def edge_list(deny_list: DenyList, always: Iterable[IPNetwork], now_s: float) -> EdgeList:
    """The list at a time: the fleet's entries in force, and the networks that are ``always`` denied (SHIELD_DENY_IPS).

    A network inside another one is left out: servers such as nftables accept no overlaps. It appears when the wider one
    is no longer denied.
    """
    denied = [
        (*_place(entry.network), -float(ceil(entry.until_s)), entry.network) for entry in deny_list.in_force(now_s)
    ]
    denied += [(*_place(network), -inf, network) for network in always]
    listed = list(_widest(denied))
    lines = ["# shieldmw deny list", f"# version: {deny_list.version}", f"# networks: {len(listed)}"]
    for network, until_s in listed:
        lines += ["# always" if until_s == inf else f"# until: {until_s:.0f}", str(network)]
    text = "\n".join([*lines, "# end"]) + "\n"  # a reader sees whether all of it has come
    etag = f'"{sha256(text.encode()).hexdigest()[:32]}"'
    return EdgeList(text, etag, min((until_s for _, until_s in listed), default=inf))


def _place(network: IPNetwork) -> tuple[int, int, int]:
    """Sorts networks by address, IPv4 first, and each one behind the one that contains it."""
    return network.max_prefixlen, int(network.network_address), network.prefixlen


def _widest(denied: list[_Denied]) -> Iterator[tuple[IPNetwork, float]]:
    """The networks in order, each with its end, without those that another one contains."""
    last_bits, last_number = 0, -1
    for bits, number, prefixlen, minus_until_s, network in sorted(denied):
        if bits != last_bits or number > last_number:
            last_bits, last_number = bits, number + (1 << bits - prefixlen) - 1
            yield network, -minus_until_s
