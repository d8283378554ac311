"""Adds a query parameter to the URIs of a DASH manifest (ISO/IEC 23009-1), and leaves every other byte as it is.

expat parses the XML and reports where each element begins; additions are inserted there, and nothing is re-serialized.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from xml.parsers.expat import ExpatError, ParserCreate

from .playlists import is_relative, with_field

# The first byte of every manifest.
BEGINNING = b"<"

# The XML namespace of DASH manifests.
_DASH = "urn:mpeg:dash:schema:mpd:2011"

# Elements that hold the URL from which to request the manifest, or a patch to it, the next time; and all elements whose
# text is a URL.
_LOCATIONS = {"Location", "PatchLocation"}
_WITH_TEXT = _LOCATIONS | {"BaseURL"}

# Elements with the URIs of segments, and the attributes that hold them. A parameter in BaseURL would have no effect: a
# relative reference does not inherit the query of its base.
_WITH_SEGMENTS = {"SegmentTemplate", "SegmentURL", "Initialization", "RepresentationIndex"}
_SEGMENTS = {b"media", b"initialization", b"index", b"sourceURL"}

# Elements that may precede a Location.
_BEFORE_LOCATION = {"ProgramInformation", "BaseURL"}

# A start tag, with its namespace prefix and its attributes; and one attribute.
_TAG = re.compile(rb"<((?:[^\s/>:]+:)?)[^\s/>]+((?:[^>\"']|\"[^\"]*\"|'[^']*')*)>")
_ATTRIBUTE = re.compile(rb"([^\s=]+)\s*=\s*(?:\"([^\"]*)\"|'([^']*)')")


class _LeftAlone(Exception):
    """The manifest must be passed on unchanged."""


def with_parameter(manifest: bytes, own: bytes, name: bytes, value: bytes) -> bytes:
    """The manifest with ``name=value`` in the query of relative URIs; unchanged if it is not a manifest, or has a DTD.

    ``own`` is the last path segment and the query with which the manifest was requested: a live manifest without a
    Location gets one with it.
    """
    found = _Manifest(manifest, own, name + b"=", name + b"=" + value)
    try:
        found.read()
    except (ExpatError, _LeftAlone):
        return manifest
    return found.changed()


class _Manifest:
    """Finds the places in a manifest to change."""

    def __init__(self, manifest: bytes, own: bytes, mark: bytes, parameter: bytes) -> None:
        self._manifest = manifest
        self._own = own
        self._mark = mark
        self._parameter = parameter
        self._locations: list[tuple[int, int, bytes]] = []
        self._segments: list[tuple[int, int, bytes]] = []
        self._depth = 0
        self._prefix = b""
        self._text_at = 0
        self._is_live = self._has_location = self._is_elsewhere = False
        self._place_of_location: int | None = None
        self._parser = ParserCreate("utf-8", " ")
        self._parser.StartDoctypeDeclHandler = self._doctype
        self._parser.StartElementHandler = self._start
        self._parser.EndElementHandler = self._end

    def read(self) -> None:
        """Raises: ExpatError, _LeftAlone."""
        if b"\0" in self._manifest:
            raise _LeftAlone  # UTF-16, which expat would parse as well
        self._parser.Parse(self._manifest, True)

    def changed(self) -> bytes:
        """The manifest with all additions."""
        # URIs relative to another server's BaseURL do not lead to us.
        edits = [*self._locations, *(() if self._is_elsewhere else self._segments)]
        own = with_field(_without(self._own, self._mark), self._mark, self._parameter)
        is_ours = is_relative(own)  # it was chosen by a client
        own = _in_xml(own).replace(b"<", b"&lt;").replace(b">", b"&gt;")
        if self._is_live and not self._has_location and self._place_of_location is not None and is_ours:
            tag = self._prefix + b"Location>"
            edits.append((self._place_of_location, self._place_of_location, b"<" + tag + own + b"</" + tag))
        pieces, at = [], 0
        for begin, end, new in sorted(edits):
            pieces += [self._manifest[at:begin], new]
            at = end
        return b"".join([*pieces, self._manifest[at:]])

    def _doctype(self, *_: object) -> None:
        raise _LeftAlone  # its entities could spell anything, at any length

    def _start(self, name: str, attributes: Mapping[str, str]) -> None:
        namespace, _, local = name.rpartition(" ")
        begin = self._parser.CurrentByteIndex
        self._depth += 1
        if self._depth == 1:
            if namespace != _DASH or local != "MPD":
                raise _LeftAlone
            self._is_live = attributes.get("type") == "dynamic"
            self._prefix = self._tag(begin)[1]
        elif self._depth == 2 and self._place_of_location is None and local not in _BEFORE_LOCATION:
            self._place_of_location = begin
        if namespace != _DASH:
            return
        if local in _WITH_TEXT:
            self._text_at = self._tag(begin).end()
        elif local in _WITH_SEGMENTS:
            self._add_to_attributes(self._tag(begin))

    def _end(self, name: str) -> None:
        namespace, _, local = name.rpartition(" ")
        self._depth -= 1
        if namespace != _DASH or local not in _WITH_TEXT:
            return
        text = self._manifest[self._text_at : self._parser.CurrentByteIndex]
        if local == "BaseURL":
            uri = _plain(text)
            self._is_elsewhere = self._is_elsewhere or uri is None or not is_relative(uri)
            return
        self._has_location = self._has_location or local == "Location"
        self._locations.append((self._text_at, self._text_at + len(text), self._with_parameter(text)))

    def _add_to_attributes(self, tag: re.Match[bytes]) -> None:
        for attribute in _ATTRIBUTE.finditer(self._manifest, *tag.span(2)):
            if attribute[1] in _SEGMENTS:
                quoted = 2 if attribute[2] is not None else 3
                self._segments.append((*attribute.span(quoted), self._with_parameter(attribute[quoted])))

    def _tag(self, begin: int) -> re.Match[bytes]:
        """The start tag at this byte, which expat has found to be well-formed."""
        tag = _TAG.match(self._manifest, begin)
        if tag is None:
            raise _LeftAlone
        return tag

    def _with_parameter(self, raw: bytes) -> bytes:
        """The text of a URI with the parameter."""
        uri = _plain(raw)
        if uri is None:
            return raw
        return raw.replace(_in_xml(uri), _in_xml(with_field(uri, self._mark, self._parameter)), 1)


def _plain(raw: bytes) -> bytes | None:
    """The URI in a piece of XML text; None if it contains markup, or an entity other than ``&amp;``."""
    uri = raw.strip(b" \t\r\n")
    return None if b"&" in uri.replace(b"&amp;", b"") or b"<" in uri else uri.replace(b"&amp;", b"&")


def _in_xml(uri: bytes) -> bytes:
    return uri.replace(b"&", b"&amp;")


def _without(uri: bytes, mark: bytes) -> bytes:
    """The URI without the field that begins with ``mark``."""
    path, _, query = uri.partition(b"?")
    kept = b"&".join(field for field in query.split(b"&") if not field.startswith(mark))
    return path + b"?" + kept if kept else path
