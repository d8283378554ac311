"""A fast constructor of named tuples for the path of every request: half the time of calling their class.

``made(Client, ("ip", text, slot))`` equals ``Client("ip", text, slot)``: all fields in order, including defaults.
"""

from __future__ import annotations

made = tuple.__new__
