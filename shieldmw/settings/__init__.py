"""The settings: their variables, defaults, meanings and checks."""

from .model import Settings
from .table import rows, variable

__all__ = ["Settings", "rows", "variable"]
