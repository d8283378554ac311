"""The answer of GET /top: who is busiest, and on what."""

from __future__ import annotations

from typing import Self

from pydantic import BaseModel, Field

from shieldmw.core.top import Entry, FleetTop, Kind

from .masking import Answer

# Shown of a subject to those who may only read.
_HIDDEN = "…"


class Busy(BaseModel):
    """One name with its requests. The true count lies between ``requests`` and ``requests_at_most``."""

    name: str
    requests: int
    requests_at_most: int


class BusyClient(Busy):
    """The same with the refused ones among them, in a dry run those that would have been."""

    refused: int
    refused_at_most: int

    @classmethod
    def of(cls, entry: Entry) -> BusyClient:
        """An entry as it is shown."""
        (requests, most), (refused, refused_most) = entry.requests, entry.refused
        return cls(
            name=entry.name,
            requests=requests,
            requests_at_most=most,
            refused=refused,
            refused_at_most=refused_most,
        )


class TopAnswer(Answer):
    """The busiest of the last one to two minutes in the whole fleet.

    Any name with more than a thousandth of a worker's requests is counted there, and each worker reports its first
    fifty of each kind.
    """

    seconds: float = Field(description="How long the counts go back.")
    workers: int
    requests: int
    refused: int
    addresses: list[BusyClient] = Field(description="As networks that /deny takes; masked for the view token.")
    networks: list[BusyClient] = Field(description="/24 of IPv4, /48 of IPv6.")
    subjects: list[BusyClient] = Field(description="Verified ones; masked for the view token.")
    paths: list[BusyClient]
    user_agents: list[Busy] = Field(description="Estimated from one request in 16; '' is none.")

    @classmethod
    def of(cls, top: FleetTop) -> TopAnswer:
        """Convert what the fleet counted."""
        agents = top.of[Kind.USER_AGENT]
        return cls(
            seconds=round(top.seconds, 1),
            workers=top.workers,
            requests=top.requests,
            refused=top.refused,
            addresses=[BusyClient.of(entry) for entry in top.of[Kind.ADDRESS]],
            networks=[BusyClient.of(entry) for entry in top.of[Kind.NETWORK]],
            subjects=[BusyClient.of(entry) for entry in top.of[Kind.SUBJECT]],
            paths=[BusyClient.of(entry) for entry in top.of[Kind.PATH]],
            user_agents=[
                Busy(name=name, requests=requests, requests_at_most=most) for name, (requests, most), _ in agents
            ],
        )

    def masked(self) -> Self:
        """The same for those with the view token: neither addresses nor members are whole."""
        subjects = [_halved(client) for client in self.subjects]
        return super().masked().model_copy(update={"subjects": subjects})


def _halved(client: BusyClient) -> BusyClient:
    """The first half of a name: enough to tell two apart."""
    return client.model_copy(update={"name": client.name[: len(client.name) // 2] + _HIDDEN})
