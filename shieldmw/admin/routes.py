"""The table of the admin routes, with the function, summary and possible answers of each.

Both the Starlette app and the OpenAPI document are built from it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel
from starlette.requests import Request
from starlette.responses import Response

from shieldmw.core.address import IPNetwork
from shieldmw.core.bounds import MOST_ERRORS
from shieldmw.core.client import address_text
from shieldmw.core.deny import not_denied
from shieldmw.errors import SettingsError
from shieldmw.gate.operator.control import Control, Metered
from shieldmw.gate.operator.deny_editor import FULL_LINE, DenyRefusal

from .answers import answer, no_content, problem, revalidated, text_answer
from .auth import Operator, Role
from .limits import LimitsAnswer, LimitsBody
from .masking import Answer
from .schema import (
    AuditAnswer,
    AuditItem,
    AuditQuery,
    CidrPath,
    DenyAnswer,
    DenyBody,
    DenyItem,
    ModeBody,
    PreviewAnswer,
    PreviewQuery,
    ResetAnswer,
    ResetBody,
    StatusAnswer,
    TopQuery,
)
from .top import TopAnswer


@dataclass(frozen=True, slots=True)
class Call:
    """One authorized request. ``given`` is its body or query, parsed by the operation's model."""

    control: Control
    operator: Operator
    actor: str
    request: Request
    path: Any
    given: Any

    @property
    def network(self) -> IPNetwork:
        """The network in the path."""
        path: CidrPath = self.path
        return path.network

    def answer(self, body: Answer, headers: Mapping[str, str] | None = None) -> Response:
        """The answer to this request; masked, if the token may only look."""
        return answer(body.masked() if self.operator.role is Role.VIEWER else body, headers)

    def versioned(self, body: StatusAnswer | LimitsAnswer) -> Response:
        """The same, with the version as its entity tag."""
        return self.answer(body, {"etag": f'"{body.version}"'})


Endpoint = Callable[[Call], Awaitable[Response]]


@dataclass(frozen=True, slots=True)
class Operation:
    """One method on one path. It answers with JSON of the ``answer``, or with text of the ``text_types``; without
    either, 204."""

    method: str
    path: str
    endpoint: Endpoint
    summary: str
    answer: type[Answer] | type[str] | None
    problems: tuple[int, ...] = ()
    body: type[BaseModel] | None = None
    query: type[BaseModel] | None = None
    parameters: type[BaseModel] | None = None
    versioned: bool = False
    text_types: tuple[str, ...] = ()

    @property
    def changes(self) -> bool:
        """Whether it changes anything."""
        return self.method != "GET"


async def get_status(call: Call) -> Response:
    """Answer with the state of the fleet."""
    return call.versioned(StatusAnswer.of(await call.control.status()))


async def put_mode(call: Call) -> Response:
    """Change the mode, unless If-Match names another version."""
    body: ModeBody = call.given
    expected = _expected_version(call.request)
    changed = expected is not _NO_VERSION and await call.control.set_mode(body.change(call.actor), expected)
    status = StatusAnswer.of(await call.control.status())
    if changed:
        return call.versioned(status)
    who = f"by {status.actor}" if status.actor else "by nobody yet"
    detail = f"Nothing was changed: the mode is at version {status.version} now, set {who}."
    return problem(412, detail, headers={"etag": f'"{status.version}"'}, current=status)


async def get_limits(call: Call) -> Response:
    """Answer with the limits in force."""
    return call.versioned(LimitsAnswer.of_report(await call.control.limits()))


async def put_limits(call: Call) -> Response:
    """Replace what operators changed of the limits, unless If-Match names another version."""
    body: LimitsBody = call.given
    expected = _expected_version(call.request)
    try:
        changed = expected is not _NO_VERSION and await call.control.set_limits(
            body.overrides(),
            actor=call.actor,
            reason=body.reason,
            for_s=body.for_seconds,
            expected_version=expected,
        )
    except SettingsError as error:
        return problem(422, f"Nothing was changed. {'; '.join(error.problems[:MOST_ERRORS])}", title="Not valid")
    limits = LimitsAnswer.of_report(await call.control.limits())
    if changed:
        return call.versioned(limits)
    who = f"by {limits.actor}" if limits.actor else "by nobody yet"
    detail = f"Nothing was changed: the limits are at version {limits.version} now, set {who}."
    return problem(412, detail, headers={"etag": f'"{limits.version}"'}, current=limits)


async def get_preview(call: Call) -> Response:
    """Answer with what a change of the mode would do now."""
    query: PreviewQuery = call.given
    return call.answer(PreviewAnswer.of(await call.control.preview(query.mode, query.capacity, query.guest_share)))


async def get_audit(call: Call) -> Response:
    """Answer with the last changes."""
    query: AuditQuery = call.given
    return call.answer(AuditAnswer(entries=[AuditItem.of(entry) for entry in await call.control.audit(query.count)]))


async def get_top(call: Call) -> Response:
    """Answer with the busiest clients, networks, paths and user agents."""
    query: TopQuery = call.given
    return call.answer(TopAnswer.of(await call.control.top(query.count)))


