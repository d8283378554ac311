"""An app in a worker of granian that listens once the file named by START_FILE exists: between two runs of its loop."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

from granian.server import mp

from e2e.apps import app
from e2e.slow_to_start import wait_for

__all__ = ["app"]

_granian: Any = mp
_ASGIWorker = _granian.ASGIWorker


def _listens_late(*arguments: Any) -> Any:
    sys.stderr.write("about to listen\n")
    wait_for(Path(os.environ["START_FILE"]))
    return _ASGIWorker(*arguments)


_granian.ASGIWorker = _listens_late
