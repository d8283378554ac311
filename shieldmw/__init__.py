"""Overload protection for ASGI apps: token-bucket limits by address and by verified token."""

from .core.client import Identity, ListenerClass
from .errors import SettingsError, ShieldError
from .settings import Settings
from .wiring import ShieldMiddleware

__version__ = "0.1.0"

__all__ = ["Identity", "ListenerClass", "Settings", "SettingsError", "ShieldError", "ShieldMiddleware"]
