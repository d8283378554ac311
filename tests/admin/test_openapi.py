"""The OpenAPI document matches the admin routes: schemathesis searches for a counterexample."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import count
from typing import Any

import schemathesis
from hypothesis import HealthCheck, settings
from schemathesis.config import SchemathesisConfig
from schemathesis.specs.openapi.checks import negative_data_rejection
from starlette.types import Receive, Scope, Send

from admin.app import ADMIN, app_below, bearer, shielded

EXAMPLES = 50

# Fewer than one token may ask in a minute.
ASKED_OF_ONE = 500


class EachFromElsewhere:
    """The app, asked from a new address each time, and a new app before the token's limit is used up: otherwise the
    limits of the admin routes would answer, not they."""

    def __init__(self) -> None:
        self._app = shielded(app_below())
        self._numbers: Iterator[int] = count(1)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            number = next(self._numbers)
            if number % ASKED_OF_ONE == 0:
                self._app = shielded(app_below())
            address = f"100.{64 + (number >> 16) % 64}.{number >> 8 & 255}.{number & 255}"
            scope = {**scope, "client": (address, 40_000)}
        await self._app(scope, receive, send)


# A string can be of the right pattern and no network yet (422), If-Match can name another version (412), and
# If-None-Match be "*" (304).
CHECKS = {"positive_data_acceptance": {"expected-statuses": ["200", "204", "304", "404", "409", "412", "422"]}}


# Read when the tests are collected: the library's lazy way does not work with the current pytest.
schema = schemathesis.openapi.from_asgi(
    "/-/shield/openapi.json",
    EachFromElsewhere(),
    config=SchemathesisConfig.from_dict({"checks": CHECKS}),
    headers=bearer(ADMIN),
)


@schema.parametrize()
# Slow is no failure here: other tests run beside it.
@settings(max_examples=EXAMPLES, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
def test_no_request_is_answered_otherwise_than_described(case: Any) -> None:
    """No 5xx, no undeclared status, header or media type, no body off its schema, no bad data taken, no way in
    without the token."""
    # An object in a query, {"count": "8"} for count, is written as ?count=8: what is sent is not wrong at all.
    not_sent = [negative_data_rejection] if case.operation.path.endswith(("/audit", "/mode/preview")) else []
    case.call_and_validate(headers=bearer(ADMIN), excluded_checks=not_sent)
