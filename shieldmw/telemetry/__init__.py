"""Observers of the gate's events; no request waits for them."""
