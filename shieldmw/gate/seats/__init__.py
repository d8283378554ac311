"""Seats: who may hold a live stream, who waits, who must leave."""
