"""The documents that operators change."""

from __future__ import annotations

from shieldmw.core.mode import ModeChange, ModeState
from shieldmw.core.overrides import OverridesChange, OverridesState

from . import records
from .port import Document

MODE: Document[ModeChange, ModeState] = Document("mode", ModeState(), records.mode_text, records.parse_mode)
LIMITS: Document[OverridesChange, OverridesState] = Document(
    "limits", OverridesState(), records.limits_text, records.parse_limits
)
