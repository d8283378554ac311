"""The app under test behind the middleware, with Settings from the environment."""

from __future__ import annotations

from e2e.apps import app
from shieldmw import ShieldMiddleware

shielded = ShieldMiddleware(app)
