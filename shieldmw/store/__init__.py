"""Shared state: each operation is atomic and one round trip. The only layer that talks to Redis."""
