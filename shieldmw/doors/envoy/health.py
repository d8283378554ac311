"""The health service of gRPC, for Envoy's active health checks."""

from __future__ import annotations

from google.protobuf.message import DecodeError

from .protos.health_pb2 import HealthCheckRequest, HealthCheckResponse
from .server import MalformedMessage


class Health:
    """Says whether this process serves; it does from the time it listens until it is told to stop."""

    def __init__(self) -> None:
        self.is_serving = True

    def check(self, message: bytes) -> bytes:
        """Answer a HealthCheckRequest. All services are served or none, so their name makes no difference."""
        try:
            HealthCheckRequest.FromString(message)
        except DecodeError:
            raise MalformedMessage from None
        status = HealthCheckResponse.SERVING if self.is_serving else HealthCheckResponse.NOT_SERVING
        return HealthCheckResponse(status=status).SerializeToString()
