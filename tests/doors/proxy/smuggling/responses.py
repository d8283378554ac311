"""The corpus of responses that could be read in two ways, or that carry more than was asked for."""

from __future__ import annotations

from dataclasses import dataclass

# What no client may see, neither in this answer nor in the next.
EVIL = "HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil"
OK = "HTTP/1.1 200 OK\r\n"
CHUNKED = "Transfer-Encoding: chunked\r\n"


@dataclass(frozen=True, slots=True)
class Answer:
    """``text`` is what the upstream sends, one byte a character; then it waits, or closes the connection: ``closes``.

    The client gets ``status`` and ``body``; with ``is_cut`` the beginning of the body, and never an end of it.
    """

    name: str
    tries: str
    text: str
    status: int = 502
    body: bytes = b""
    method: str = "GET"
    is_cut: bool = False
    closes: bool = False

    @property
    def data(self) -> bytes:
        """The bytes."""
        return self.text.encode("latin-1")


def _head(name: str, tries: str, *lines: str, rest: str = "evil", start: str = "HTTP/1.1 200 OK") -> Answer:
    """An answer whose head is not taken: 502, and the connection is not used again."""
    return Answer(name, tries, "\r\n".join([start, *lines, "", rest]))


FRAMING = (
    _head("length, then chunks", "CL.TE", "Content-Length: 3", "Transfer-Encoding: chunked", rest="0\r\n\r\n" + EVIL),
    _head("chunks, then length", "TE.CL", "Transfer-Encoding: chunked", "Content-Length: 3", rest="0\r\n\r\n" + EVIL),
    _head("two lengths", "the first counts, or the last", "Content-Length: 1", "Content-Length: 4"),
    _head("two equal lengths", "repaired by some", "Content-Length: 4", "Content-Length: 4"),
    _head("list of lengths", "repaired by some", "Content-Length: 4, 4"),
    _head("negative length", "until the end, or nothing", "Content-Length: -1"),
    _head("plus", "a sign that number parsers take", "Content-Length: +4"),
    _head("hexadecimal length", "4 in base 16", "Content-Length: 0x4"),
    _head("length of 128 bits", "wraps around", f"Content-Length: {2**64 + 4}"),
    _head("empty length", "nothing, or until the end", "Content-Length:"),
    _head("another coding", "until the end, or chunks", "Transfer-Encoding: gzip"),
    _head("chunks, then another coding", "until the end", "Transfer-Encoding: chunked, identity"),
    _head("gzip, then chunks", "a coding that we would have to undo", "Transfer-Encoding: gzip, chunked"),
    _head("chunked twice", "chunks within chunks", "Transfer-Encoding: chunked", "Transfer-Encoding: chunked"),
    _head("xchunked", "a name that ends the same", "Transfer-Encoding: xchunked"),
    _head("chunks in HTTP/1.0", "a version that has none", "Transfer-Encoding: chunked", start="HTTP/1.0 200 OK"),
)

HEADS = (
    _head("folded line", "obs-fold", "X: a", " b", "Content-Length: 4"),
    _head("folded length", "obs-fold", "Content-Length:", " 4"),
    _head("space before the colon", "skipped by some", "Content-Length : 4"),
    _head("NUL in a value", "the end of a string in C", "X: a\0b", "Content-Length: 4"),
    _head("bare CR in a value", "the end of a line to some: a header that was injected", "X: a\rSet-Cookie: evil=1"),
    _head("bare LF in a value", "the same", "X: a\nSet-Cookie: evil=1", "Content-Length: 4"),
    _head("NUL in a name", "the end of a string in C", "X\0: a", "Content-Length: 4"),
    _head("blank in a name", "two names, or one", "Set Cookie: evil=1", "Content-Length: 4"),
    _head("line without a colon", "a line that is none", "evil", "Content-Length: 4"),
    Answer("bare line feeds", "lines to some", "HTTP/1.1 200 OK\nContent-Length: 4\n\nevil"),
    Answer("two status lines", "which one is it?", OK + OK + "Content-Length: 4\r\n\r\nevil"),
    _head("status of four digits", "no status", "Content-Length: 4", start="HTTP/1.1 2000 OK"),
    _head("status of two digits", "no status", "Content-Length: 4", start="HTTP/1.1 20 OK"),
    _head("status 000", "no status", "Content-Length: 4", start="HTTP/1.1 000 OK"),
    _head("status 999", "a class that is none", "Content-Length: 4", start="HTTP/1.1 999 OK"),
    _head("status with a sign", "a number to some", "Content-Length: 4", start="HTTP/1.1 +200 OK"),
    _head("HTTP/2.0", "a version that is not spoken like this", "Content-Length: 4", start="HTTP/2.0 200 OK"),
    _head("another protocol", "ICY looks much the same", "Content-Length: 4", start="ICY 200 OK"),
    Answer("HTTP/0.9", "a body without a head", "<html>evil</html>", closes=True),
    Answer("TLS", "an alert where a head should be", "\x15\x03\x01\x00\x02\x02\x28\r\n\r\n"),
    Answer("a request", "the upstream asks us", "GET /evil HTTP/1.1\r\nHost: a\r\n\r\n"),
    _head("101", "a switch that nobody asked for", "Upgrade: evil", "Connection: upgrade", start="HTTP/1.1 101 Switch"),
    _head("101 to h2c", "frames past the shield", "Upgrade: h2c", "Connection: upgrade", start="HTTP/1.1 101 Switch"),
    Answer("flood of 100", "no end of heads", "HTTP/1.1 100 Continue\r\n\r\n" * 5000 + EVIL),
    Answer("flood of 103", "no end of lines", ("HTTP/1.1 103 Hints\r\nLink: <evil>\r\n\r\n") * 3000 + EVIL),
    Answer("long head", "more than is kept", OK + "X: " + "x" * 200_000 + "\r\nContent-Length: 4\r\n\r\nevil"),
    Answer("many lines", "more than is kept", OK + "X: y\r\n" * 30_000 + "Content-Length: 4\r\n\r\nevil"),
)

