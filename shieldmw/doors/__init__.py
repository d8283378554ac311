"""Doors: adapters for the protocols by which servers call the shield."""
