"""Playlists with a parameter in their URIs: what is changed, and that nothing else is."""

from __future__ import annotations

import re
from urllib.parse import parse_qsl, urljoin, urlsplit

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shieldmw.core.playlists import with_parameter

TICKET = b"abc.DEF-1_2"
ADDED = b"shield_ticket=" + TICKET


def changed(text: bytes) -> bytes:
    """A playlist with the ticket."""
    return with_parameter(text, b"shield_ticket", TICKET)


@pytest.mark.parametrize(
    ("uri", "right"),
    [
        (b"1.aac", b"1.aac?"),
        (b"/hls/1.aac", b"/hls/1.aac?"),
        (b"../a/1.aac", b"../a/1.aac?"),
        (b"?n=1", b"?n=1&"),
        (b"1.aac?n=1&m=2", b"1.aac?n=1&m=2&"),
        (b"1.aac?", b"1.aac?"),
        (b"1.aac?my_shield_ticket=1", b"1.aac?my_shield_ticket=1&"),
        (b"a b.ts", b"a b.ts?"),
        (b"a/b:c.ts", b"a/b:c.ts?"),
    ],
)
def test_relative_uris_get_it(uri: bytes, right: bytes) -> None:
    """At the end of the query, and before the fragment."""
    assert changed(b"#EXTM3U\n" + uri + b"\n") == b"#EXTM3U\n" + right + ADDED + b"\n"
    assert changed(b"#EXTM3U\r\n" + uri + b"#f?x") == b"#EXTM3U\r\n" + right + ADDED + b"#f?x"
    assert changed(b'#EXT-X-MAP:URI="' + uri + b'",A=1') == b'#EXT-X-MAP:URI="' + right + ADDED + b'",A=1'


@pytest.mark.parametrize(
    "uri",
    [
        b"https://example.org/1.aac",
        b"HTTPS:/1.aac",
        b"data:audio/aac;base64,AAAA",
        b"//example.org/1.aac",
        b"/\\example.org/1.aac",
        b"\\\\example.org/1.aac",
        b"/\t/example.org/1.aac",
        b"\x01//example.org/1.aac",
        b" //example.org/1.aac",
        b"1.aac ",
        "\u2003//example.org/1.aac".encode(),
        b"{$base}/1.aac",
        b"1.aac?a=1&shield_ticket=old",
        b"",
    ],
)
def test_uris_that_may_lead_elsewhere_do_not(uri: bytes) -> None:
    """The ticket is not told to other servers, and one that is there already stays."""
    for text in (b"#EXTM3U\n" + uri + b"\n#EXTINF:1,\n", b'#EXTM3U\n#EXT-X-PART:DURATION=1,URI="' + uri + b'"'):
        assert changed(text) == text


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (b'#EXT-X-MEDIA:TYPE=AUDIO,NAME="a,URI=\\"x",URI="', b'",DEFAULT=YES'),
        (b'#EXT-X-I-FRAME-STREAM-INF:BANDWIDTH=1, URI="', b'"'),
        (b'#EXT-X-PART:DURATION=0.3,URI="', b'",INDEPENDENT=YES'),
        (b'#EXT-X-PRELOAD-HINT:TYPE=PART,URI="', b'"'),
        (b'#EXT-X-RENDITION-REPORT:URI="', b'",LAST-MSN=3'),
        (b'#EXT-X-MAP:URI="', b'",BYTERANGE="1@0"'),
    ],
)
def test_attributes_of_tags(before: bytes, after: bytes) -> None:
    """The attribute called URI, not a text that looks like it."""
    before = before.replace(b'\\"', b"'")
    assert changed(before + b"v.m3u8" + after + b"\r\n") == before + b"v.m3u8?" + ADDED + after + b"\r\n"


@pytest.mark.parametrize(
    "line",
    [
        b'#EXT-X-KEY:METHOD=AES-128,URI="key"',
        b'#EXT-X-SESSION-DATA:DATA-ID="a",URI="b"',
        b'#EXT-X-MEDIA:NAME="x,URI=y",TYPE=AUDIO',
        b"#EXT-X-MAP:URI=bare.mp4",
        b'#EXT-X-MAP:X-URI="a.mp4"',
        b'#EXT-X-MAP:broken list,URI="a.mp4"',
        b'#EXT-X-MAP:URI="a.mp4',
        b'#EXT-X-MEDIA-SEQUENCE:1,URI="a"',
        b"#a comment.ts",
    ],
)
def test_other_lines_stay(line: bytes) -> None:
    """Keys, session data, comments, and what is not well-formed."""
    assert changed(line) == line


PIECES = st.sampled_from(
    [
        *(
            b"\n",
            b"\r\n",
            b"\r",
            b"\n\n",
            b" ",
            b"\t",
            b"\x00",
            b"\\",
            b'"',
            b",",
            b"=",
            b"?",
            b"#",
            b"&",
            b":",
            b"//",
            b"/",
        ),
        *(b"#EXTM3U", b"#EXTINF:4.0,", b"#EXT-X-MAP:", b"#EXT-X-PART:", b"#EXT-X-MEDIA:", b"URI=", b'URI="', b"NAME="),
        *(b"1.aac", b"v/a.m3u8", b"https://e.org/a", b"{$x}", b"shield_ticket=", b"a=1", "ž".encode(), b"\xff"),
    ]
)
PLAYLISTS = st.lists(PIECES | st.binary(max_size=3), max_size=30).map(b"".join)
ENDS = re.compile(rb"\r\n|\r|\n")


def is_insertion(before: bytes, after: bytes) -> bool:
    """Whether a line is as it was, or but for the ticket in one place."""
    at = after.rfind(ADDED)
    rest = after[:at], after[at + len(ADDED) :]
    return before == after or before in (b"".join(rest), re.sub(rb"[?&]$", b"", rest[0]) + rest[1])


@given(PLAYLISTS)
def test_every_other_byte_is_untouched(text: bytes) -> None:
    """Whatever the text: its lines have the same ends, and the ticket in one place is all that is new in a line."""
    after = changed(text)
    assert ENDS.findall(after) == ENDS.findall(text)
    assert all(map(is_insertion, ENDS.split(text), ENDS.split(after)))
    assert changed(after) == after, "and a second time nothing is added"


SEGMENTS = st.text("abcXYZ019._~-%/ @!$&'()*+,;=:?", min_size=1, max_size=20)


@given(SEGMENTS)
def test_a_uri_still_names_the_same_thing(uri: str) -> None:
    """Where it is changed, a player that resolves it asks the same server for the same path, with the query it had."""
    after = changed(uri.encode()).decode()
    base = "https://example.org/hls/live.m3u8?old=1"
    one, other = urlsplit(urljoin(base, uri)), urlsplit(urljoin(base, after))
    assert (other.scheme, other.netloc, other.path) == (one.scheme, one.netloc, one.path)
    assert after == uri or parse_qsl(other.query)[-1] == ("shield_ticket", TICKET.decode())
    assert after == uri or other.netloc == "example.org"
