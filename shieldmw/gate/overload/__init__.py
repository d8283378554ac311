"""Overload protection: requests that the limits have admitted pass a lane on their way into the app."""
