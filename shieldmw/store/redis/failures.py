"""Translates the errors of servers and of redis-py into our own, in this one place."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager

from redis import exceptions as redis_errors

from shieldmw.errors import NotApplied, NotPermitted, StoreError, StoreUnavailable

from .calls import Ask, ClusterDown, Moved, Redirected, TryAgain

# Codes that mean "not now" rather than "never". Before Redis 7 an error in a script is quoted in another error.
_NOT_NOW = re.compile(r"(?:^|: -)(BUSY|LOADING|MASTERDOWN|MISCONF|NOAUTH|NOREPLICAS|OOM|READONLY|CLUSTERDOWN) ")

# Codes that suggest another server has taken over: this one is a replica now, its master or replicas are away, its
# cluster is down, it has just started, or it has a password now.
_REPLACED = ("CLUSTERDOWN", "LOADING", "MASTERDOWN", "NOAUTH", "NOREPLICAS", "READONLY")

# Errors that redis-py raises if the server is away. uvloop raises RuntimeError for a closed connection.
_AWAY = (
    OSError,
    RuntimeError,
    TimeoutError,
    redis_errors.ConnectionError,
    redis_errors.TimeoutError,
    redis_errors.MasterDownError,
)


class ScriptForgotten(StoreError):
    """NOSCRIPT: the server does not know the script, and did nothing."""


# Codes with an exception of their own.
_KINDS: dict[str, type[StoreError]] = {"NOSCRIPT": ScriptForgotten, "TRYAGAIN": TryAgain, "CLUSTERDOWN": ClusterDown}


def failure_of(reply: str) -> StoreError:
    """The exception for an error that a server answers; its code is the first word."""
    code = reply.partition(" ")[0]
    if code in ("MOVED", "ASK"):
        return _redirection(Moved if code == "MOVED" else Ask, reply)
    if "NOPERM " in reply:  # also if it aborts a transaction
        return NotPermitted(reply)
    if code in _KINDS:
        return _KINDS[code](reply)
    return NotApplied(reply) if _NOT_NOW.search(reply) else StoreError(reply)


def means_server_replaced(reply: str) -> bool:
    """Whether an error suggests that another server has taken over."""
    found = _NOT_NOW.search(reply)
    return found is not None and found[1] in _REPLACED


def text_of(error: BaseException) -> str:
    """The text of another library's exception in ours."""
    return f"{type(error).__name__} {error}".strip()


def _redirection(kind: type[Redirected], reply: str) -> StoreError:
    try:
        _code, _slot, address = reply.split(" ")
        host, _, port = address.rpartition(":")
        return kind(reply, host, int(port))
    except ValueError:
        return StoreError(reply)


@contextmanager
def translated() -> Iterator[None]:
    """Raise our exceptions in place of redis-py's."""
    try:
        yield
    except _AWAY as error:
        raise StoreUnavailable(text_of(error)) from error
    except redis_errors.NoPermissionError as error:
        raise NotPermitted(text_of(error)) from error
    except redis_errors.RedisError as error:
        raise StoreError(text_of(error)) from error
