"""The deny list, which operators edit during the event: networks, each refused until a time. Pure."""

from __future__ import annotations

from dataclasses import dataclass, field

from .address import IPNetwork
from .client import Address

# Maximum number of entries.
MOST_ENTRIES = 10_000

# Longest time for which a network can be denied.
LONGEST_DENY_S = 30 * 86_400


def not_denied(network: object) -> str:
    """The line for a network that has no entry; commands recognize it in an answer."""
    return f"{network} is not on the deny list."


@dataclass(frozen=True, slots=True)
class DenyEntry:
    """One network, refused until a time (Unix seconds), with the operator who denied it and the reason."""

    network: IPNetwork
    until_s: float
    actor: str
    reason: str


# Keyed by the length of an address in bytes and the number of bits after the prefix; then the prefixes as numbers, each
# with the time until which it is refused (Unix seconds).
Index = dict[tuple[int, int], dict[int, float]]


def add_to_index(index: Index, entry: DenyEntry) -> None:
    """Add an entry to the index."""
    network = entry.network
    shift = network.max_prefixlen - network.prefixlen
    until = index.setdefault((network.max_prefixlen // 8, shift), {})
    number = int(network.network_address) >> shift
    until[number] = max(entry.until_s, until.get(number, 0.0))


@dataclass(frozen=True, slots=True)
class DenyList:
    """All entries at one version. Looking up an address takes one step per prefix length in use.

    ``by_length`` is the index of the entries; it is built here unless it is given.
    """

    version: int = 0
    entries: tuple[DenyEntry, ...] = ()
    by_length: Index = field(default_factory=dict, repr=False)

    def __post_init__(self) -> None:
        if not self.by_length:
            for entry in self.entries:
                add_to_index(self.by_length, entry)

    def in_force(self, now_s: float) -> list[DenyEntry]:
        """The entries whose time has not passed."""
        return [entry for entry in self.entries if entry.until_s > now_s]

    def until_s(self, address: Address | None, now_s: float) -> float | None:
        """The time until which the address is refused; None if it is not."""
        if address is None or not self.by_length:
            return None
        number = int.from_bytes(address, "big")
        found = [
            until[number >> shift]
            for (length, shift), until in self.by_length.items()
            if length == len(address) and number >> shift in until
        ]
        latest = max(found, default=0.0)
        return latest if latest > now_s else None

    def added(self, before: DenyList) -> list[DenyEntry]:
        """The entries that are not in an earlier list, or have another end, in an order that all workers share."""
        new = set(self.entries).difference(before.entries)
        return sorted(new, key=lambda entry: (entry.network.version, entry.network, entry.until_s))
