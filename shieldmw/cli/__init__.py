"""The command line: ``shieldmw serve | check | env | keys | mode | demo``."""

from .main import main

__all__ = ["main"]
