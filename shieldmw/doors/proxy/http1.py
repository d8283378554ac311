"""HTTP/1.1 without I/O: reads one response, bytes in, head and body out, and writes header lines. The parser is llhttp.

Everything read here is hostile. llhttp is strict by itself: it rejects a length beside chunks, several lengths, folded
lines, bare line feeds and control characters. What it leaves to its user is decided here: which versions, statuses and
transfer codings are taken, where a response ends, and how long its head may be.
"""

from __future__ import annotations

from typing import NamedTuple

from httptools import HttpParserError, HttpParserUpgrade, HttpResponseParser

from shieldmw.answers.gateway import CLOSED, INCOMPLETE, LONG_HEAD, WRONG_RESPONSE, WRONG_TARGET, Failure
from shieldmw.core.made import made

from .failures import ProxyFailure

# Bytes before the end of the head, informational responses included. nginx takes 4 or 8 KB, browsers 256 KB.
LONGEST_RESPONSE_HEAD = 65_536

Lines = list[tuple[bytes, bytes]]

NOTHING: frozenset[bytes] = frozenset()

# What most upstreams say about the connection, without the cost of splitting it.
_PLAIN = {value: frozenset((value,)) for value in (b"close", b"keep-alive")}


class ResponseHead(NamedTuple):
    """The head of a final response: its status, its lines with names in lower case, and what Connection names."""

    status: int
    lines: Lines
    connection: frozenset[bytes]


