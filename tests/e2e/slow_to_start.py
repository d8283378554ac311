"""An app that has started once the file named by START_FILE exists."""

from __future__ import annotations

import asyncio
import os
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from starlette.applications import Starlette
from starlette.routing import Route

from e2e.apps import PAUSE_S, healthz


@asynccontextmanager
async def lifespan(app: Starlette) -> AsyncIterator[None]:
    """Wait for the file."""
    sys.stderr.write(f"app starts in {os.getpid()}\n")
    await asyncio.to_thread(wait_for, Path(os.environ["START_FILE"]))
    yield


def wait_for(path: Path) -> None:
    """Block until the file exists."""
    while not path.exists():
        time.sleep(PAUSE_S)


app = Starlette(routes=[Route("/healthz", healthz)], lifespan=lifespan)
