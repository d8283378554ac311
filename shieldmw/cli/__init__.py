"""The command line: ``shieldmw serve | check | env | keys | demo``."""

from .main import main

__all__ = ["main"]
