"""A JWKS, fetched in the background with httpx; while its server is down, the last keys stay in force."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Callable, Sequence
from functools import cache

import httpx
import jwt

from shieldmw.gate.refresher import Refresher

from .jwt_tokens import VerificationKey, key_algorithms

# Interval between two fetches.
REFRESH_S = 300.0

# Shortest interval between two fetches caused by tokens with an unknown ``kid``, which may be forged.
LEAST_S = 10.0

# Bounds of one fetch.
TIMEOUT_S = 5.0
LARGEST_BYTES = 1_048_576
MOST_REDIRECTS = 5

# Time for which the start waits for the first answer; after that the fetch continues in the background.
START_WAIT_S = 0.4


class JwksKeys:
    """The keys of a JWKS that can verify JWTs with the pinned algorithms.

    ``on_change`` is called after a change, with whether keys were removed: then tokens must be verified again.
    """

    on_change: Callable[[bool], None]

    def __init__(self, url: str, algorithms: Sequence[str]) -> None:
        self.on_change = lambda lost: None
        self._url = httpx.URL(url)
        self._algorithms = frozenset(algorithms)
        self._text: bytes | None = None
        self._keys: tuple[VerificationKey, ...] = ()
        self.refresher = Refresher(
            f"JWKS {_shown(self._url)}", self.refresh, interval_s=REFRESH_S, least_s=LEAST_S, first_s=START_WAIT_S
        )

    @property
    def is_ready(self) -> bool:
        """Whether a set has been fetched."""
        return bool(self._keys)

    def candidates(self, kid: str | None) -> Sequence[VerificationKey]:
        """The key named ``kid``; for None, the only key of the set."""
        if kid is None:
            return self._keys if len(self._keys) == 1 else ()
        found = [key for key in self._keys if key.kid == kid]
        if not found:
            self.refresher.refresh_soon()
        return found

    async def refresh(self) -> None:
        """Fetch the set. The last one stays in force unless the answer is a set with a usable key.

        Raises:
            ValueError: no answer, an error status, not a JWKS, too large, or a redirect to another origin.
        """
        text = await fetch(self._url)
        if text == self._text:
            return
        keys = parse_jwks(text, self._algorithms)
        lost = any(key not in keys for key in self._keys)
        self._text, self._keys = text, keys
        self.on_change(lost)


async def fetch(url: httpx.URL) -> bytes:
    """Fetch the text at a URL, following redirects within its origin.

    Raises:
        ValueError: it cannot be fetched. The message contains no passwords or queries, so it may be logged.
    """
    try:
        verify = await asyncio.to_thread(_tls) if url.scheme == "https" else False
        async with (
            asyncio.timeout(TIMEOUT_S),
            httpx.AsyncClient(timeout=TIMEOUT_S, headers=_PLAIN, verify=verify) as client,
        ):
            at = url
            for _ in range(1 + MOST_REDIRECTS):
                async with client.stream("GET", at) as response:
                    if not response.has_redirect_location:
                        return await _body(response)
                    at = _redirected(at, response.headers["location"])
            raise ValueError(f"redirects more than {MOST_REDIRECTS} times")
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        raise ValueError(f"does not answer ({type(error).__name__}{_because(error)})") from error
    except TimeoutError as error:
        raise ValueError(f"does not answer within {TIMEOUT_S:g} s") from error


# Uncompressed, since a compressed answer could expand to any size.
_PLAIN = {"Accept": "application/json", "Accept-Encoding": "identity"}


@cache
def _tls() -> ssl.SSLContext:
    """The trusted certificates, loaded once, since that takes 25 ms."""
    return httpx.create_ssl_context()


async def _body(response: httpx.Response) -> bytes:
    if response.status_code != httpx.codes.OK:
        raise ValueError(f"answers with status {response.status_code}")
    if response.headers.get("content-encoding", "identity") != "identity":
        raise ValueError("answers compressed, though asked not to")
    text = b""
    async for chunk in response.aiter_raw():
        text += chunk
        if len(text) > LARGEST_BYTES:
            raise ValueError(f"answers with more than {LARGEST_BYTES} bytes")
    return text


def _redirected(at: httpx.URL, location: str) -> httpx.URL:
    """The target of a redirect, which must have the same origin: any other is not the issuer in the settings."""
    to = at.join(location)
    if _origin(to) != _origin(at):
        raise ValueError(
            f"redirects to another origin ({_shown(to)}), which is not followed: "
            "set SHIELD_JWT_JWKS_URL to where the keys are"
        )
    return to.copy_with(userinfo=at.userinfo)


def _origin(url: httpx.URL) -> tuple[str, str, int | None]:
    return url.scheme, url.host, url.port  # httpx leaves out the usual port


def _shown(url: httpx.URL) -> str:
    """The URL as the log may show it, without passwords and queries."""
    return str(url.copy_with(userinfo=b"", query=None, fragment=None))


def _because(error: Exception) -> str:
    return f": {error}" if isinstance(error, httpx.TransportError) and str(error) else ""


def parse_jwks(text: bytes, pinned: frozenset[str]) -> tuple[VerificationKey, ...]:
    """The public keys of a JWKS (RFC 7517) that can be used with the pinned algorithms; all if none are pinned.

    Raises:
        ValueError: not a JWKS, or none of its keys can be used.
    """
    try:
        key_set = jwt.PyJWKSet.from_json(text.decode())
    except (jwt.PyJWTError, UnicodeDecodeError, AttributeError, TypeError, ValueError, RecursionError) as error:
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
