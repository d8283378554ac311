"""The middleware that users import."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Sequence
from typing import TYPE_CHECKING

from starlette.types import ASGIApp

from shieldmw.doors.asgi.facts import AuthenticateScope
from shieldmw.doors.asgi.handshakes import Handshakes
from shieldmw.doors.asgi.lingering import Lingering
from shieldmw.doors.asgi.middleware import Shield
from shieldmw.doors.asgi.nesting import Nesting
from shieldmw.doors.asgi.own_routes import OwnRoutes
from shieldmw.doors.asgi.proxy_hint import ProxyHint
from shieldmw.doors.authorize.authorize import Authorize
from shieldmw.errors import SettingsError
from shieldmw.gate.metrics.counts import Counts
from shieldmw.gate.metrics.slots import opened_slots
from shieldmw.gate.worker import Worker
from shieldmw.settings import Settings
from shieldmw.store.opener import store_opener
from shieldmw.telemetry.observers import ShieldObserver

from .doors import admin_of, reader_of, replies_of, start_embedded
from .worker import build_worker

if TYPE_CHECKING:
    pass


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
        reader = reader_of(settings, authenticate)
        open_store = store_opener(settings)
        build_worker(settings, open_store())  # so that wrong settings fail here, not at the first request
        lingering = Lingering()
        handshakes = Handshakes(lingering, closes=settings.websocket_refusals == "close")
        hint = None if settings.trusted_proxies else ProxyHint(settings.forwarded_header)

        def open_worker() -> Worker:
            if failure is not None:
                raise failure
            start_embedded(settings)
            counts = (None if self._slots is None else self._slots.claim()) or Counts(str(os.getpid()))
            store = open_store(counts.called)
            return build_worker(settings, store, observers=observers, counts=counts, slots=self._slots)

        replies = replies_of(settings, handshakes, hint)
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
                admin_of(settings, reader, handshakes),
                lingering,
            ),
            ticket_in_playlists=settings.ticket_in_playlists,
        )


def _in_a_loop() -> bool:
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True
