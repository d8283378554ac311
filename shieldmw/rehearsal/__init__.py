"""Rehearsals of an evening."""
