"""An ASGI app that writes down every request it gets: a line of JSON in the file that RECORD_INTO names.

A request whose body was cut is written with ``"whole": false``. /early is answered without reading the body.
"""

from __future__ import annotations

import json
import os

from starlette.types import Receive, Scope, Send


def note(method: str, target: str, headers: list[tuple[str, str]], body: bytes | None) -> None:
    """Write one request down; without a body, it was cut."""
    text = "" if body is None else body.decode("latin-1")
    record = {"method": method, "target": target, "headers": headers, "body": text, "whole": body is not None}
    file = os.open(os.environ["RECORD_INTO"], os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    os.write(file, json.dumps(record).encode() + b"\n")
    os.close(file)


async def app(scope: Scope, receive: Receive, send: Send) -> None:
    """Answer 200 once the request is written down."""
    if scope["type"] != "http":
        return
    if scope["path"] != "/healthz":
        query = scope["query_string"].decode("latin-1")
        target = scope["raw_path"].decode("latin-1").partition("?")[0] + (f"?{query}" if query else "")
        headers = [(name.decode("latin-1").lower(), value.decode("latin-1")) for name, value in scope["headers"]]
        body = b"" if target == "/early" else await _body(receive)
        note(scope["method"], target, headers, body)
    head = {"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"2")]}
    await send(head)
    await send({"type": "http.response.body", "body": b"ok"})


async def _body(receive: Receive) -> bytes | None:
    body = b""
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            return None
        body += bytes(message.get("body", b""))
        if not message.get("more_body"):
            return body
