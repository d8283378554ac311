"""Observers of the gate's events. They are fast enough to be called during requests."""
