"""Every setting: its variable, default, meaning and check."""

from .table import rows, variable
from .model import Settings

__all__ = ["Settings", "rows", "variable"]
