"""Turns a proxy's question into the scope of the original request, which is then read like any other."""

from __future__ import annotations

import re

from starlette.types import Scope

from shieldmw.core.paths import served

from .dialects import Dialect

_METHOD = re.compile(rb"[!#$%&'*+.^_`|~0-9A-Za-z-]+")

# A target as HTTP/1.1 allows it (RFC 9112, section 3.2.1), with bytes beyond ASCII, which proxies pass on. A fragment
# is not part of it: whether the app's server would cut it off is unknown.
_TARGET = re.compile(rb"/[^\x00-\x20\x7f#]*|\*")


class Misasked(ValueError):
    """The question is wrong: its proxy is not configured for this dialect, or the target is none."""


def original_scope(dialect: Dialect, scope: Scope, rest: bytes) -> Scope:
    """The scope of the request that a question is about; ``rest`` is the question's path after the route's.

    Raises:
        Misasked: a header of the dialect is missing, doubled or malformed.
    """
    found, headers = _separated(dialect, scope)
    method = scope["method"] if dialect.method is None else _method(found, dialect.method)
    if dialect.target is not None:
        target = _one(found, dialect.target)
    else:
        target = b"%s?%s" % (rest, scope["query_string"]) if scope["query_string"] else rest
    if not _TARGET.fullmatch(target):
        raise Misasked("the target must begin with / and hold no blanks, control characters or #")
    if dialect.host is not None:
        headers = [(b"host", _one(found, dialect.host)), *[line for line in headers if line[0] != b"host"]]
    path, _, query = target.partition(b"?")
    return {
        **scope,
        "method": method,
        "scheme": "https" if found.get(dialect.scheme) == b"https" else "http",
        "path": served(path),
        "raw_path": path,
        "query_string": query,
        "root_path": "",
        "headers": headers,
    }


def _separated(dialect: Dialect, scope: Scope) -> tuple[dict[bytes, bytes], list[tuple[bytes, bytes]]]:
    """The dialect's headers, and the others, which are the client's."""
    names = dialect.names
    found: dict[bytes, bytes] = {}
    headers: list[tuple[bytes, bytes]] = []
    for line in scope["headers"]:
        name, value = line
        if name not in names:
            headers.append(line)
        elif name in found:
            raise Misasked(f"several lines of {name.decode()}: the proxy must replace those of the client")
        else:
            found[name] = value
    return found, headers


def _one(found: dict[bytes, bytes], name: bytes) -> bytes:
    if not (value := found.get(name)):
        raise Misasked(f"no {name.decode()}")
    return value


def _method(found: dict[bytes, bytes], name: bytes) -> str:
    method = _one(found, name)
    if not _METHOD.fullmatch(method):
        raise Misasked(f"{name.decode()} holds no method")
    return method.decode("ascii")
