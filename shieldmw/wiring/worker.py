"""Builds what runs on one event loop: a worker, or the desk of an admin process."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from shieldmw.core.address import Addressing
from shieldmw.core.client import Prefixes
from shieldmw.core.concurrency import AdaptiveLimit
from shieldmw.doors.asgi.stopping import StopSignals
from shieldmw.errors import SettingsError
from shieldmw.gate.auth.failed_auth import FailedAuth
from shieldmw.gate.clock import SYSTEM_CLOCK, Clock
from shieldmw.gate.decided import DecidedRequests
from shieldmw.gate.events import Observer
from shieldmw.gate.fleet.deny_watch import DenyWatch
from shieldmw.gate.fleet.limits_watch import LimitsWatch
from shieldmw.gate.fleet.mode_watch import ModeWatch
from shieldmw.gate.gate import Gate
from shieldmw.gate.limiter.breaker_store import BreakerStore
from shieldmw.gate.limiter.fallback import Fallback
from shieldmw.gate.limiter.leases import MOST_LEASES, Leases
from shieldmw.gate.limiter.limiter import FleetLimiter, Limiter, LocalLimiter
from shieldmw.gate.limiter.lookups import Lookups
from shieldmw.gate.limiter.shared_limits import SharedLimits
from shieldmw.gate.limiter.sharing import SharingLimiter, cheapest
from shieldmw.gate.metrics.counts import Counts
from shieldmw.gate.metrics.fleet_decisions import FleetDecisions
from shieldmw.gate.metrics.meter import Meter, Parts
from shieldmw.gate.metrics.slots import Slots
from shieldmw.gate.named_limits import NamedLimits
from shieldmw.gate.operator.control import Control
from shieldmw.gate.operator.news import News
from shieldmw.gate.operator.top_reports import TopReports
from shieldmw.gate.overload.delayed_refusals import DelayedRefusals
from shieldmw.gate.overload.gatekeeper import Gatekeeper
from shieldmw.gate.overload.load_reports import LoadReports
from shieldmw.gate.overload.overload import Overload
from shieldmw.gate.seats.admission import Admission
from shieldmw.gate.seats.capacity import SeatPlan
from shieldmw.gate.seats.claims import Claims
from shieldmw.gate.seats.entrance import Entrance
from shieldmw.gate.seats.expulsion import Expulsion
from shieldmw.gate.seats.polls import Polls
from shieldmw.gate.seats.seats import Seats
from shieldmw.gate.seats.stream_caps import NO_CAPS, StreamCaps
from shieldmw.gate.talkers import Talkers
from shieldmw.gate.worker import Background, Worker
from shieldmw.settings import Settings
from shieldmw.store.memory import MemoryBuckets, MemoryStore, WarmBuckets
from shieldmw.store.port import Store
from shieldmw.telemetry.log import RefusalLog
from shieldmw.telemetry.observers import Reporter, ShieldObserver
from shieldmw.telemetry.refused_clients import RefusedClients

from .credentials import identifier_of

if TYPE_CHECKING:
    from shieldmw.gate.operator.desk import Desk
    from shieldmw.telemetry.webhook import Webhook

# Modules that only some settings need are imported inside functions, so that a process loads only what it uses.

# Maximum number of addresses whose failed credentials a worker counts, and of buckets that it copies for an outage.
FAILED_AUTH_KEPT = 65_536
WARM_BUCKETS_KEPT = 65_536


def build_worker(
    settings: Settings,
    store: Store,
    clock: Clock = SYSTEM_CLOCK,
    *,
    observers: Sequence[ShieldObserver] = (),
    counts: Counts | None = None,
    slots: Slots | None = None,
) -> Worker:
    """Build a worker for one event loop, with its ``counts`` and the ``observers`` of the user; ``slots`` are those of
    the workers beside it.

    Raises:
        SettingsError: the JWT settings cannot be used.
    """
    counts = counts or Counts()
    refusal_log = RefusalLog(clock.now_s, dry_run=settings.dry_run)
    reporter = Reporter(observers, clock.now_s)
    decided = DecidedRequests(counts, Talkers(addressing_of(settings).prefixes, clock))
    gate_observers: Sequence[Observer] = (refusal_log, reporter, *_refused_clients(settings, clock))
    mode_watch = ModeWatch(store, clock)
    limits_watch = LimitsWatch(store, settings, mode_watch.store_now_s)
    deny_watch = DenyWatch(store, mode_watch.store_now_s)
    seats = Seats(store, mode_watch, SeatPlan.of(limits_watch.in_force), observers=gate_observers, clock=clock)
    limiter, leasing = _limiter(settings, store, seats, clock, counts)
    failed_auth = FailedAuth(settings.policy, limiter, MemoryBuckets(most_buckets=FAILED_AUTH_KEPT))
    identifier, api_keys, credentials = identifier_of(settings, store, failed_auth, clock)
    admission = _admission(settings, store, seats, clock)
    polled_caps = StreamCaps(settings.streams_per_member, settings.streams_per_address)
    overload = None if settings.overload == "off" else _overload(settings, admission, gate_observers, clock)
    load_reports = LoadReports(store, seats, overload, mode_watch.store_now_s, clock)
    top_reports = TopReports(store, seats, decided, mode_watch.store_now_s)
    fleet_decisions = FleetDecisions(store, seats, decided)
    lookups = Lookups(settings.policy, addressing_of(settings), clock)
    parts = Parts(decided, seats, mode_watch, deny_watch, limiter, identifier, lookups, overload)
    meter = Meter(parts, slots, clock)
    gate = Gate(
        settings.policy,
        lookups,
        identifier,
        cheapest(limiter, settings.policy),
        on_store_failure=settings.on_redis_failure,
        dry_run=settings.dry_run,
        observers=gate_observers,
        deny_list=deny_watch,
        mode_watch=mode_watch,
        overload=overload,
        clock=clock,
        counts=counts,
    )
    background: list[Background] = [meter, *leasing, mode_watch.refresher, limits_watch.refresher]
    background += [deny_watch.refresher, *credentials, seats, admission.refresher, admission.takeovers.refresher]
    background += [admission.streams, load_reports, top_reports, fleet_decisions]
    if settings.policy.has_seats:
        background.append(Expulsion(seats, deny_watch, identifier, api_keys, clock=clock).refresher)
    lease_s, in_urls = settings.policy.longest_lease_s, settings.ticket_in_playlists
    claims = Claims(store, seats, admission.ticket_number, lease_s, bars=not in_urls)
    if settings.policy.has_polled_paths or (settings.policy.has_live_paths and settings.trusted_proxies):
        background.append(claims.refresher)  # trusted proxies may ask, and then live paths are polled
    control = Control(
        *(store, limiter, mode_watch, seats, limits_watch, deny_watch, settings),
        load_reports=load_reports,
        top_reports=top_reports,
        fleet_decisions=fleet_decisions,
        workers=meter.workers,
    )
    background.append(control.recent.refresher)
    entrance = Entrance(admission, identifier, deny_watch, gate.announce, dry_run=settings.dry_run)
    webhook = _webhook(settings, store, clock)
    for hook in webhook:
        watches = (mode_watch, limits_watch, deny_watch)
        background.append(News(hook, meter, control.recent, *watches, load_reports).refresher)
    worker = Worker(
        gate,
        entrance,
        Polls(admission, entrance, claims, polled_caps, in_urls=in_urls),
        overload,
        control,
        named_limits=NamedLimits(
            gate, lookups, limiter, mode_watch, on_store_failure=settings.on_redis_failure, clock=clock
        ),
        decided=decided,
        limiter=limiter,
        lookups=lookups,
        failed_auth=failed_auth,
        mode_watch=mode_watch,
        limits_watch=limits_watch,
        deny_watch=deny_watch,
        feed=store,
        background=(*background, *webhook, StopSignals(seats.leave)),
        meter=meter,
        now_us=clock.now_us,
        mode_observers=(reporter, *webhook),
    )
    load_reports.on_measure = worker.measure
    return worker


def build_desk(settings: Settings, store: Store, slots: Slots | None = None) -> Desk:
    """Build the desk of an admin process, for one event loop."""
    from shieldmw.gate.operator.desk import Desk, OnlookersGrants

    mode_watch = ModeWatch(store)
    limits_watch = LimitsWatch(store, settings, mode_watch.store_now_s)
    seats = Seats(OnlookersGrants(store, mode_watch.store_now_s), mode_watch, SeatPlan.of(limits_watch.in_force))
    deny_watch = DenyWatch(store, mode_watch.store_now_s)
    limiter, _ = _limiter(settings, store, seats, SYSTEM_CLOCK, Counts())
    control = Control(
        *(store, limiter, mode_watch, seats, limits_watch, deny_watch, settings),
        load_reports=LoadReports(store, seats, None, mode_watch.store_now_s),
        top_reports=TopReports(store, seats, None, mode_watch.store_now_s),
        fleet_decisions=FleetDecisions(store, seats, None),
        workers=tuple if slots is None else slots.values,
    )
    return Desk(control, mode_watch, limits_watch, deny_watch, seats, limiter)


def addressing_of(settings: Settings) -> Addressing:
    """How a client's address is found and cut to its prefix."""
    prefixes = Prefixes(settings.ipv4_prefix, settings.ipv6_prefix)
    return Addressing(settings.trusted_proxies, settings.forwarded_header, prefixes)


