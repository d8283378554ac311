"""Adds a query parameter to the URIs of an HLS playlist (RFC 8216), and leaves every other byte as it is."""

from __future__ import annotations

import re

# The first line of every playlist.
BEGINNING = b"#EXTM3U"

# Lines that may be changed: URIs, and tags whose URI attribute names a playlist or (a part of) a segment. Keys and
# session data are not polled.
_LINE = re.compile(
    rb"^(?:(#EXT-X-(?:MEDIA|MAP|I-FRAME-STREAM-INF|PART|PRELOAD-HINT|RENDITION-REPORT):)([^\r\n]+)|[^#\r\n][^\r\n]*)",
    re.MULTILINE,
)
# One attribute in the list of a tag (RFC 8216, section 4.2).
_ATTRIBUTE = re.compile(rb'[ \t]*([A-Z0-9-]+)=("[^"]*"|[^",]*)(?:,|$)')

# A reference that every player resolves to the playlist's own server: it has neither a scheme nor a host. Players read
# a backslash as a slash, drop control characters and white space, and replace variables such as {$base}.
_RELATIVE = re.compile(rb"(?![A-Za-z][A-Za-z0-9+.-]*:)(?!//)(?![ #])[ !-\[\]-~]+(?<! )")


def with_parameter(playlist: bytes, name: bytes, value: bytes) -> bytes:
    """The playlist with ``name=value`` in the query of each relative URI that does not have the parameter yet."""
    mark = name + b"="
    parameter = mark + value

    def line(found: re.Match[bytes]) -> bytes:
        tag, attributes = found.groups()
        return with_field(found[0], mark, parameter) if tag is None else tag + _attributes(attributes, mark, parameter)

    return _LINE.sub(line, playlist)


def _attributes(text: bytes, mark: bytes, parameter: bytes) -> bytes:
    """An attribute list with the parameter in its URI. A list that is not well-formed is changed up to its error."""
    at = 0
    while attribute := _ATTRIBUTE.match(text, at):
        value = attribute[2]
        if attribute[1] == b"URI" and value.startswith(b'"'):
            begin, end = attribute.span(2)
            return text[: begin + 1] + with_field(value[1:-1], mark, parameter) + text[end - 1 :]
        at = attribute.end()
        if at == len(text):
            break
    return text


def is_relative(uri: bytes) -> bool:
    """Whether every player resolves a reference to the playlist's own server."""
    return _RELATIVE.fullmatch(uri) is not None and b"{$" not in uri


def with_field(uri: bytes, mark: bytes, parameter: bytes) -> bytes:
    """The URI with the parameter, which begins with ``mark``, if it is relative and lacks it."""
    if not is_relative(uri):
        return uri
    if b"?" not in uri and b"#" not in uri:
        return uri + b"?" + parameter
    rest, sharp, fragment = uri.partition(b"#")
    path, _, query = rest.partition(b"?")
    if mark in query and any(field.startswith(mark) for field in query.split(b"&")):
        return uri
    joint = b"&" if query else b""
    return path + b"?" + query + joint + parameter + sharp + fragment
