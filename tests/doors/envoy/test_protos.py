"""The trimmed messages are Envoy's: each field has the name, number and type that it has there."""

from __future__ import annotations

import re

import pytest
from google.protobuf.descriptor import Descriptor, EnumDescriptor, FieldDescriptor

from servers import REPOSITORY
from shieldmw.doors.envoy.protos import authorization_pb2, health_pb2, rate_limit_pb2, shared_pb2

PROTOS = REPOSITORY / "shieldmw" / "doors" / "envoy" / "protos"
FILES = (shared_pb2, authorization_pb2, rate_limit_pb2, health_pb2)

# As they stand in envoy/api of Envoy 1.40, google/rpc/status.proto and grpc/health/v1/health.proto, for the fields
# that we have. `*` is repeated, `{}` a map; an enum whose values we do not name is an int32, which has the same bytes.
UPSTREAM = {
    "HeaderValue": "key=1 string, value=2 string, raw_value=3 bytes",
    "HeaderMap": "headers=1 *HeaderValue",
    "HeaderValueOption": "header=1 HeaderValue, append_action=3 HeaderAppendAction",
    "SocketAddress": "address=2 string, port_value=3 uint32",
    "Address": "socket_address=1 SocketAddress",
    "AttributeContext": "source=1 Peer, request=4 Request",
    "AttributeContext.Peer": "address=1 Address",
    "AttributeContext.Request": "http=2 HttpRequest",
    "AttributeContext.HttpRequest": "method=2 string, headers=3 {string string}, path=4 string, scheme=6 string, "
    "header_map=13 HeaderMap",
    "CheckRequest": "attributes=1 AttributeContext",
    "HttpStatus": "code=1 int32",
    "Status": "code=1 int32",
    "DeniedHttpResponse": "status=1 HttpStatus, headers=2 *HeaderValueOption, body=3 string",
    "OkHttpResponse": "response_headers_to_add=6 *HeaderValueOption",
    "CheckResponse": "status=1 Status, denied_response=2 DeniedHttpResponse, ok_response=3 OkHttpResponse",
    "RateLimitDescriptor": "entries=1 *Entry, hits_addend=3 UInt64Value",
    "RateLimitDescriptor.Entry": "key=1 string, value=2 string",
    "RateLimitRequest": "domain=1 string, descriptors=2 *RateLimitDescriptor, hits_addend=3 uint32",
    "RateLimitResponse": "overall_code=1 Code, statuses=2 *DescriptorStatus, "
    "response_headers_to_add=3 *HeaderValue, raw_body=5 bytes",
    "RateLimitResponse.RateLimit": "requests_per_unit=1 uint32, unit=2 Unit, name=3 string",
    "RateLimitResponse.DescriptorStatus": "code=1 Code, current_limit=2 RateLimit, limit_remaining=3 uint32, "
    "duration_until_reset=4 Duration",
    "HealthCheckRequest": "service=1 string",
    "HealthCheckResponse": "status=1 ServingStatus",
}
UPSTREAM_ENUMS = {
    "HeaderValueOption.HeaderAppendAction": "APPEND_IF_EXISTS_OR_ADD=0 ADD_IF_ABSENT=1 OVERWRITE_IF_EXISTS_OR_ADD=2 "
    "OVERWRITE_IF_EXISTS=3",
    "RateLimitResponse.Code": "UNKNOWN=0 OK=1 OVER_LIMIT=2",
    "RateLimitResponse.RateLimit.Unit": "UNKNOWN=0 SECOND=1 MINUTE=2 HOUR=3 DAY=4 MONTH=5 YEAR=6",
    "HealthCheckResponse.ServingStatus": "UNKNOWN=0 SERVING=1 NOT_SERVING=2",
}

_TYPES = {
    FieldDescriptor.TYPE_STRING: "string",
    FieldDescriptor.TYPE_BYTES: "bytes",
    FieldDescriptor.TYPE_INT32: "int32",
    FieldDescriptor.TYPE_UINT32: "uint32",
}


def _type(field: FieldDescriptor) -> str:
    message, enum = field.message_type, field.enum_type
    if message is not None and message.GetOptions().map_entry:
        return f"{{{_type(message.fields_by_name['key'])} {_type(message.fields_by_name['value'])}}}"
    name = message.name if message is not None else enum.name if enum is not None else _TYPES[field.type]
    return f"*{name}" if field.is_repeated else name


def _messages() -> dict[str, Descriptor]:
    found: dict[str, Descriptor] = {}

    def add(message: Descriptor) -> None:
        if not message.GetOptions().map_entry:
            found[message.full_name.removeprefix(f"{message.file.package}.")] = message
            for nested in message.nested_types:
                add(nested)

    for module in FILES:
        for message in module.DESCRIPTOR.message_types_by_name.values():
            add(message)
    return found


def _enums() -> dict[str, EnumDescriptor]:
    enums = [enum for message in _messages().values() for enum in message.enum_types]
    return {enum.full_name.removeprefix(f"{enum.file.package}."): enum for enum in enums}


def test_every_message_is_compared() -> None:
    """None is missing from the tables, and none is there only."""
    assert set(_messages()) == set(UPSTREAM)
    assert set(_enums()) == set(UPSTREAM_ENUMS)


@pytest.mark.parametrize("name", UPSTREAM)
def test_the_fields_are_those_of_upstream(name: str) -> None:
    """Names, numbers, types."""
    fields = sorted(_messages()[name].fields, key=lambda field: field.number)
    assert ", ".join(f"{field.name}={field.number} {_type(field)}" for field in fields) == UPSTREAM[name]


@pytest.mark.parametrize("name", UPSTREAM_ENUMS)
def test_the_values_are_those_of_upstream(name: str) -> None:
    """Names and numbers."""
    values = sorted(_enums()[name].values, key=lambda value: value.number)
    assert " ".join(f"{value.name}={value.number}" for value in values) == UPSTREAM_ENUMS[name]


def test_the_generated_code_is_that_of_the_files() -> None:
    """Whoever changes a .proto file must generate again: each of its fields is in the code, and no other."""
    for module in FILES:
        source = (REPOSITORY / module.DESCRIPTOR.name).read_text("utf-8")
        written = set(re.findall(r"(\w+) = (\d+);", re.sub(r"//.*", "", source)))
        messages = [message for message in _messages().values() if message.file is module.DESCRIPTOR]
        enums = [enum for enum in _enums().values() if enum.file is module.DESCRIPTOR]
        generated = {(field.name, str(field.number)) for message in messages for field in message.fields}
        generated |= {(value.name, str(value.number)) for enum in enums for value in enum.values}
        assert written == generated, module.DESCRIPTOR.name
