"""Doors: protocols in which the shield is asked."""
