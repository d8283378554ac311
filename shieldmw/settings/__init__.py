"""Every setting: its variable, default, meaning and check."""

from .model import Settings
from .table import rows, variable

__all__ = ["Settings", "rows", "variable"]
