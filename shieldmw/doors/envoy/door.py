"""All that Envoy may ask, on one event loop, and the worker that decides it."""

from __future__ import annotations

import socket

from shieldmw.doors.asgi.facts import FactsReader
from shieldmw.doors.asgi.replies import Replies
from shieldmw.gate.worker import Worker

from .authorization import Authorization
from .health import Health
from .rate_limit import RateLimit
from .server import GrpcServer


class EnvoyDoor:
    """Serves Envoy from ``start`` to ``stop``."""

    def __init__(self, worker: Worker, reader: FactsReader, replies: Replies) -> None:
        self._worker = worker
        self._health = Health()
        self._server = GrpcServer(
            {
                "/envoy.service.auth.v3.Authorization/Check": Authorization(worker, reader, replies).check,
                "/envoy.service.ratelimit.v3.RateLimitService/ShouldRateLimit": RateLimit(
                    worker, replies.answers
                ).check,
                "/grpc.health.v1.Health/Check": self._health.check,
            }
        )

    async def start(self, listening: socket.socket) -> None:
        """Start the worker, then serve on a socket that listens."""
        await self._worker.start()
        await self._server.start(listening)

    async def stop(self, within_s: float) -> None:
        """Tell health checks and clients, answer what has been asked for at most ``within_s``, and stop the worker."""
        self._health.is_serving = False
        await self._server.stop(within_s)
        await self._worker.stop()
