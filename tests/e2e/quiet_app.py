"""An app whose WebSockets and streams begin, and then say nothing until the client leaves."""

from __future__ import annotations

from starlette.types import Receive, Scope, Send


async def app(scope: Scope, receive: Receive, send: Send) -> None:
    """A WebSocket is accepted, /events sends one event, anything else is answered."""
    if scope["type"] == "websocket":
        await send({"type": "websocket.accept"})
        while (await receive())["type"] != "websocket.disconnect":
            pass
    elif scope["type"] == "http":
        is_stream = scope["path"] == "/events"
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"text/event-stream")]})
        await send({"type": "http.response.body", "body": b"data: hello\n\n", "more_body": is_stream})
        while is_stream and (await receive())["type"] != "http.disconnect":
            pass