BODIES = (
    Answer("bytes after the length", "the next answer", OK + "Content-Length: 2\r\n\r\nok" + EVIL, 200, b"ok"),
    Answer("garbage after the length", "the next answer", OK + "Content-Length: 2\r\n\r\nok\0\r\nevil", 200, b"ok"),
    Answer("bytes after length 0", "the next answer", OK + "Content-Length: 0\r\n\r\n" + EVIL, 200),
    Answer("bytes after the chunks", "the next answer", OK + CHUNKED + "\r\n2\r\nok\r\n0\r\n\r\n" + EVIL, 200, b"ok"),
    Answer(
        "trailers", "header lines after the decision", OK + CHUNKED + "\r\n2\r\nok\r\n0\r\nX: evil\r\n\r\n", 200, b"ok"
    ),
    Answer("extension", "dropped", OK + CHUNKED + "\r\n2;evil\r\nok\r\n0\r\n\r\n", 200, b"ok"),
    Answer("body of 204", "the next answer", "HTTP/1.1 204 No\r\nContent-Length: 4\r\n\r\nevil", 204),
    Answer("chunks of 204", "the next answer", "HTTP/1.1 204 No\r\n" + CHUNKED + "\r\n4\r\nevil\r\n0\r\n\r\n", 204),
    Answer("answer after 204", "the next answer", "HTTP/1.1 204 No\r\n\r\n" + EVIL, 204),
    Answer("body of 304", "the next answer", "HTTP/1.1 304 No\r\nContent-Length: 4\r\n\r\nevil", 304),
    Answer("body for HEAD", "the next answer", OK + "Content-Length: 4\r\n\r\nevil", 200, method="HEAD"),
    Answer("chunks for HEAD", "the next answer", OK + CHUNKED + "\r\n4\r\nevil\r\n0\r\n\r\n", 200, method="HEAD"),
    Answer("answer after HEAD", "the next answer", OK + "Content-Length: 4\r\n\r\n" + EVIL, 200, method="HEAD"),
)

CUT = (
    Answer(
        "length too long",
        "the end of the connection is no end",
        OK + "Content-Length: 9\r\n\r\nab",
        200,
        b"ab",
        is_cut=True,
        closes=True,
    ),
    Answer("chunks without an end", "the same", OK + CHUNKED + "\r\n2\r\nab\r\n", 200, b"ab", is_cut=True, closes=True),
    Answer("chunk that is cut", "the same", OK + CHUNKED + "\r\n9\r\nab", 200, b"ab", is_cut=True, closes=True),
    Answer(
        "trailers that are cut",
        "the same",
        OK + CHUNKED + "\r\n2\r\nab\r\n0\r\nX: y\r\n",
        200,
        b"ab",
        is_cut=True,
        closes=True,
    ),
    *(
        Answer(name, tries, OK + CHUNKED + f"\r\n2\r\nab\r\n{bad}evil", 200, b"ab", is_cut=True)
        for name, tries, bad in (
            ("size that is no number", "skipped, or 0", "x\r\n"),
            ("size with a minus", "a negative chunk", "-4\r\n"),
            ("size with a plus", "a sign that number parsers take", "+4\r\n"),
            ("size with 0x", "0, or 4", "0x4\r\n"),
            ("size of more than 64 bits", "wraps around to 4", "10000000000000004\r\n"),
            ("size ended by a bare LF", "a line to some", "4\n"),
            ("size missing", "an empty line is 0 to some", "\r\n"),
        )
    ),
    Answer(
        "chunk longer than its size",
        "the rest is a size",
        OK + CHUNKED + "\r\n2\r\nabevil\r\n0\r\n\r\n",
        200,
        b"ab",
        is_cut=True,
    ),
)

ANSWERS: tuple[Answer, ...] = (*FRAMING, *HEADS, *BODIES, *CUT)
