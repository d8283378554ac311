"""Carries out operators' requests: the status, the switch, the deny list, resets. Knows no HTTP and no permissions.

Every change is written to the audit log with its actor. ``StoreError`` from a method that changes something means that
it may not have been changed; those that look answer with what is known here, or raise it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from ipaddress import ip_address

from shieldmw.core.address import parse_address
from shieldmw.core.client import Address, Client, Identity, Prefixes, token_client
from shieldmw.core.deny import DenyList
from shieldmw.core.limits import aggregate, of_preflights
from shieldmw.core.load import WorkerLoad, asked_once
from shieldmw.core.mode import Mode, ModeChange
from shieldmw.core.overrides import Overrides
from shieldmw.core.rules import Policy, Scope, all_limits
from shieldmw.core.seats import Capacity, Fleet
from shieldmw.core.top import FleetTop
from shieldmw.core.traffic import Outcome, Rates
from shieldmw.core.waiting import QueueCounters
from shieldmw.errors import StoreError
from shieldmw.gate.fleet.deny_watch import DenyWatch
from shieldmw.gate.fleet.limits_watch import LimitsWatch
from shieldmw.gate.fleet.mode_watch import ModeWatch
from shieldmw.gate.limiter.limiter import PROBE, Limiter
from shieldmw.gate.metrics.fleet_decisions import FleetDecisions
from shieldmw.gate.metrics.slots import WorkerValues
from shieldmw.gate.overload.load_reports import LoadReports
from shieldmw.gate.seats.seats import Seats
from shieldmw.settings import Settings
from shieldmw.store.port import AUDIT_LENGTH, AuditEntry, Store

from .deny_editor import DenyEditor
from .edge_list import EdgeList, edge_list
from .limits_report import LimitsReport, LimitsStatus
from .preview import Preview
from .recent import Recent
from .status import OverloadStatus, SeatStatus, Status, shown_settings
from .top_reports import TopReports

# The text of the client that all requests without a known address share, as in ``ip:unknown``.
UNKNOWN_ADDRESS = "unknown"


@dataclass(frozen=True, slots=True)
class Metered:
    """The values of this ``serve``'s workers, and the state and the decisions of the fleet (each None if unknown)."""

    workers: Sequence[WorkerValues]
    fleet: Fleet | None
    decided: Sequence[int] | None