def _refused_clients(settings: Settings, clock: Clock) -> Sequence[Observer]:
    """The writer of lines that name refused clients, if any are wanted."""
    if not settings.refusal_lines:
        return ()
    return (RefusedClients(settings.refusal_lines, settings.trusted_proxies, clock.now_s),)


def _webhook(settings: Settings, store: Store, clock: Clock) -> Sequence[Webhook]:
    """The webhook, if one is set."""
    if settings.webhook_url is None:
        return ()
    try:
        from shieldmw.telemetry.webhook import Webhook
    except ImportError as error:
        raise SettingsError(
            [f"SHIELD_WEBHOOK_URL: sending needs {error.name}: pip install 'shieldmw[webhook]'"]
        ) from None
    secret = None if settings.webhook_secret is None else settings.webhook_secret.get_secret_value()
    return (Webhook(settings.webhook_url.get_secret_value(), secret, store.is_first, clock),)


def _admission(settings: Settings, store: Store, seats: Seats, clock: Clock) -> Admission:
    """The admission to seats; if there are none, streams are not counted."""
    caps = NO_CAPS
    if settings.policy.has_seats:
        caps = StreamCaps(settings.streams_per_member, settings.streams_per_address)
    prefixes = addressing_of(settings).prefixes
    return Admission(store, seats, settings.key_prefix, caps=caps, prefixes=prefixes, clock=clock)


