"""Opens the store that the settings name, of any kind."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from secrets import token_bytes
from typing import TYPE_CHECKING, Protocol

from shieldmw.settings import Settings
from shieldmw.settings.store_url import CLUSTERS, SENTINELS, scheme_of

from .memory import MemoryStore
from .port import Store

if TYPE_CHECKING:
    from .counted import Called
    from .redis.calls import Calls

# Modules that only some URLs need are imported inside functions, so that a process loads only what it uses.


class StoreOpener(Protocol):
    """Opens the store; ``called`` counts the calls of its scripts, of which ``memory://`` has none."""

    def __call__(self, called: Called | None = None) -> Store:
        """The store, for one event loop."""


def store_opener(settings: Settings) -> StoreOpener:
    """A function that opens the store, to be called once for each event loop."""
    secret = None if settings.secret is None else settings.secret.get_secret_value().encode()
    candidate = token_bytes(32)
    scheme = scheme_of(settings.redis_url)
    if scheme == "memory":
        store = MemoryStore(secret or candidate)
        return lambda called=None: store
    from .fleet import RedisStore

    connect = partial(_server_kind(scheme), _server_url(settings.redis_url), settings.redis_timeout_ms / 1000)
    return lambda called=None: RedisStore(
        connect(), prefix=settings.key_prefix, secret=secret, candidate=candidate, called=called
    )


def _server_kind(scheme: str) -> Callable[[str, float], Calls]:
    """The class that calls the servers of a URL with this scheme."""
    if scheme in CLUSTERS:
        from .redis.cluster import Cluster

        return Cluster
    if scheme in SENTINELS:
        from .redis.sentinel import Sentinels

        return Sentinels
    from .redis.connection import RedisConnection

    return RedisConnection


def _server_url(url: str) -> str:
    """The URL of the servers, which for ``embedded://`` is that of our own."""
    if scheme_of(url) != "embedded":
        return url
    from .redis.embedded import shared_server

    return shared_server().url
