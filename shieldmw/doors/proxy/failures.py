"""The two ways in which a proxied request ends without a response: a failure to be answered, and a client that left."""

from __future__ import annotations

from shieldmw.answers.gateway import Failure
from shieldmw.errors import UpstreamError


class ProxyFailure(UpstreamError):
    """No response, or not the whole of it. ``why``: for the log, without secrets.

    ``is_answered``: the client has got a part of the response already, so it can only be cut short.
    """

    def __init__(self, failure: Failure, why: str = "") -> None:
        super().__init__(why or failure.error)
        self.failure = failure
        self.is_answered = False


class ClientLeft(UpstreamError):
    """The client has disconnected: there is nobody to answer."""
