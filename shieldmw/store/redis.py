"""The shared store: Redis or Valkey, standalone. The only module that imports redis."""

from __future__ import annotations

import json
import logging
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

import redis.asyncio as aioredis
from redis import exceptions as redis_errors
from redis.backoff import NoBackoff
from redis.retry import Retry

from shieldmw.core.api_keys import ApiKey, ApiKeyTable, derive_digest_key
from shieldmw.core.bucket import Charge, Outcome
from shieldmw.core.client import Identity, ListenerClass
from shieldmw.errors import StoreError, StoreUnavailable

from . import scripts
from .budget import budget
from .keys import KEEP_MS, Keys, api_keys_key, secret_key

log = logging.getLogger(__name__)

# Calls under way at once; more wait for a connection, inside their budget.
MOST_CONNECTIONS = 32

_VERSION_FIELD = "version"

# Answers that mean "not now" rather than "never": LOADING, READONLY, OOM, CLUSTERDOWN, MASTERDOWN.
_AWAY = (
    OSError,
    TimeoutError,
    redis_errors.ConnectionError,
    redis_errors.TimeoutError,
    redis_errors.ReadOnlyError,
    redis_errors.OutOfMemoryError,
    redis_errors.ClusterDownError,
    redis_errors.MasterDownError,
    redis_errors.TryAgainError,
)


class RedisStore:
    """Buckets and API keys in one Redis, shared by the fleet.

    ``secret`` keys all digests; without one, the first worker makes one and keeps it in the
    store. ``timeout_s`` is the budget of a call, connecting included.
    """

    def __init__(self, url: str, *, prefix: str, secret: bytes | None, candidate: bytes, timeout_s: float) -> None:
        self._prefix = prefix
        self._candidate = candidate
        self._secret_is_set = secret is not None
        self._secret = secret
        self._keys = None if secret is None else Keys(prefix, secret)
        self._timeout_s = timeout_s
        self._client = _connect(url, timeout_s)
        self._take = self._client.register_script(scripts.source("take"))

    async def take(self, charges: Sequence[Charge]) -> Outcome:
        """Take the charges, all or nothing, by the clock of Redis. Never sent twice."""
        async with self._budget():
            keys = self._keys or await self._learn_keys()
            return await scripts.take(self._call_take, [keys.bucket(charge) for charge in charges], charges)

    async def api_keys(self, known_version: int | None) -> ApiKeyTable | None:
        """The issued API keys, or None where the version is known; heals a lost secret."""
        async with self._budget():
            if not self._secret_is_set:
                await self._learn_keys()
            version = _version(await self._client.hget(api_keys_key(self._prefix), _VERSION_FIELD))
            if version == known_version:
                return None
            fields: dict[Any, Any] = await self._client.hgetall(api_keys_key(self._prefix))
        version = _version(fields.pop(_VERSION_FIELD.encode(), None))
        entries = (_parse_api_key(name, value) for name, value in fields.items())
        return ApiKeyTable(version, self._digest_key(), {entry.digest: entry for entry in entries if entry})

    async def add_api_key(self, api_key: ApiKey) -> None:
        """Issue a key."""
        value = json.dumps(
            {
                "subject": api_key.identity.subject,
                "class": api_key.identity.listener_class,
                "created": api_key.created_s,
            }
        )
        key = api_keys_key(self._prefix)
        async with self._budget(), self._client.pipeline(transaction=True) as pipeline:
            pipeline.hset(key, api_key.digest, value)
            pipeline.hincrby(key, _VERSION_FIELD, 1)
            pipeline.pexpire(key, KEEP_MS)
            await pipeline.execute()

    async def revoke_api_keys(self, digests: Sequence[str]) -> int:
        """Revoke keys by their digests; how many there were."""
        if not digests:
            return 0
        key = api_keys_key(self._prefix)
        async with self._budget(), self._client.pipeline(transaction=True) as pipeline:
            pipeline.hdel(key, *digests)
            pipeline.hincrby(key, _VERSION_FIELD, 1)
            pipeline.pexpire(key, KEEP_MS)
            revoked, _, _ = await pipeline.execute()
        return int(revoked)

    async def server_info(self) -> dict[str, str]:
        """What ``shieldmw check`` looks at: version, eviction policy, memory bound, password."""
        async with self._budget():
            info = await self._client.info()
        return {str(name): str(value) for name, value in info.items()}

    async def aclose(self) -> None:
        """Close all connections; a later call opens new ones."""
        await self._client.aclose()

    async def _call_take(self, keys: Sequence[str], arguments: Sequence[int]) -> object:
        return await self._take(keys=list(keys), args=list(arguments))

    async def _learn_keys(self) -> Keys:
        """The key names under the fleet's secret: the one in the store, else ours goes there."""
        key = secret_key(self._prefix)
        offered = self._secret or self._candidate
        async with self._client.pipeline(transaction=True) as pipeline:
            pipeline.set(key, offered.hex(), nx=True)
            pipeline.pexpire(key, KEEP_MS)
            pipeline.get(key)
            *_, kept = await pipeline.execute()
        secret = _parse_secret(kept)
        if self._keys is None or secret != self._secret:
            self._secret = secret
            self._keys = Keys(self._prefix, secret)
        return self._keys

    def _digest_key(self) -> bytes:
        if self._secret is None:
            raise StoreError("no secret was learnt from the store")
        return derive_digest_key(self._secret)

    @asynccontextmanager
    async def _budget(self) -> AsyncIterator[None]:
        """The one place where a call's time is bounded and the library's errors become ours."""
        try:
            async with budget(self._timeout_s):
                yield
        except _AWAY as error:
            raise StoreUnavailable(f"{type(error).__name__} {error}".strip()) from error
        except redis_errors.RedisError as error:
            raise StoreError(f"{type(error).__name__} {error}".strip()) from error


def _connect(url: str, timeout_s: float) -> aioredis.Redis:
    # No retries: a call that timed out may have charged. No socket time-outs beside the budget.
    pool = aioredis.BlockingConnectionPool.from_url(
        url,
        max_connections=MOST_CONNECTIONS,
        timeout=timeout_s,
        socket_connect_timeout=timeout_s,
        retry=Retry(NoBackoff(), 0),
        client_name="shieldmw",
    )
    return aioredis.Redis.from_pool(pool)


def _version(value: Any) -> int:
    try:
        return int(value or 0)
    except ValueError:
        raise StoreError(f"the version of the API keys is {value!r:.80}: expected a whole number") from None


def _parse_secret(value: Any) -> bytes:
    try:
        secret = bytes.fromhex(value.decode("ascii"))
    except (AttributeError, ValueError):
        raise StoreError("the secret kept in the store is not hexadecimal: set SHIELD_SECRET") from None
    if len(secret) < 16:
        raise StoreError("the secret kept in the store is shorter than 128 bits: set SHIELD_SECRET")
    return secret


def _parse_api_key(name: bytes, value: bytes) -> ApiKey | None:
    """One entry; None, with a line in the log, where somebody else wrote nonsense there."""
    try:
        entry = json.loads(value)
        identity = Identity(str(entry["subject"]), ListenerClass(entry["class"]))
        return ApiKey(name.decode("ascii"), identity, int(entry["created"]))
    except Exception as error:  # whatever it is that somebody else wrote there
        log.warning("an API key in the store cannot be read (%s): it is ignored", type(error).__name__)
        return None
