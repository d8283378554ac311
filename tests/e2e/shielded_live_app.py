"""The live event behind the middleware, for servers that are not `shieldmw serve`."""

from __future__ import annotations

from e2e.live_app import app
from shieldmw import ShieldMiddleware

shielded = ShieldMiddleware(app)
