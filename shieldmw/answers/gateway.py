"""The proxy's own answers: why a request was not answered by the upstream, as problem document and ``Proxy-Status``.

The words of ``Proxy-Status`` are those of RFC 9209, section 2.3.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field

from .problems import Problem
from .rate_limit import Headers

# The name of this proxy in ``Via`` and ``Proxy-Status``.
PROXY_NAME = b"shieldmw"

# Retry delay while all connections to the upstreams are in use, in seconds.
_RETRY_S = 1


@dataclass(frozen=True, slots=True)
class Failure:
    """Why the proxy answers instead of an upstream. ``error``: the word of RFC 9209.

    ``is_upstreams``: the upstream is to blame, so it counts against its health. ``closes``: nothing more can be read
    from the client's connection.
    """

    status: int
    error: str
    title: str
    detail: str
    is_upstreams: bool = True
    closes: bool = False
    headers: Headers = field(init=False)
    body: bytes = field(init=False)

    def __post_init__(self) -> None:
        problem = Problem("about:blank", self.title, self.detail)
        body = {"type": problem.type, "title": problem.title, "status": self.status, "detail": problem.detail}
        headers = [
            (b"content-type", b"application/problem+json"),
            (b"cache-control", b"no-store"),
            (b"proxy-status", b"%s; error=%s" % (PROXY_NAME, self.error.encode("ascii"))),
        ]
        if self.status == 503:
            headers.append((b"retry-after", b"%d" % _RETRY_S))
        if self.closes:
            headers.append((b"connection", b"close"))
        content = json.dumps(body).encode()
        object.__setattr__(self, "headers", [*headers, (b"content-length", b"%d" % len(content))])
        object.__setattr__(self, "body", content)


def _bad_request(detail: str) -> Failure:
    return Failure(400, "http_request_error", "Bad Request", detail, is_upstreams=False, closes=True)


def _bad_gateway(error: str, detail: str) -> Failure:
    return Failure(502, error, "Bad Gateway", detail)


def _timeout(error: str, detail: str) -> Failure:
    return Failure(504, error, "Gateway Timeout", detail)


# --- of the client ---
WRONG_FRAMING = _bad_request("The length of the request's body is not clear, so it was not passed on.")
WRONG_HOST = _bad_request("A request needs exactly one Host header, with a host and at most a port.")
WRONG_TARGET = _bad_request("The request's method, target or headers cannot be passed on.")
CUT_REQUEST = _bad_request("The request's body was cut short, or its chunks are not valid.")
SLOW_CLIENT = Failure(
    408, "http_request_error", "Request Timeout", "The request's body came too slowly.", is_upstreams=False, closes=True
)

# --- no connection ---
NOT_FOUND = _bad_gateway("dns_error", "The name of the server behind this one is unknown.")
REFUSED = _bad_gateway("connection_refused", "The server behind this one accepts no connections.")
UNREACHABLE = _bad_gateway("destination_unavailable", "The server behind this one cannot be reached.")
WRONG_TLS = _bad_gateway("tls_protocol_error", "No secure connection to the server behind this one is possible.")
WRONG_CERTIFICATE = _bad_gateway("tls_certificate_error", "The server behind this one has no valid certificate.")
NOT_CONNECTED = _timeout("connection_timeout", "The server behind this one could not be reached in time.")
ALL_IN_USE = Failure(
    503,
    "connection_limit_reached",
    "Service Unavailable",
    "All connections to the server behind this one are in use. Please try again shortly.",
    is_upstreams=False,
)

# --- no response, or not all of it ---
CLOSED = _bad_gateway("connection_terminated", "The server behind this one closed the connection without an answer.")
INCOMPLETE = _bad_gateway("http_response_incomplete", "The answer of the server behind this one ended too early.")
WRONG_RESPONSE = _bad_gateway("http_protocol_error", "The answer of the server behind this one is not valid HTTP.")
LONG_HEAD = _bad_gateway("http_response_header_section_size", "The server behind this one sent too long a head.")
NO_RESPONSE = _timeout("http_response_timeout", "The server behind this one did not answer in time.")
STALLED_RESPONSE = _timeout("connection_read_timeout", "The server behind this one stopped sending.")
STALLED_REQUEST = _timeout("connection_write_timeout", "The server behind this one stopped reading the request.")
TOO_LONG_IN_ALL = Failure(
    504, "http_response_timeout", "Gateway Timeout", "The exchange took longer than allowed.", is_upstreams=False
)
NO_WEBSOCKET = _bad_gateway("http_upgrade_failed", "The server behind this one did not accept the WebSocket.")
