"""An upstream in the test's own process, which keeps the heads of the requests that reach it."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from .places import HOST


@dataclass(frozen=True, slots=True)
class Seen:
    """One request as it came: its target, its header lines with names in lower case, its body."""

    method: str
    target: str
    headers: tuple[tuple[str, str], ...]
    body: bytes

    def values(self, name: str) -> list[str]:
        """The values of all lines of one name."""
        return [value for key, value in self.headers if key == name]


@dataclass
class Upstream:
    """Its port, and all requests since the last ``forget``."""

    port: int
    seen: list[Seen] = field(default_factory=list)

    def forget(self) -> None:
        """Begin anew."""
        self.seen.clear()


@contextmanager
def upstream() -> Iterator[Upstream]:
    """Answers every request with 200 and its target, those of /forbidden with 403; keeps connections alive."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def _answer(self) -> None:
            body = self.rfile.read(int(self.headers.get("content-length") or 0))
            method, target, _ = self.requestline.split(" ", 2)  # self.path is another where it begins with //
            headers = tuple((name.lower(), value) for name, value in self.headers.items())
            found.seen.append(Seen(method, target, headers, body))
            answer = target.encode("latin-1")
            self.send_response(403 if target == "/forbidden" else 200)
            self.send_header("content-type", "text/plain")
            self.send_header("content-length", str(len(answer)))
            self.end_headers()
            if method != "HEAD":
                self.wfile.write(answer)

        do_GET = do_HEAD = do_POST = do_PUT = do_DELETE = do_OPTIONS = _answer

        def log_message(self, format: str, *args: object) -> None:
            """Nothing."""

    class Server(ThreadingHTTPServer):
        daemon_threads = True

        def handle_error(self, *_: object) -> None:
            """Nothing: proxies close connections as they like."""

    with Server((HOST, 0), Handler) as server:
        found = Upstream(server.server_port)
        thread = threading.Thread(target=server.serve_forever, args=(0.05,))
        thread.start()
        try:
            yield found
        finally:
            server.shutdown()
            thread.join()
