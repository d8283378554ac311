"""Makes named tuples on the path of every request, in half the time that their classes take.

``made(Client, ("ip", text, slot))`` equals ``Client("ip", text, slot)``: all fields in order, including defaults.
"""

from __future__ import annotations

made = tuple.__new__
