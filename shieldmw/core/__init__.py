"""Arithmetic and rules: no I/O, no clock, no asyncio; time is an argument."""
