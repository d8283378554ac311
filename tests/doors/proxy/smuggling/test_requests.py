"""The corpus of requests over raw sockets, through `shieldmw serve --upstream`, to seven real servers.

What the upstream saw is what the shield decided on: as many requests, with the same method, target, Host and body; of
one that is ambiguous nothing, and the client's connection is closed.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest

from doors.proxy.smuggling.payloads import EVIL, Payload, Seen
from doors.proxy.smuggling.requests import REQUESTS
from doors.proxy.smuggling.upstreams import KINDS, Kind, Recorder, recorder
from e2e.proxied import ask_raw, proxy
from servers import HttpServer

# Two servers show most of what there is to see; the others take longer to start.
QUICK: tuple[Kind, ...] = ("uvicorn", "nginx")

SETTINGS = {"SHIELD_IP_LIMIT": "1000000000/day", "SHIELD_UPSTREAM_IDLE_TIMEOUT_MS": "1000"}


# What belongs to the client's connection, and would change what the upstream does with its own.
OF_A_CONNECTION = {"te", "trailer", "upgrade", "http2-settings", "keep-alive", "proxy-connection", "expect"}

# What an upstream answers without asking its app: nothing is written down.
ITS_OWN: dict[tuple[Kind, str], int] = {
    ("nginx", "asterisk"): 400,
    ("caddy", "asterisk"): 200,
    ("nginx", "length of nearly 63 bits"): 413,
}


@dataclass(frozen=True)
class Pair:
    """The proxy, and its upstream."""

    server: HttpServer
    upstream: Recorder
    kind: Kind


@pytest.fixture(
    scope="module",
    params=[pytest.param(kind, marks=[] if kind in QUICK else pytest.mark.thorough) for kind in KINDS],
)
def pair(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pair]:
    """Both are started once for all payloads. Afterwards nothing has come late."""
    directory = tmp_path_factory.mktemp(request.param)
    with recorder(request.param, directory) as upstream, proxy([upstream.url], directory, SETTINGS) as server:
        upstream.news()
        yield Pair(server, upstream, request.param)
        late = [record for record in upstream.news() if record["whole"]]
        log = server.log()
    assert late == []
    assert "Traceback" not in log


def _seen(record: dict[str, Any]) -> Seen:
    (host,) = [value for name, value in record["headers"] if name == "host"]
    return Seen(record["method"], record["target"], record["body"].encode("latin-1"), host)


@pytest.mark.parametrize("payload", REQUESTS, ids=lambda payload: payload.name)
def test_the_upstream_sees_what_was_decided(pair: Pair, payload: Payload) -> None:
    """And the client gets these answers, then the end of its connection."""
    answer = ask_raw(pair.server, payload.data)
    statuses = tuple(map(int, re.findall(rb"HTTP/1\.[01] (\d{3})", answer.text)))
    came = pair.upstream.news()
    whole = [record for record in came if record["whole"]]
    its_own = ITS_OWN.get((pair.kind, payload.name))
    assert [_seen(record) for record in whole] == ([] if its_own else list(payload.seen))
    assert (statuses, answer.is_closed) == ((its_own,) if its_own else payload.statuses, True)
    assert answer.text.lower().count(b"ratelimit-policy:") >= len(payload.seen), "a request was not decided on"
    for record in came:
        assert EVIL not in f"{record['target']} {record['headers']}"
        assert OF_A_CONNECTION.isdisjoint(name for name, _ in record["headers"])
    for name, value in payload.has:
        assert any(key == name and got.startswith(value) for key, got in whole[0]["headers"]), name


def test_every_payload_has_a_name_of_its_own() -> None:
    """By which a failure is found."""
    assert [name for name, count in Counter(payload.name for payload in REQUESTS).items() if count > 1] == []
    assert all(payload.tries for payload in REQUESTS)
