"""Parses admin requests and makes their answers: JSON that browsers neither cache nor sniff."""

from __future__ import annotations

import math
from collections.abc import Mapping
from http import HTTPStatus
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response

from shieldmw.answers.problems import PROBLEM_TYPES
from shieldmw.core.bounds import MOST_BODY_BYTES, MOST_ERRORS

from .problems import FieldError, ProblemAnswer, field_errors, not_valid

_SAFE = {"cache-control": "no-store", "x-content-type-options": "nosniff"}

M = TypeVar("M", bound=BaseModel)


def answer(body: BaseModel, headers: Mapping[str, str] | None = None) -> Response:
    """A 200 with the model as JSON."""
    return Response(body.model_dump_json(by_alias=True), 200, {**_SAFE, **(headers or {})}, "application/json")


def json_answer(text: str) -> Response:
    """A 200 with JSON text."""
    return Response(text, 200, _SAFE, "application/json")


def revalidated(text: str, etag: str, if_none_match: str) -> Response:
    """A 200 with plain text, or a 304 if ``If-None-Match`` names its entity tag."""
    headers = {**_SAFE, "cache-control": "private, no-cache", "etag": etag}
    known = [tag.strip().removeprefix("W/") for tag in if_none_match.split(",")]
    if "*" in known or etag in known:
        return Response(status_code=304, headers=headers)
    return Response(text, 200, headers, "text/plain")


def text_answer(text: bytes, content_type: str) -> Response:
    """A 200 with text of any type."""
    return Response(text, 200, {**_SAFE, "content-type": content_type})


def no_content() -> Response:
    """A 204."""
    return Response(status_code=204, headers=_SAFE)


def problem(
    status: int,
    detail: str,
    *,
    title: str | None = None,
    type_: str = "about:blank",
    headers: Mapping[str, str] | None = None,
    **members: Any,
) -> Response:
    """An error as problem details; ``members`` are further members of ``ProblemAnswer``."""
    title = title or HTTPStatus(status).phrase
    body = ProblemAnswer(type=type_, title=title, status=status, detail=detail, **members)
    text = body.model_dump_json(exclude_unset=True)
    return Response(text, status, {**_SAFE, **(headers or {})}, "application/problem+json")


def wait_problem(wait_s: float, title: str, detail: str) -> Response:
    """A 429 that says when to try again."""
    return problem(
        429,
        detail,
        title=title,
        type_=f"{PROBLEM_TYPES}#quota-exceeded",
        headers={"retry-after": str(max(1, math.ceil(wait_s)))},
        retry_after_ms=max(1, math.ceil(wait_s * 1000)),
    )


def invalid(errors: list[FieldError]) -> Response:
    """A 422 with the error of each field."""
    return problem(422, not_valid(errors), title="Not valid", errors=errors[:MOST_ERRORS])


def validated(model: type[M], values: Mapping[str, Any]) -> M | Response:
    """The validated parameters, or a 422."""
    try:
        return model.model_validate(values)
    except ValidationError as error:
        return invalid(field_errors(error))


async def read_json(request: Request, model: type[M]) -> M | Response:
    """The validated body, or the answer with its errors. At most ``MOST_BODY_BYTES`` are read."""
    if request.headers.get("content-type", "").partition(";")[0].strip().lower() != "application/json":
        return problem(415, "Send a JSON body, with Content-Type: application/json.")
    if request.headers.get("content-encoding", "identity").strip().lower() != "identity":
        return problem(415, "Send the body as it is, without a Content-Encoding.")
    body = await _read(request)
    if isinstance(body, Response):
        return body
    try:
        return model.model_validate_json(body)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        if first["type"] == "json_invalid":
            return problem(400, f"The body is not JSON: {first['msg'].removeprefix('Invalid JSON: ')}.")
        return invalid(field_errors(error))


async def _read(request: Request) -> bytes | Response:
    too_large = problem(413, f"Send at most {MOST_BODY_BYTES} bytes.", headers={"connection": "close"})
    length = request.headers.get("content-length", "")
    if length.isdecimal() and len(length) < 20 and int(length) > MOST_BODY_BYTES:
        return too_large
    body = bytearray()
    try:
        async for chunk in request.stream():
            body += chunk
            if len(body) > MOST_BODY_BYTES:
                return too_large
    except ClientDisconnect:
        return problem(400, "The body ended early.")
    return bytes(body)
