"""The module that the servers import: the app of ``OVERLOAD_LOAD``, which counts in the file ``OVERLOAD_TALLY``."""

from __future__ import annotations

import os

from starlette.types import ASGIApp

from benchmarks.overload.app import LOADS, App
from benchmarks.overload.tally import Tally
from shieldmw import ShieldMiddleware

# ``shieldmw serve`` puts the shield around it.
app = App(LOADS[os.environ["OVERLOAD_LOAD"]](), Tally(os.environ["OVERLOAD_TALLY"]))


def shielded() -> ASGIApp:
    """The app behind the shield, for the other servers."""
    return ShieldMiddleware(app)
