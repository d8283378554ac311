"""The deny list that operators write during the event: networks, each until a time. Pure."""

from __future__ import annotations

from dataclasses import dataclass, field

from .address import IPNetwork
from .client import IPAddress

MOST_ENTRIES = 10_000


@dataclass(frozen=True, slots=True)
class DenyEntry:
    """One network, refused until a time (Unix seconds), by whose word and why."""

    network: IPNetwork
    until_s: float
    actor: str
    reason: str


@dataclass(frozen=True, slots=True)
class DenyList:
    """All entries at one version. Looking an address up costs one step per length of prefix in use."""

    version: int = 0
    entries: tuple[DenyEntry, ...] = ()
    _by_length: dict[tuple[int, int], dict[int, float]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for entry in self.entries:
            network = entry.network
            shift = network.max_prefixlen - network.prefixlen
            until = self._by_length.setdefault((network.version, shift), {})
            number = int(network.network_address) >> shift
            until[number] = max(entry.until_s, until.get(number, 0.0))

    def until_s(self, address: IPAddress | None, now_s: float) -> float | None:
        """Until when the address is refused; None if it is not."""
        if address is None or not self._by_length:
            return None
        number = int(address)
        found = [
            until[number >> shift]
            for (version, shift), until in self._by_length.items()
            if version == address.version and number >> shift in until
        ]
        latest = max(found, default=0.0)
        return latest if latest > now_s else None