def _overload(settings: Settings, admission: Admission, observers: Sequence[Observer], clock: Clock) -> Overload:
    """The lane in front of the app."""
    keeper = Gatekeeper(settings.queue_ms * 1000, AdaptiveLimit(settings.max_in_flight), clock)
    delayed, shadow = DelayedRefusals(settings.hold_ms / 1000, clock), settings.overload_in_force == "shadow"
    return Overload(keeper, delayed, admission.is_returning, observers, shadow=shadow, clock=clock)


def _limiter(
    settings: Settings, store: Store, seats: Seats, clock: Clock, counts: Counts
) -> tuple[Limiter, Sequence[Background]]:
    """The limiter, and its background tasks. A store in this process needs none of the caches for a remote one."""
    if isinstance(store, MemoryStore):
        return LocalLimiter(store, clock), ()

    def workers() -> int:
        return seats.workers

    local = WarmBuckets(most_buckets=WARM_BUCKETS_KEPT)
    fallback = Fallback(settings.on_redis_failure, local, workers, store.settle, clock)
    leases = Leases(store.give_back, most=MOST_LEASES if settings.leases else 0, clock=clock)
    breaker_store = BreakerStore(store, settings.on_redis_failure, clock)
    limiter = FleetLimiter(breaker_store, fallback, leases, clock, counts)
    shared = SharedLimits(breaker_store, fallback, store.give_back, workers=workers, clock=clock)
    return SharingLimiter(limiter, shared, clock), (leases.refresher, shared.refresher)
