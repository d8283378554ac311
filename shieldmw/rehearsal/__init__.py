"""Rehearsals of an event."""
