"""Adds a query parameter to the URIs of an HLS playlist (RFC 8216), and leaves every other byte as it is."""

from __future__ import annotations

import re

# What each playlist begins with.
BEGINNING = b"#EXTM3U"

# Tags whose URI attribute names a playlist or (a part of) a segment. Keys and session data are not polled.
_TAGS = (
    b"#EXT-X-MEDIA:",
    b"#EXT-X-MAP:",
    b"#EXT-X-I-FRAME-STREAM-INF:",
    b"#EXT-X-PART:",
    b"#EXT-X-PRELOAD-HINT:",
    b"#EXT-X-RENDITION-REPORT:",
)

# A line without its end, and an attribute with its comma.
_LINE = re.compile(rb"[^\r\n]+")
_ATTRIBUTE = re.compile(rb'[ \t]*([A-Z0-9-]+)=("[^"]*"|[^",]*)(?:,|$)')

# A reference that every player takes for one to the playlist's own server: it names no scheme and no host. Players read
# a backslash as a slash, drop control characters and white space, and replace variables such as {$base}.
_RELATIVE = re.compile(rb"(?![A-Za-z][A-Za-z0-9+.-]*:)(?!//)(?![ #])[ !-\[\]-~]+(?<! )")


def with_parameter(playlist: bytes, name: bytes, value: bytes) -> bytes:
    """The playlist with ``name=value`` in the query of each relative URI that does not have the parameter yet."""
    parameter = name + b"=" + value

    def line(found: re.Match[bytes]) -> bytes:
        text = found[0]
        if not text.startswith(b"#"):
            return _uri(text, parameter)
        tag = next((tag for tag in _TAGS if text.startswith(tag)), None)
        return text if tag is None else tag + _attributes(text[len(tag) :], parameter)

    return _LINE.sub(line, playlist)


def _attributes(text: bytes, parameter: bytes) -> bytes:
    """An attribute list with the parameter in its URI. A list that is not well-formed is changed up to its error."""
    at = 0
    while attribute := _ATTRIBUTE.match(text, at):
        value = attribute[2]
        if attribute[1] == b"URI" and value.startswith(b'"'):
            begin, end = attribute.span(2)
            return text[: begin + 1] + _uri(value[1:-1], parameter) + text[end - 1 :]
        at = attribute.end()
        if at == len(text):
            break
    return text


def _uri(uri: bytes, parameter: bytes) -> bytes:
    """The URI with the parameter, if it is relative and lacks it."""
    if not _RELATIVE.fullmatch(uri) or b"{$" in uri:
        return uri
    rest, mark, fragment = uri.partition(b"#")
    path, asks, query = rest.partition(b"?")
    name = parameter[: parameter.index(b"=") + 1]
    if any(field.startswith(name) for field in query.split(b"&")):
        return uri
    joint = b"" if asks and not query else b"&"
    return path + b"?" + query + (joint if asks else b"") + parameter + mark + fragment
