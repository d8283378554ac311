"""Listens to the gate's events; nothing on a request's way waits for it."""