async def get_deny_list(call: Call) -> Response:
    """Answer with all denied networks."""
    now_s = call.control.now_s()
    return call.answer(DenyAnswer(entries=[DenyItem.of(entry, now_s) for entry in await call.control.denials.denied()]))


async def get_edge_list(call: Call) -> Response:
    """Answer with the deny list as text, for servers in front of the shield. Never with a part of it."""
    listed = await call.control.edge_list()
    return revalidated(listed.text, listed.etag, ", ".join(call.request.headers.getlist("if-none-match")))


async def get_deny(call: Call) -> Response:
    """Answer with the entry of exactly this network, or 404."""
    entry = await call.control.denials.denied_network(call.network)
    if entry is None:
        return problem(404, not_denied(call.network))
    return call.answer(DenyItem.of(entry, call.control.now_s()))


async def put_deny(call: Call) -> Response:
    """Deny a network."""
    body: DenyBody = call.given
    network, own = call.network, call.operator.address
    entry = await call.control.denials.deny(
        network, body.for_seconds, actor=call.actor, reason=body.reason, own=own, force=body.force
    )
    if entry is DenyRefusal.OWN_ADDRESS:
        return problem(
            409, f'{network} contains your own address, {address_text(own)}. To deny it all the same: "force": true.'
        )
    if isinstance(entry, DenyRefusal):
        return problem(409, FULL_LINE)
    return call.answer(DenyItem.of(entry, call.control.now_s()))


async def delete_deny(call: Call) -> Response:
    """Lift the denial of a network."""
    if not await call.control.denials.undeny(call.network, call.actor):
        return problem(404, not_denied(call.network))
    return no_content()


async def post_reset(call: Call) -> Response:
    """Refill a client's buckets."""
    body: ResetBody = call.given
    clients = await call.control.reset(body.client, call.actor, body.reason)
    return call.answer(ResetAnswer(clients=[str(client) for client in clients]))


async def get_metrics(call: Call) -> Response:
    """Answer with the metrics, as text for Prometheus or OpenMetrics."""
    accept = ",".join(call.request.headers.getlist("accept"))
    metered = await call.control.metrics()
    # In a thread: with many workers it is a long text, and requests of the app should not wait for it.
    content_type, text = await asyncio.to_thread(_metrics_page, metered, accept)
    return text_answer(text, content_type)


def _metrics_page(metered: Metered, accept: str) -> tuple[str, bytes]:
    from shieldmw.telemetry.prometheus import page

    return page(metered, accept)


_NO_VERSION = -1


def _expected_version(request: Request) -> int | None:
    """The version that If-Match requires, bare or quoted; None for any, -1 if it is no valid version."""
    lines = request.headers.getlist("if-match")
    text = ",".join(lines).strip()
    if not lines or text == "*":
        return None
    if text.startswith('"') and text.endswith('"'):
        text = text[1:-1]
    return int(text) if text.isascii() and text.isdigit() and len(text) < 16 else _NO_VERSION


_BODY = (400, 413, 415, 422, 503)

OPERATIONS = (
    Operation("GET", "/status", get_status, "The state of the fleet", StatusAnswer, versioned=True),
    Operation(
        "PUT", "/mode", put_mode, "Switch to emergency or back", StatusAnswer, (*_BODY, 412), ModeBody, versioned=True
    ),
    Operation(
        *("GET", "/mode/preview", get_preview, "What a change of the mode would do now", PreviewAnswer, (422,)),
        query=PreviewQuery,
    ),
    Operation("GET", "/limits", get_limits, "The limits in force", LimitsAnswer, versioned=True),
    Operation("PUT", "/limits", put_limits, "Change limits", LimitsAnswer, (*_BODY, 412), LimitsBody, versioned=True),
    Operation("GET", "/audit", get_audit, "The last changes", AuditAnswer, (422, 503), query=AuditQuery),
    Operation("GET", "/top", get_top, "The busiest clients, networks, paths", TopAnswer, (422, 503), query=TopQuery),
    Operation("GET", "/deny", get_deny_list, "All denied networks", DenyAnswer, (503,)),
    Operation("GET", "/deny.txt", get_edge_list, "The deny list as text, one CIDR a line", str, (503,)),
    Operation("GET", "/deny/{cidr}", get_deny, "One denied network", DenyItem, (404, 422, 503), parameters=CidrPath),
    Operation(
        "PUT", "/deny/{cidr}", put_deny, "Deny a network", DenyItem, (*_BODY, 409), DenyBody, parameters=CidrPath
    ),
    Operation("DELETE", "/deny/{cidr}", delete_deny, "Lift a denial", None, (404, 422, 503), parameters=CidrPath),
    Operation("POST", "/reset", post_reset, "Refill a client's buckets", ResetAnswer, _BODY, ResetBody),
    Operation(
        *("GET", "/metrics", get_metrics, "The metrics, for Prometheus", None),
        text_types=("text/plain", "application/openmetrics-text"),
    ),
)
