"""Builds the doors: what reads requests and answers them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from starlette.types import ASGIApp

from shieldmw.answers.redirects import RecordingRedirect
from shieldmw.answers.refusals import RefusalAnswers, RefusalLinks
from shieldmw.doors.asgi.cors import Cors
from shieldmw.doors.asgi.facts import AuthenticateScope, CredentialSources, FactsReader
from shieldmw.doors.asgi.handshakes import Handshakes
from shieldmw.doors.asgi.lingering import Lingering
from shieldmw.doors.asgi.proxy_hint import ProxyHint
from shieldmw.doors.asgi.replies import Replies
from shieldmw.errors import SettingsError
from shieldmw.gate.metrics.counts import Counts
from shieldmw.gate.metrics.slots import opened_slots
from shieldmw.settings import Settings
from shieldmw.settings.problems import not_shared
from shieldmw.settings.store_url import scheme_of
from shieldmw.store.opener import store_opener

from .worker import addressing_of, build_desk, build_worker

if TYPE_CHECKING:
    from shieldmw.admin.alone import AdminAlone
    from shieldmw.admin.routing import Admin
    from shieldmw.doors.envoy.door import EnvoyDoor
    from shieldmw.doors.proxy.upstreams import UpstreamAddress

# Modules that only some settings need are imported inside functions, so that a process loads only what it uses.


def reader_of(settings: Settings, authenticate: AuthenticateScope | None = None) -> FactsReader:
    """The reader of requests, which looks where the settings say."""
    forwarded = settings.forwarded_header if settings.trusted_proxies else None
    sources = CredentialSources(forwarded, settings.token_header, settings.token_cookie, settings.token_query)
    return FactsReader(sources, authenticate)


def replies_of(settings: Settings, handshakes: Handshakes | None = None, hint: ProxyHint | None = None) -> Replies:
    """The sender of refusals."""
    links = RefusalLinks(settings.recording_url, settings.sign_in_url, settings.retry_after)
    cors = Cors(settings.cors_origins) if settings.cors_origins else None
    return Replies(RefusalAnswers(links), cors=cors, handshakes=handshakes, hint=hint, redirect=_redirect(settings))


def _redirect(settings: Settings) -> RecordingRedirect | None:
    """The redirect of polls to the recording, if the settings ask for it."""
    if not settings.redirect_to_recording or settings.recording_url is None:
        return None
    return RecordingRedirect(settings.recording_url)


def admin_of(settings: Settings, reader: FactsReader, handshakes: Handshakes) -> Admin | None:
    """The admin routes, if there is an admin token."""
    if settings.admin_token is None:
        return None
    from shieldmw.admin.auth import AdminAuth
    from shieldmw.admin.routing import Admin

    view_token = None if settings.view_token is None else settings.view_token.get_secret_value()
    admin_auth = AdminAuth(settings.admin_token.get_secret_value(), view_token, addressing_of(settings), reader)
    return Admin(settings.admin_path, admin_auth, handshakes)


def admin_alone(settings: Settings, metrics_path: str | None = None) -> AdminAlone:
    """The admin routes without an app, for a process that serves only operators and is not a worker of the fleet.

    ``metrics_path``: where the workers share their metrics.

    Raises:
        SettingsError: there is no admin token, or processes cannot share the store.
    """
    from shieldmw.admin.alone import AdminAlone

    lingering = Lingering()
    handshakes = Handshakes(lingering, closes=settings.websocket_refusals == "close")
    admin = admin_of(settings, reader_of(settings), handshakes)
    if admin is None:
        raise SettingsError(
            ["SHIELD_ADMIN_TOKEN: unset, so there are no admin routes: set one of 16 characters or more"]
        )
    if scheme_of(settings.redis_url) == "memory":
        raise SettingsError([not_shared(settings.redis_url)])
    open_store, slots = store_opener(settings), opened_slots(metrics_path)
    return AdminAlone(admin, lingering, lambda: build_desk(settings, open_store(), slots))


def envoy_door(settings: Settings, metrics_path: str | None = None) -> EnvoyDoor:
    """The door for Envoy, for one event loop; building it starts nothing. ``metrics_path``: where its metrics are
    shared.

    Raises:
        SettingsError: the settings cannot be used.
    """
    from shieldmw.doors.envoy.door import EnvoyDoor

    start_embedded(settings)
    slots = opened_slots(metrics_path)
    counts = (None if slots is None else slots.claim()) or Counts()
    worker = build_worker(settings, store_opener(settings)(counts.called), counts=counts, slots=slots)
    # No hint about a forgotten SHIELD_TRUSTED_PROXIES: Envoy itself writes X-Forwarded-For, and names its own peer.
    return EnvoyDoor(worker, reader_of(settings), replies_of(settings))


def upstream_app(settings: Settings, upstreams: Sequence[UpstreamAddress]) -> ASGIApp:
    """The app that passes requests on to ``upstreams``, without a shield.

    Raises:
        SettingsError: a package that it needs is not installed.
    """
    try:
        from shieldmw.doors.proxy.app import ProxyOptions, Upstream
    except ImportError as error:
        raise SettingsError([f"--upstream: proxying needs {error.name}: pip install 'shieldmw[proxy]'"]) from None
    from shieldmw.doors.proxy.forwarding import Forwarding
    from shieldmw.doors.proxy.heads import Heads
    from shieldmw.doors.proxy.passage import TimeLimits

    limits = TimeLimits(
        settings.upstream_head_timeout_ms / 1000,
        settings.upstream_idle_timeout_ms / 1000,
        settings.upstream_total_timeout_ms / 1000,
        settings.upstream_min_upload_rate,
    )
    options = ProxyOptions(settings.upstream_connections, settings.upstream_connect_timeout_ms / 1000, limits)
    heads = Heads(Forwarding(addressing_of(settings)), keeps_host=settings.upstream_host == "keep")
    return Upstream(upstreams, heads, options)


def start_embedded(settings: Settings) -> None:
    """Start the server of ``embedded://``. Only when it is needed, so that building a shield starts no process.

    Raises:
        SettingsError: the server does not start.
    """
    if scheme_of(settings.redis_url) == "embedded":
        from shieldmw.store.redis.embedded import shared_server

        shared_server().start()
