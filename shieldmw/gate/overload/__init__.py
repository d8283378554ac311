"""Overload protection: what the limits have admitted passes a lane on its way into the app."""
