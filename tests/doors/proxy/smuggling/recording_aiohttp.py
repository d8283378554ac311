"""The recording app in aiohttp: ``python recording_aiohttp.py PORT``."""

from __future__ import annotations

import sys

from aiohttp import web
from aiohttp.typedefs import Handler

from doors.proxy.smuggling.recording import note
from servers.places import HOST


@web.middleware
async def answer(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Answer 200 once the request is written down, whatever its target."""
    target = request.raw_path
    if target != "/healthz":
        headers = [(name.decode("latin-1").lower(), value.decode("latin-1")) for name, value in request.raw_headers]
        try:
            body = b"" if target == "/early" else await request.read()
        except (web.RequestPayloadError, ConnectionError):
            note(request.method, target, headers, None)
            raise
        note(request.method, target, headers, body)
    return web.Response(body=b"ok")


if __name__ == "__main__":
    web.run_app(web.Application(middlewares=[answer]), host=HOST, port=int(sys.argv[1]), print=None)