class ResponseReader:
    """Reads the response to one request. ``to_head``: the request's method is HEAD, so the response has no body.
    ``may_switch``: 101 is an answer to it, and ``rest`` is what then follows its head.

    ``head`` is None until it has come; ``is_complete`` says that nothing more belongs to the response, ``is_reusable``
    that the connection may then carry another request.
    """

    __slots__ = (
        *("_aside", "_body", "_lines", "_may_switch", "_parser", "_read", "_to_head", "_until_close"),
        *("buffered", "head", "is_complete", "is_reusable", "rest"),
    )

    def __init__(self, *, to_head: bool = False, may_switch: bool = False) -> None:
        self.head: ResponseHead | None = None
        self.is_complete = False
        self.is_reusable = False
        self.buffered = 0
        self.rest = b""
        self._to_head = to_head
        self._may_switch = may_switch
        self._parser: HttpResponseParser | None = HttpResponseParser(self)
        self._lines: Lines = []
        self._body: list[bytes] = []
        self._read = 0
        self._until_close = False
        self._aside = 0

    def feed(self, data: bytes) -> None:
        """Read what has come.

        Raises:
            ProxyFailure: it is no response that can be passed on.
        """
        parser = self._parser
        if parser is None:
            if self.head is not None and self.head.status == 101:
                self.rest += data
            self.is_reusable = False
            return
        if self.head is None and self._read + len(data) > LONGEST_RESPONSE_HEAD:
            self._feed_in_two(data)
            return
        self._read += len(data)
        pieces = len(self._body)
        try:
            parser.feed_data(data)
        except HttpParserUpgrade as switch:
            self.rest = data[switch.args[0] :]
        except HttpParserError as error:
            if self.is_complete:  # what follows a complete response is not passed on
                self.is_reusable = False
                return
            cause = error.__context__
            raise cause if isinstance(cause, ProxyFailure) else ProxyFailure(WRONG_RESPONSE, str(error)) from None
        if self.is_complete:
            self._parser = None  # it holds this reader, and they would wait for a garbage collection together
        elif self.head is not None and len(self._body) == pieces:  # the parser keeps trailers until they are whole
            self._aside += len(data)
            if self._aside > LONGEST_RESPONSE_HEAD:
                raise ProxyFailure(WRONG_RESPONSE, "too much beside the body: trailers, or extensions of chunks")
        else:
            self._aside = 0

    def _feed_in_two(self, data: bytes) -> None:
        """Read up to the limit of a head, which must have ended there, and then the rest: a read may bring both."""
        room = LONGEST_RESPONSE_HEAD - self._read
        if room:
            self.feed(data[:room])
        if self.head is None:
            raise ProxyFailure(LONG_HEAD)
        self.feed(data[room:])

    @property
    def end_so_far(self) -> Failure:
        """What it means if the connection ends here, before the end of the response."""
        return INCOMPLETE if self._read else CLOSED

    def eof(self) -> None:
        """The upstream has closed its side of the connection.

        Raises:
            ProxyFailure: before the end of the response.
        """
        if self.is_complete:
            self.is_reusable = False
        elif self.head is not None and self._until_close:
            self.is_complete = True
        else:
            raise ProxyFailure(self.end_so_far)

    def take(self) -> bytes:
        """The part of the body that has come since the last call."""
        pieces = self._body
        if not pieces:
            return b""
        self.buffered, self._body = 0, []
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    # --- called by the parser ---

    def on_message_begin(self) -> None:
        """A response begins, or after a complete one something that nobody asked for."""
        if self.is_complete:
            self.is_reusable = False

    def on_header(self, name: bytes, value: bytes) -> None:
        """A line of the head, or of the trailers, which are dropped."""
        if self.head is None:
            self._lines.append((name.lower(), value))

    def on_headers_complete(self) -> None:
        """The end of a head."""
        if self.is_complete:
            return
        assert self._parser is not None
        version, status = self._parser.get_http_version(), self._parser.get_status_code()
        if status == 101 and self._may_switch and version == "1.1" and self._parser.should_upgrade():
            self.head, self.is_complete = ResponseHead(status, self._lines, NOTHING), True
            return
        if version not in ("1.1", "1.0") or not 100 <= status <= 599 or status == 101:
            raise ProxyFailure(WRONG_RESPONSE, f"HTTP/{version} {status}")
        if status < 200:
            self._lines = []
            return
        self._begin(status, version)

    def _begin(self, status: int, version: str) -> None:
        """Decide where the response ends (RFC 9112, section 6.3)."""
        has_length = is_chunked = False
        named = NOTHING
        for name, value in self._lines:
            if name == b"connection":
                named |= _PLAIN.get(value) or tokens(value)
            elif name == b"content-length":
                has_length = True
            elif name == b"transfer-encoding":
                if is_chunked or version != "1.1" or value.lower() != b"chunked":
                    raise ProxyFailure(WRONG_RESPONSE, f"Transfer-Encoding in HTTP/{version}: {value[:40]!r}")
                is_chunked = True
        without_body = self._to_head or status in (204, 304)
        self._until_close = not (without_body or has_length or is_chunked)
        persists = b"close" not in named if version == "1.1" else b"keep-alive" in named
        # A server that is wrong about what has no body may send one later: it must not answer another request.
        may_have_body = self._to_head or is_chunked or (status == 204 and has_length)
        self.is_reusable = persists and not self._until_close and not (without_body and may_have_body)
        self.is_complete = without_body
        self.head = made(ResponseHead, (status, self._lines, named))

    def on_body(self, piece: bytes) -> None:
        """A piece of the body."""
        if self.is_complete:
            self.is_reusable = False
            return
        self._body.append(piece)
        self.buffered += len(piece)

    def on_chunk_header(self) -> None:
        """A chunk begins, which no response to HEAD has."""
        if self.is_complete:
            self.is_reusable = False

    def on_message_complete(self) -> None:
        """The end of a response, which may be an informational one."""
        if self.head is not None:
            self.is_complete = True


def written(lines: Lines) -> bytes:
    """Header lines as they are sent.

    Raises:
        ProxyFailure: a value would end its line.
    """
    text = b"".join([b"%b: %b\r\n" % line for line in lines])
    # Servers reject such values; here a single one would be a request of its own.
    if text.count(b"\n") != len(lines) or text.count(b"\r") != len(lines) or b"\0" in text:
        raise ProxyFailure(WRONG_TARGET)
    return text


def tokens(value: bytes) -> frozenset[bytes]:
    """The entries of a list such as Connection's, in lower case."""
    return frozenset(entry.strip(b" \t") for entry in value.lower().split(b","))
