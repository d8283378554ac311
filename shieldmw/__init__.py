"""Overload protection for ASGI apps: token-bucket limits by address and by verified token."""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .core.client import Identity, ListenerClass
    from .core.mode import Mode, ModeState
    from .errors import SettingsError, ShieldError
    from .gate.events import Evicted
    from .settings import Settings
    from .telemetry.observers import Refused, ShieldObserver
    from .wiring import ShieldMiddleware

__version__ = "0.1.0"

__all__ = [
    "Evicted",
    "Identity",
    "ListenerClass",
    "Mode",
    "ModeState",
    "Refused",
    "Settings",
    "SettingsError",
    "ShieldError",
    "ShieldMiddleware",
    "ShieldObserver",
]

# Imported on first access: a command that needs no middleware starts in a third of the time, which an operator feels
# while workers take up the whole machine.
_HOMES = {
    "Evicted": ".gate.events",
    "Identity": ".core.client",
    "ListenerClass": ".core.client",
    "Mode": ".core.mode",
    "ModeState": ".core.mode",
    "Refused": ".telemetry.observers",
    "Settings": ".settings",
    "SettingsError": ".errors",
    "ShieldError": ".errors",
    "ShieldMiddleware": ".wiring",
    "ShieldObserver": ".telemetry.observers",
}


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value: object = getattr(import_module(_HOMES[name], __name__), name)
    globals()[name] = value
    return value
