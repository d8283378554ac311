"""The OpenAPI document of the admin routes, built from their table and models."""

from __future__ import annotations

import json
from functools import lru_cache
from http import HTTPStatus
from typing import Any

from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

from .problems import ProblemAnswer
from .routes import OPERATIONS, Operation
from .schema import ActorHeader

# Version of the routes, not of the package: it changes if a name in them does.
API_VERSION = "1"

Json = dict[str, Any]

_REF = "#/components/schemas/{model}"
_ALWAYS = (401, 403, 429)
_TEXT = {"text/plain": {"schema": {"type": "string"}}}
_HEADERS = {
    401: {"WWW-Authenticate": "`Bearer`"},
    412: {"ETag": "The version in force."},
    429: {"Retry-After": "In whole seconds."},
    503: {"Retry-After": "In whole seconds."},
}


@lru_cache(maxsize=16)
def document(root_path: str) -> str:
    """The document of the routes below a root path."""
    paths: dict[str, Json] = {}
    for operation in OPERATIONS:
        paths.setdefault(operation.path, {})[operation.method.lower()] = _operation(operation)
    described = {
        "openapi": "3.1.0",
        "info": {"title": "shieldmw admin", "version": API_VERSION},
        "servers": [{"url": root_path}],
        "security": [{"bearer": []}],
        "paths": paths,
        "components": {
            "schemas": _schemas(),
            "securitySchemes": {"bearer": {"type": "http", "scheme": "bearer"}},
        },
    }
    return json.dumps(described)


def _schemas() -> Json:
    bodies = [(operation.body, "validation") for operation in OPERATIONS if operation.body]
    answers = [(operation.answer, "serialization") for operation in OPERATIONS if operation.answer not in (None, str)]
    models: Any = [*bodies, *answers, (ProblemAnswer, "serialization")]
    _, schemas = models_json_schema(models, ref_template=_REF)
    definitions: Json = schemas["$defs"]
    return definitions


def _operation(operation: Operation) -> Json:
    described: Json = {
        "operationId": operation.endpoint.__name__,
        "summary": operation.summary,
        "parameters": [*_parameters(operation)],
        "responses": _responses(operation),
    }
    if operation.body is not None:
        described["requestBody"] = {"required": True, "content": _content(operation.body, "application/json")}
    return described


def _parameters(operation: Operation) -> list[Json]:
    found = [
        *_from_model(operation.parameters, "path"),
        *_from_model(operation.query, "query"),
        *(_from_model(ActorHeader, "header", required=False) if operation.changes else ()),
    ]
    if operation.answer is str:
        about = "Entity tags of texts that the client has."
        found.append({"name": "If-None-Match", "in": "header", "description": about, "schema": {"type": "string"}})
    if operation.method == "PUT" and operation.versioned:
        about = "The version that must be in force: bare, quoted, or `*`."
        found.append({"name": "If-Match", "in": "header", "description": about, "schema": {"type": "string"}})
    return found


def _from_model(model: type[BaseModel] | None, place: str, *, required: bool | None = None) -> list[Json]:
    if model is None:
        return []
    schema = model.model_json_schema(ref_template=_REF)
    needed = schema.get("required", ())
    return [
        {
            "name": name,
            "in": place,
            "required": name in needed if required is None else required,
            "description": about.pop("description", ""),
            "schema": about,
        }
        for name, about in schema["properties"].items()
    ]


def _responses(operation: Operation) -> Json:
    responses: Json = {}
    if operation.text_types:
        content = {media_type: {"schema": {"type": "string"}} for media_type in operation.text_types}
        responses["200"] = {"description": "Done.", "content": content}
    elif operation.answer is None:
        responses["204"] = {"description": "Done."}
    elif not issubclass(operation.answer, BaseModel):
        headers = _headers({"ETag": "Of the text, strong."})
        responses["200"] = {"description": "Done.", "content": _TEXT, "headers": headers}
        responses["304"] = {"description": "Not changed.", "headers": headers}
    else:
        responses["200"] = {"description": "Done.", "content": _content(operation.answer, "application/json")}
        if operation.versioned:
            responses["200"]["headers"] = _headers({"ETag": "The version in force."})
    for status in sorted({*_ALWAYS, *operation.problems}):
        responses[str(status)] = {
            "description": HTTPStatus(status).phrase,
            "content": _content(ProblemAnswer, "application/problem+json"),
            **({"headers": _headers(_HEADERS[status])} if status in _HEADERS else {}),
        }
    return responses


def _headers(about: dict[str, str]) -> Json:
    return {name: {"description": text, "schema": {"type": "string"}} for name, text in about.items()}


def _content(model: type[BaseModel], media_type: str) -> Json:
    return {media_type: {"schema": {"$ref": _REF.format(model=model.__name__)}}}
