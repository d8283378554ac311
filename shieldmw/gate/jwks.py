"""A JWKS, fetched in the background with httpx; while its server is down the last keys stay."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import httpx
import jwt

from .jwt_tokens import VerificationKey, key_algorithms
from .refresher import Refresher

REFRESH_S = 300.0

# How soon a token with an unknown kid may cause a fetch again; forged ones cost no more than that.
LEAST_S = 10.0

TIMEOUT_S = 5.0
LARGEST_BYTES = 1_048_576


class JwksKeys:
    """The keys of a JWKS. Those that sign no JWT, or only with algorithms not pinned, are left out."""

    def __init__(self, url: str, algorithms: Sequence[str], on_change: Callable[[], None]) -> None:
        self._url = url
        self._algorithms = frozenset(algorithms)
        self._on_change = on_change
        self._text: bytes | None = None
        self._keys: tuple[VerificationKey, ...] = ()
        where = httpx.URL(url).copy_with(userinfo=b"", query=None)
        self._refresher = Refresher(f"JWKS {where}", self.refresh, interval_s=REFRESH_S, least_s=LEAST_S)

    def candidates(self, kid: str | None) -> Sequence[VerificationKey]:
        """The key that is called ``kid``; without a name, the only key of the set."""
        if kid is None:
            return self._keys if len(self._keys) == 1 else ()
        found = [key for key in self._keys if key.kid == kid]
        if not found:
            self._refresher.soon()
        return found

    async def refresh(self) -> None:
        """Fetch the set; anything but a set with a usable key leaves the last one in force.

        Raises:
            httpx.HTTPError: no answer.
            ValueError: the answer is no success, no JWKS, or too large.
        """
        text = await self._fetch()
        if text == self._text:
            return
        keys = parse_jwks(text, self._algorithms)
        self._text, self._keys = text, keys
        self._on_change()

    async def _fetch(self) -> bytes:
        text = b""
        async with httpx.AsyncClient(timeout=TIMEOUT_S) as client, client.stream("GET", self._url) as response:
            if response.status_code != httpx.codes.OK:
                raise ValueError(f"answered with status {response.status_code}")
            async for chunk in response.aiter_bytes():
                text += chunk
                if len(text) > LARGEST_BYTES:
                    raise ValueError(f"longer than {LARGEST_BYTES} bytes")
        return text

    async def start(self) -> None:
        """Fetch the set and keep it fresh."""
        await self._refresher.start(first_s=TIMEOUT_S)

    async def stop(self) -> None:
        """Keep it fresh no longer."""
        await self._refresher.stop()


def parse_jwks(text: bytes, pinned: frozenset[str]) -> tuple[VerificationKey, ...]:
    """The public keys of a JWKS (RFC 7517) that may verify under the pinned algorithms (none: all).

    Raises:
        ValueError: no JWKS, or none of its keys can be used.
    """
    try:
        key_set = jwt.PyJWKSet.from_json(text.decode())
    except (jwt.PyJWTError, UnicodeDecodeError, AttributeError, TypeError, ValueError) as error:
        raise ValueError(f"not a JWKS ({type(error).__name__})") from None
    keys = []
    for jwk in key_set.keys:
        try:
            usual = key_algorithms(jwk.key)
        except ValueError:
            continue
        if jwk.public_key_use not in (None, "sig"):
            continue
        named = (jwk.algorithm_name,) if jwk.algorithm_name in usual else usual[:1]
        algorithms = tuple(name for name in (usual if pinned else named) if not pinned or name in pinned)
        if algorithms:
            keys.append(VerificationKey(jwk.key_id, jwk.key, algorithms))
    if not keys:
        raise ValueError("none of its keys can be used with the pinned algorithms")
    return tuple(keys)
