"""How values are made that every request needs: named tuples, as their classes would make them, in half of the time.

``made(Client, ("ip", text, slot))`` is ``Client("ip", text, slot)``: every field in its order, defaults too.
"""

from __future__ import annotations

made = tuple.__new__
