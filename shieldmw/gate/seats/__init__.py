"""Seats: which listeners may hold a live stream, which must wait, and which must leave."""
