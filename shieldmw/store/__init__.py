"""Shared state, each operation atomic and one round trip; the only floor that talks to Redis."""
