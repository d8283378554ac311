"""Doors: the protocols by which the shield is called."""
