"""One worker per event loop: opened when first needed, stopped with the lifespan or with the loop.

Usually there is one loop. Test clients run one for each request, and end it without a lifespan.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass

from shieldmw.gate.worker import Worker


@dataclass(frozen=True, slots=True)
class _Running:
    """A worker (once it is open), the task that it lives in, and the event that ends the task."""

    opened: asyncio.Future[Worker]
    task: asyncio.Task[None]
    ending: asyncio.Event


class Workers:
    """Opens one worker with ``open_worker`` for each loop; ``on_stop`` is called when one is about to stop."""

    def __init__(self, open_worker: Callable[[], Worker], on_stop: Callable[[Worker], None]) -> None:
        self._open_worker = open_worker
        self._on_stop = on_stop
        self._running: dict[asyncio.AbstractEventLoop, _Running] = {}

    async def here(self) -> Worker:
        """The worker of this loop, started only once even if several requests arrive first.

        Raises:
            RuntimeError: no asyncio event loop is running.
            SettingsError: a worker cannot be opened.
        """
        loop = _running_loop()
        running = self._running.get(loop)
        if running is None:
            for other in [other for other in self._running if other.is_closed()]:
                self._running.pop(other, None)  # a loop that was closed without ending its tasks
            opened, ending = loop.create_future(), asyncio.Event()
            task = loop.create_task(self._run(loop, opened, ending), name="shieldmw worker")
            running = self._running[loop] = _Running(opened, task, ending)
        return await asyncio.shield(running.opened)

    async def stop(self) -> None:
        """Stop the worker of this loop, if there is one; returns when it has stopped."""
        try:
            running = self._running.pop(asyncio.get_running_loop(), None)
        except RuntimeError:  # no loop, so nothing can have been started
            return
        if running is not None:
            running.ending.set()
            await asyncio.wait([running.task])
            if not running.task.cancelled():
                running.task.result()

    async def _run(
        self, loop: asyncio.AbstractEventLoop, opened: asyncio.Future[Worker], ending: asyncio.Event
    ) -> None:
        """Run a worker until it is to end. A loop that ends cancels this task, which can still close connections."""
        worker = None
        try:
            worker = self._open_worker()
            await worker.start()
            opened.set_result(worker)
            await ending.wait()
        except Exception as error:
            opened.set_exception(error)
        except asyncio.CancelledError:
            opened.cancel()
            await self._stop(loop, opened, worker)
            raise
        await self._stop(loop, opened, worker)

    async def _stop(
        self, loop: asyncio.AbstractEventLoop, opened: asyncio.Future[Worker], worker: Worker | None
    ) -> None:
        running = self._running.get(loop)
        if running is not None and running.opened is opened:
            del self._running[loop]
        if worker is not None:
            self._on_stop(worker)
            await worker.stop()


def _running_loop() -> asyncio.AbstractEventLoop:
    try:
        return asyncio.get_running_loop()
    except RuntimeError:
        raise RuntimeError(
            "the shield needs asyncio: this server runs the app under trio or in no event loop"
        ) from None
