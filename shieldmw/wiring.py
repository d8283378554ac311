"""Builds everything from Settings, in this one place, and defines the middleware that users import."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Sequence
from typing import TYPE_CHECKING

from starlette.types import ASGIApp

from .answers.redirects import RecordingRedirect
from .answers.refusals import RefusalAnswers, RefusalLinks
from .core.address import Addressing
from .core.client import Prefixes
from .core.concurrency import AdaptiveLimit
from .doors.asgi.cors import Cors
from .doors.asgi.facts import AuthenticateScope, CredentialSources, FactsReader
from .doors.asgi.handshakes import Handshakes
from .doors.asgi.lingering import Lingering
from .doors.asgi.middleware import Shield
from .doors.asgi.nesting import Nesting
from .doors.asgi.own_routes import OwnRoutes
from .doors.asgi.proxy_hint import ProxyHint
from .doors.asgi.replies import Replies
from .doors.asgi.stopping import StopSignals
from .doors.authorize.authorize import Authorize
from .errors import SettingsError
from .gate.auth.api_keys import ApiKeys
from .gate.auth.failed_auth import FailedAuth
from .gate.auth.identity import Identifier, TokenVerifier
from .gate.clock import SYSTEM_CLOCK, Clock
from .gate.decided import DecidedRequests
from .gate.events import Observer
from .gate.fleet.deny_watch import DenyWatch
from .gate.fleet.limits_watch import LimitsWatch
from .gate.fleet.mode_watch import ModeWatch
from .gate.gate import Gate
from .gate.limiter.breaker_store import BreakerStore
from .gate.limiter.fallback import Fallback
from .gate.limiter.leases import MOST_LEASES, Leases
from .gate.limiter.limiter import FleetLimiter, Limiter, LocalLimiter
from .gate.limiter.lookups import Lookups
from .gate.limiter.shared_limits import SharedLimits
from .gate.limiter.sharing import SharingLimiter, cheapest
from .gate.metrics.counts import Counts
from .gate.metrics.fleet_decisions import FleetDecisions
from .gate.metrics.meter import Meter, Parts
from .gate.metrics.slots import Slots, opened_slots
from .gate.named_limits import NamedLimits
from .gate.operator.control import Control
from .gate.operator.news import News
from .gate.operator.top_reports import TopReports
from .gate.overload.delayed_refusals import DelayedRefusals
from .gate.overload.gatekeeper import Gatekeeper
from .gate.overload.load_reports import LoadReports
from .gate.overload.overload import Overload
from .gate.seats.admission import Admission
from .gate.seats.capacity import SeatPlan
from .gate.seats.claims import Claims
from .gate.seats.entrance import Entrance
from .gate.seats.expulsion import Expulsion
from .gate.seats.polls import Polls
from .gate.seats.seats import Seats
from .gate.seats.stream_caps import NO_CAPS, StreamCaps
from .gate.talkers import Talkers
from .gate.worker import Background, Worker
from .settings import Settings
from .settings.problems import not_shared, problem
from .settings.store_url import scheme_of
from .store.memory import MemoryBuckets, MemoryStore, WarmBuckets
from .store.opener import store_opener
from .store.port import Store
from .telemetry.log import RefusalLog
from .telemetry.observers import Reporter, ShieldObserver
from .telemetry.refused_clients import RefusedClients

if TYPE_CHECKING:
    from .admin.alone import AdminAlone
    from .admin.routing import Admin
    from .doors.envoy.door import EnvoyDoor
    from .doors.proxy.upstreams import UpstreamAddress
    from .gate.auth.jwks import JwksKeys
    from .gate.operator.desk import Desk
    from .telemetry.webhook import Webhook

# Modules that only some settings need are imported inside functions, so that a process loads only what it uses.

# Maximum number of addresses whose failed credentials a worker counts, and of buckets that it copies for an outage.
FAILED_AUTH_KEPT = 65_536
WARM_BUCKETS_KEPT = 65_536


class ShieldMiddleware(Shield):
    """Overload protection around any ASGI app.

    Args:
        app: the app to protect.
        settings: how to protect it; read from the ``SHIELD_*`` variables if not given.
        authenticate: the app's own check, ``async (scope) -> Identity | None``; consulted before
            API keys and JWTs.
        observers: receive what each worker refuses and evicts, and changes of the mode; also inside a shield with the
            same settings.
        metrics_path: where the workers of ``shieldmw serve`` share their metrics.

    Raises:
        SettingsError: the settings cannot be used. If an event loop is already running, it is raised at the lifespan's
            startup instead: Starlette builds its middleware when the lifespan begins, and servers would take an
            exception there for an app without lifespan support, and continue.
    """

    def __init__(
        self,
        app: ASGIApp,
        settings: Settings | None = None,
        *,
        authenticate: AuthenticateScope | None = None,
        observers: Sequence[ShieldObserver] = (),
        metrics_path: str | None = None,
    ) -> None:
        self._slots = opened_slots(metrics_path)
        try:
            self._set_up(app, settings or Settings.from_environ(), authenticate, observers)
        except SettingsError as error:
            if not _in_a_loop():
                raise
            self._set_up(app, Settings(), authenticate, observers, error)

    def _set_up(
        self,
        app: ASGIApp,
        settings: Settings,
        authenticate: AuthenticateScope | None,
        observers: Sequence[ShieldObserver],
        failure: SettingsError | None = None,
    ) -> None:
        observers = list(observers)  # those of a shield inside this one are added to it
        reader = _reader(settings, authenticate)
        open_store = store_opener(settings)
        build_worker(settings, open_store())  # so that wrong settings fail here, not at the first request
        lingering = Lingering()
        handshakes = Handshakes(lingering, closes=settings.websocket_refusals == "close")
        hint = None if settings.trusted_proxies else ProxyHint(settings.forwarded_header)

        def open_worker() -> Worker:
            if failure is not None:
                raise failure
            _start_embedded(settings)
            counts = (None if self._slots is None else self._slots.claim()) or Counts(str(os.getpid()))
            store = open_store(counts.called)
            return build_worker(settings, store, observers=observers, counts=counts, slots=self._slots)

        replies = _replies(settings, handshakes, hint)
        super().__init__(
            app,
            open_worker=open_worker,
            reader=reader,
            replies=replies,
            lingering=lingering,
            nesting=Nesting(settings, authenticate, observers),
            own=OwnRoutes(
                settings.admin_path,
                Authorize(settings.admin_path, settings.trusted_proxies, settings.forwarded_header, reader, replies),
                _admin(settings, reader, handshakes),
                lingering,
            ),
            ticket_in_playlists=settings.ticket_in_playlists,
        )


def upstream_app(settings: Settings, upstreams: Sequence[UpstreamAddress]) -> ASGIApp:
    """The app that passes requests on to ``upstreams``, without a shield.

    Raises:
        SettingsError: a package that it needs is not installed.
    """
    try:
        from .doors.proxy.app import ProxyOptions, Upstream
    except ImportError as error:
        raise SettingsError([f"--upstream: proxying needs {error.name}: pip install 'shieldmw[proxy]'"]) from None
    from .doors.proxy.forwarding import Forwarding
    from .doors.proxy.heads import Heads
    from .doors.proxy.passage import TimeLimits

    limits = TimeLimits(
        settings.upstream_head_timeout_ms / 1000,
        settings.upstream_idle_timeout_ms / 1000,
        settings.upstream_total_timeout_ms / 1000,
        settings.upstream_min_upload_rate,
    )
    options = ProxyOptions(settings.upstream_connections, settings.upstream_connect_timeout_ms / 1000, limits)
    heads = Heads(Forwarding(_addressing(settings)), keeps_host=settings.upstream_host == "keep")
    return Upstream(upstreams, heads, options)


def _in_a_loop() -> bool:
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True


def _redirect(settings: Settings) -> RecordingRedirect | None:
    """The redirect of polls to the recording, if the settings ask for it."""
    if not settings.redirect_to_recording or settings.recording_url is None:
        return None
    return RecordingRedirect(settings.recording_url)


def _replies(settings: Settings, handshakes: Handshakes | None = None, hint: ProxyHint | None = None) -> Replies:
    links = RefusalLinks(settings.recording_url, settings.sign_in_url, settings.retry_after)
    cors = Cors(settings.cors_origins) if settings.cors_origins else None
    return Replies(RefusalAnswers(links), cors=cors, handshakes=handshakes, hint=hint, redirect=_redirect(settings))


def envoy_door(settings: Settings, metrics_path: str | None = None) -> EnvoyDoor:
    """The door for Envoy, for one event loop; building it starts nothing. ``metrics_path``: where its metrics are
    shared.

    Raises:
        SettingsError: the settings cannot be used.
    """
    from .doors.envoy.door import EnvoyDoor

    _start_embedded(settings)
    slots = opened_slots(metrics_path)
    counts = (None if slots is None else slots.claim()) or Counts()
    worker = build_worker(settings, store_opener(settings)(counts.called), counts=counts, slots=slots)
    # No hint about a forgotten SHIELD_TRUSTED_PROXIES: Envoy itself writes X-Forwarded-For, and names its own peer.
    return EnvoyDoor(worker, _reader(settings), _replies(settings))


def _admin(settings: Settings, reader: FactsReader, handshakes: Handshakes) -> Admin | None:
    """The admin routes, if there is an admin token."""
    if settings.admin_token is None:
        return None
    from .admin.auth import AdminAuth
    from .admin.routing import Admin

    view_token = None if settings.view_token is None else settings.view_token.get_secret_value()
    admin_auth = AdminAuth(settings.admin_token.get_secret_value(), view_token, _addressing(settings), reader)
    return Admin(settings.admin_path, admin_auth, handshakes)


def _reader(settings: Settings, authenticate: AuthenticateScope | None = None) -> FactsReader:
    forwarded = settings.forwarded_header if settings.trusted_proxies else None
    sources = CredentialSources(forwarded, settings.token_header, settings.token_cookie, settings.token_query)
    return FactsReader(sources, authenticate)


def admin_alone(settings: Settings, metrics_path: str | None = None) -> AdminAlone:
    """The admin routes without an app, for a process that serves only operators and is not a worker of the fleet.

    ``metrics_path``: where the workers share their metrics.

    Raises:
        SettingsError: there is no admin token, or processes cannot share the store.
    """
    from .admin.alone import AdminAlone

    lingering = Lingering()
    handshakes = Handshakes(lingering, closes=settings.websocket_refusals == "close")
    admin = _admin(settings, _reader(settings), handshakes)
    if admin is None:
        raise SettingsError(
            ["SHIELD_ADMIN_TOKEN: unset, so there are no admin routes: set one of 16 characters or more"]
        )
    if scheme_of(settings.redis_url) == "memory":
        raise SettingsError([not_shared(settings.redis_url)])
    open_store, slots = store_opener(settings), opened_slots(metrics_path)
    return AdminAlone(admin, lingering, lambda: build_desk(settings, open_store(), slots))


def build_desk(settings: Settings, store: Store, slots: Slots | None = None) -> Desk:
    """Build the desk of an admin process, for one event loop."""
    from .gate.operator.desk import Desk, OnlookersGrants

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


def _addressing(settings: Settings) -> Addressing:
    prefixes = Prefixes(settings.ipv4_prefix, settings.ipv6_prefix)
    return Addressing(settings.trusted_proxies, settings.forwarded_header, prefixes)


def _start_embedded(settings: Settings) -> None:
    """Start the server of ``embedded://``. Only when it is needed, so that building a shield starts no process.

    Raises:
        SettingsError: the server does not start.
    """
    if scheme_of(settings.redis_url) == "embedded":
        from .store.redis.embedded import shared_server

        shared_server().start()


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
    decided = DecidedRequests(counts, Talkers(_addressing(settings).prefixes, clock))
    gate_observers: Sequence[Observer] = (refusal_log, reporter, *_refused_clients(settings, clock))
    mode_watch = ModeWatch(store, clock)
    limits_watch = LimitsWatch(store, settings, mode_watch.store_now_s)
    deny_watch = DenyWatch(store, mode_watch.store_now_s)
    seats = Seats(store, mode_watch, SeatPlan.of(limits_watch.in_force), observers=gate_observers, clock=clock)
    limiter, leasing = _limiter(settings, store, seats, clock, counts)
    failed_auth = FailedAuth(settings.policy, limiter, MemoryBuckets(most_buckets=FAILED_AUTH_KEPT))
    identifier, api_keys, credentials = _identifier(settings, store, failed_auth, clock)
    admission = _admission(settings, store, seats, clock)
    polled_caps = StreamCaps(settings.streams_per_member, settings.streams_per_address)
    overload = None if settings.overload == "off" else _overload(settings, admission, gate_observers, clock)
    load_reports = LoadReports(store, seats, overload, mode_watch.store_now_s, clock)
    top_reports = TopReports(store, seats, decided, mode_watch.store_now_s)
    fleet_decisions = FleetDecisions(store, seats, decided)
    lookups = Lookups(settings.policy, _addressing(settings), clock)
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
        from .telemetry.webhook import Webhook
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
    prefixes = _addressing(settings).prefixes
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


def _identifier(
    settings: Settings, store: Store, failed_auth: FailedAuth, clock: Clock
) -> tuple[Identifier, ApiKeys, Sequence[Background]]:
    """The identifier, its API keys, and the background tasks that refresh its keys."""
    api_keys = ApiKeys(store, settings.file_api_keys)
    tokens, jwks = _jwt(settings, clock)
    identifier = Identifier(api_keys, tokens, failed_auth, clock)
    if jwks is None:
        return identifier, api_keys, (api_keys.refresher,)
    jwks.on_change = identifier.token_keys_changed
    return identifier, api_keys, (api_keys.refresher, jwks.refresher)


def _jwt(settings: Settings, clock: Clock) -> tuple[TokenVerifier | None, JwksKeys | None]:
    """The verifier of JWTs, if there is one, and its JWKS if its keys are fetched."""
    if settings.jwt_secret is None and settings.jwt_public_key is None and settings.jwt_jwks_url is None:
        return None, None
    try:
        from .gate.auth import jwks, jwt_tokens
    except ImportError as error:
        raise SettingsError([f"SHIELD_JWT_*: verifying JWTs needs {error.name}: pip install 'shieldmw[jwt]'"]) from None
    algorithms = settings.jwt_algorithms
    keys: jwt_tokens.KeySource
    fetched = None
    if settings.jwt_jwks_url is not None:
        keys = fetched = jwks.JwksKeys(settings.jwt_jwks_url, algorithms)
    elif settings.jwt_secret is not None:
        keys = jwt_tokens.FixedKey(jwt_tokens.secret_key(settings.jwt_secret.get_secret_value(), algorithms))
    else:
        try:
            keys = jwt_tokens.FixedKey(jwt_tokens.public_key(settings.jwt_public_key_pem or "", algorithms))
        except ValueError as error:
            raise SettingsError([problem("jwt_public_key", settings.jwt_public_key, str(error))]) from None
    verifier = jwt_tokens.JwtVerifier(
        keys,
        audience=settings.jwt_audience,
        issuer=settings.jwt_issuer,
        class_claim=settings.jwt_class_claim,
        subject_claim=settings.jwt_subject_claim,
        leeway_s=settings.jwt_leeway,
        clock=clock,
    )
    return verifier, fetched
