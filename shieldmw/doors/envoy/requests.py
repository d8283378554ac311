"""A request as Envoy describes it, as an ASGI scope: so it is read by the same code as one that comes by itself."""

from __future__ import annotations

from starlette.types import Scope

from shieldmw.core.paths import served

from .protos.authorization_pb2 import CheckRequest


def scope_of(asked: CheckRequest) -> Scope:
    """The scope of the request that is asked about.

    Its peer is that of Envoy's connection, None for a unix socket. Pseudo-headers such as ``:path`` are among the
    headers; no reader looks for them.
    """
    http = asked.attributes.request.http
    peer = asked.attributes.source.address.socket_address
    raw_path, _, query = http.path.partition("?")
    if http.HasField("header_map"):
        headers = [(line.key.encode(), line.raw_value or line.value.encode()) for line in http.header_map.headers]
    else:
        headers = [(name.encode(), value.encode()) for name, value in http.headers.items()]
    return {
        "type": "http",
        "method": http.method,
        "scheme": http.scheme,
        "path": served(raw_path.encode()),
        "raw_path": raw_path.encode(),
        "query_string": query.encode(),
        "root_path": "",
        "headers": headers,
        "client": (peer.address, peer.port_value) if peer.address else None,
    }
