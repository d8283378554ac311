"""Files of the working directory under /hls, as a packager writes them; alone and behind the middleware."""

from __future__ import annotations

from starlette.applications import Starlette
from starlette.responses import PlainTextResponse
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles

from shieldmw import ShieldMiddleware

app = Starlette(
    routes=[Route("/healthz", PlainTextResponse("ok")), Mount("/hls", StaticFiles(directory=".", check_dir=False))]
)
shielded = ShieldMiddleware(app)
