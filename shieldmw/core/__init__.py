"""Arithmetic and rules: no I/O, no clock, no asyncio. Time is an argument."""