class Control:
    """Carries out operators' requests, in a worker or in the process of ``serve --admin`` (``Desk``).

    ``workers`` reads the metrics of all workers of this ``serve``.
    """

    def __init__(  # noqa: PLR0913  (all that operators may see and change)
        self,
        store: Store,
        limiter: Limiter,
        mode_watch: ModeWatch,
        seats: Seats,
        limits_watch: LimitsWatch,
        deny_watch: DenyWatch,
        settings: Settings,
        *,
        load_reports: LoadReports,
        top_reports: TopReports,
        fleet_decisions: FleetDecisions,
        workers: Callable[[], Sequence[WorkerValues]] = tuple,
    ) -> None:
        self._store = store
        self._limiter = limiter
        self._mode_watch = mode_watch
        self._seats = seats
        self._limits_watch = limits_watch
        self.denials = DenyEditor(store, deny_watch, mode_watch.store_now_s)
        self._settings = settings
        self._load_reports = load_reports
        self._top_reports = top_reports
        self._fleet_decisions = fleet_decisions
        self._edge_list: tuple[DenyList, EdgeList] | None = None
        self._workers = workers
        self.recent = Recent(workers, seats, load_reports)

    def now_s(self) -> float:
        """The store's clock, in Unix seconds."""
        return self._mode_watch.store_now_s()

    async def status(self) -> Status:
        """The state of the fleet, with the mode just read; while the store is away, as last known here."""
        try:
            await self._mode_watch.refresh()
            await self._limiter.ask((PROBE,))
            answers = True
        except StoreError:
            answers = False
        overload = await OverloadStatus.of(self._settings, self._load_reports, store_answers=answers)
        return Status(
            self._mode_watch.store_now_s(),
            self._mode_watch.state,
            self._seat_status(self._fleet(overload.workers)),
            answers and not self._limiter.is_away,
            {**shown_settings(self._settings), **self._limits_watch.in_force.texts},
            overload,
            self._settings.dry_run,
            LimitsStatus.of(self._limits_watch),
        )

    async def preview(self, mode: Mode, seats: int | None, guest_share: float | None) -> Preview:
        """What a change of the mode would do now; while the store is away, as far as is known here."""
        now = self._seat_status(self._fleet(await self._load_reports.known()))
        return Preview.of(
            *(self._limits_watch.in_force, self._seats, now, mode, seats, guest_share),
            before=self._mode_watch.mode,
            let_in=self._let_in(),
        )

    async def waiting_room(self) -> QueueCounters | None:
        """The counters of the waiting room; None if there are no seats to wait for."""
        return await self._store.queue(0, 0) if self._settings.policy.has_seats else None

    @property
    def is_leaving(self) -> bool:
        """Whether this process is stopping, so that open pages must go."""
        return self._seats.is_leaving

    def mode_changed(self) -> None:
        """Report soon that this worker follows another mode."""
        self._load_reports.refresh_soon()

    async def metrics(self) -> Metered:
        """The metrics as of now; while the store is away, with as much of the fleet as is known here."""
        decided = None
        with suppress(StoreError):
            decided = await self._fleet_decisions.of_fleet()
        return Metered(self._workers(), self._fleet(await self._load_reports.known()), decided)

    def _let_in(self) -> Rates:
        """Requests per second that are let in, and could be refused: none in a dry run."""
        return Rates() if self._settings.dry_run else self.recent.lately(self.recent.now())[Outcome.LET_IN]

    def _fleet(self, loads: Sequence[WorkerLoad]) -> Fleet | None:
        grant = self._seats.grant
        if grant is None:
            return None
        return asked_once(Fleet(grant.workers, grant.present, grant.demand, grant.leased), loads)

    def _seat_status(self, fleet: Fleet | None) -> SeatStatus:
        may_hold = self._seats.ledger.allotment
        limited = self._seats.capacity() is not None
        granted = Capacity(may_hold.seats or 0, may_hold.guest_seats or 0) if limited else None
        return SeatStatus.of(self._seats, fleet, granted)

    async def set_mode(self, change: ModeChange, expected_version: int | None) -> bool:
        """Change the mode of the fleet; False if its version is not the expected one."""
        return await self._mode_watch.set(change.with_end(), expected_version)

    # --- limits

    async def limits(self) -> LimitsReport:
        """The limits in force, just read; while the store is away, as last known here."""
        try:
            await self._limits_watch.refresh()
            answers = True
        except StoreError:
            answers = False
        return LimitsReport.of(self._limits_watch, self._settings, self.now_s(), store_is_up=answers)

    async def set_limits(
        self, overrides: Overrides, *, actor: str, reason: str, for_s: int | None, expected_version: int | None
    ) -> bool:
        """As ``LimitsWatch.set``."""
        return await self._limits_watch.set(
            overrides, actor=actor, reason=reason, for_s=for_s, expected_version=expected_version
        )

    async def audit(self, count: int = AUDIT_LENGTH) -> list[AuditEntry]:
        """The last changes, newest first."""
        return await self._store.audit(count)

    async def top(self, count: int) -> FleetTop:
        """The busiest clients, networks, paths and user agents of the last one to two minutes."""
        return await self._top_reports.of_fleet(count)

    # --- the deny list

    async def edge_list(self) -> EdgeList:
        """The deny list for servers in front of the shield: the fleet's, and SHIELD_DENY_IPS."""
        deny_list, now_s = await self.denials.fresh_list(), self.now_s()
        if self._edge_list is not None and self._edge_list[0] is deny_list and now_s < self._edge_list[1].until_s:
            return self._edge_list[1]
        # In a thread, since a full list takes 50 ms, and others would wait for so long.
        made = await asyncio.to_thread(edge_list, deny_list, self._settings.deny_ips.networks, now_s)
        self._edge_list = deny_list, made
        return made

    # --- buckets

    async def reset(self, client_text: str, actor: str, reason: str = "") -> tuple[Client, ...]:
        """Refill all buckets of a client, on every worker; returns the clients that the text names.

        Args:
            client_text: ``ip:203.0.113.7`` or ``token:alice``.
            actor: the operator who requests it.
            reason: why.

        Raises:
            ValueError: the text does not name a client.
        """
        settings = self._settings
        clients = clients_of(client_text, Prefixes(settings.ipv4_prefix, settings.ipv6_prefix))
        names = dict.fromkeys((*limit_names(settings.policy), *limit_names(self._limits_watch.in_force.policy)))
        # Logged first: a superfluous entry is better than a reset that is missing from the audit log.
        await self._store.note(AuditEntry(0, actor, f"reset {clients[0]}", "", "full", reason))
        for client in clients:
            await self._store.refill(client, names)
        self._mode_watch.on_reset()  # here immediately: other workers learn of it from the store
        return clients


def clients_of(text: str, prefixes: Prefixes) -> tuple[Client, ...]:
    """The clients named by a text such as ``ip:203.0.113.7`` or ``token:alice``, including an IPv6 site.

    Raises:
        ValueError: it does not name a client.
    """
    kind, _, name = text.partition(":")
    if kind == "token":
        return (token_client(Identity(name)),)
    if kind != "ip":
        raise ValueError("write it like 'ip:203.0.113.7' or 'token:alice'")
    address = None if name == UNKNOWN_ADDRESS else _address(name)
    clients = prefixes.clients(address)
    return (clients.network,) if clients.site is None else (clients.network, clients.site)


def _address(text: str) -> Address:
    try:
        ip_address(text)  # parse_address is for headers: it accepts ports and brackets, too
        address = parse_address(text)
    except ValueError:
        address = None
    if address is None:
        raise ValueError(f"'{text[:60]}' is not an address: write it like 'ip:203.0.113.7'")
    return address


def limit_names(policy: Policy) -> tuple[str, ...]:
    """The names of all limits for which a client may have a bucket, including those of its IPv6 site."""
    of_rules = (of_preflights(limit) for rule in policy.rules for limit in rule.limits)
    limits = (*all_limits(policy), *policy.limits(Scope.PREFLIGHT), *of_rules)
    return tuple(dict.fromkeys(name for limit in limits for name in (limit.name, aggregate(limit).name)))
