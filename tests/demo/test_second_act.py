"""The operator of the second act, against a small server of the test's own."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from shieldmw.admin.client import AdminClient, AdminError
from shieldmw.demo.emergency import REASON
from shieldmw.demo.second_act import emergency

PATIENCE_S = 5.0
SEEN: list[tuple[str, str | None, object]] = []


class Routes(BaseHTTPRequestHandler):
    """Answers a flip below /-/shield, and nothing else."""

    def do_PUT(self) -> None:
        """Note what was asked."""
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        SEEN.append((self.path, self.headers["authorization"], body))
        told = {"mode": "emergency", "version": 1, "now": 1000.5, "until": 1014.5}
        answer = json.dumps(told).encode()
        self.send_response(200 if self.path.startswith("/-/shield/") else 404)
        self.send_header("content-length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@contextmanager
def served() -> Iterator[str]:
    with ThreadingHTTPServer(("127.0.0.1", 0), Routes) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()


def test_the_operator_flips_and_is_told_when_it_ends() -> None:
    """The token and the reason are sent; the end is put on the clock of the demo."""
    SEEN.clear()
    with served() as url, AdminClient(f"{url}/-/shield", "the token", "demo", patience_s=PATIENCE_S) as operator:
        flip = emergency(operator, 14)
    assert flip.asked_s < flip.answered_s
    assert flip.ends_s == pytest.approx(flip.answered_s + 14)
    body = {"mode": "emergency", "for_seconds": 14, "reason": REASON}
    assert [*SEEN] == [("/-/shield/mode", "Bearer the token", body)]


def test_an_operator_who_is_not_obeyed_says_what_came_back() -> None:
    """No admin routes here, or nobody at all: one line each, and no traceback of a client."""
    with (
        served() as url,
        AdminClient(url, "the token", "demo", patience_s=PATIENCE_S) as operator,
        pytest.raises(AdminError, match=r"is not the shield's \(it answered 404\)"),
    ):
        emergency(operator, 1)
    with (
        AdminClient("http://127.0.0.1:1", "the token", "demo", patience_s=PATIENCE_S) as operator,
        pytest.raises(AdminError, match=r"cannot reach http://127\.0\.0\.1:1"),
    ):
        emergency(operator, 1)
