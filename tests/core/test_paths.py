"""Readings of paths: no spelling evades a pattern, however a server interprets it."""

from __future__ import annotations

import time
from collections.abc import Callable
from itertools import product
from urllib.parse import unquote, unquote_to_bytes

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from shieldmw.core.bounds import MOST_PATH_ESCAPES
from shieldmw.core.paths import PathPattern, plain, readings, served

relaxed = settings(deadline=None, max_examples=400)

PIECES = [
    *("/", "/", "/", "//", "live", "live", "x", "a", "LIVE", ".", "..", "/.", "/./", "/../", "/..", "..;/"),
    *("%2e", "%2E", "%2F", "%2f", "%5c", "%00", "%25", "%252e", "%3b", "%", ";", ";a=b", ";a=/", "\\", "\\..\\"),
    *("\x00", "\n", "\t", " ", "\u200b", "é", "？", "．", "／", "*", "?", "#", "~", ":"),
]

tricky_paths = st.lists(st.sampled_from(PIECES), max_size=10).map("".join)


@pytest.mark.parametrize(
    ("path", "meant"),
    [
        pytest.param("/live", "/live", id="plain-already"),
        pytest.param("/", "/", id="the-root"),
        pytest.param("", "/", id="empty"),
        pytest.param("live", "/live", id="no-leading-slash"),
        pytest.param("//live", "/live", id="two-slashes"),
        pytest.param("///live///a//", "/live/a", id="many-slashes"),
        pytest.param("/live/", "/live", id="a-trailing-slash"),
        pytest.param("/./live/.", "/live", id="dots-that-mean-here"),
        pytest.param("/x/../live", "/live", id="up-and-down"),
        pytest.param("/../../live", "/live", id="above-the-root-is-the-root"),
        pytest.param("/live/..", "/", id="up"),
        pytest.param("/live/...", "/live/...", id="three-dots-are-a-name"),
        pytest.param("/live/.a", "/live/.a", id="a-hidden-file-is-a-name"),
        pytest.param("/l%69ve", "/live", id="an-escape-that-survived"),
        pytest.param("/x/%2e%2E/live", "/live", id="escaped-dots"),
        pytest.param("/x%2F..%2flive", "/live", id="escaped-slashes"),
        pytest.param("/%256c%2569ve", "/live", id="escaped-twice"),
        pytest.param("/l%2525252569ve", "/live", id="escaped-five-times"),
        pytest.param("/live%00", "/live", id="an-escaped-nul"),
        pytest.param("/live\x00", "/live", id="a-nul"),
        pytest.param("/li\nve\r", "/live", id="line-ends"),
        pytest.param("/live\u200b", "/live", id="a-space-of-no-width"),
        pytest.param("/live;a=b", "/live", id="a-parameter"),
        pytest.param("/live;a=b/x;c", "/live/x", id="parameters"),
        pytest.param("/x/..;a=b/live", "/live", id="up-with-a-parameter-as-tomcat-reads-it"),
        pytest.param("\\live\\a", "/live/a", id="backslashes"),
        pytest.param("/x\\..\\live", "/live", id="up-with-backslashes"),
        pytest.param("/x%5c..%5clive", "/live", id="up-with-escaped-backslashes"),
        pytest.param("/LIVE", "/LIVE", id="case-means-something"),
        pytest.param("/100%", "/100%", id="a-percent-sign-that-escapes-nothing"),
        pytest.param("/caf\u00e9", "/caf\u00e9", id="letters-of-any-script-are-kept"),
    ],
)
def test_plain(path: str, meant: str) -> None:
    """A path is resolved to what some server makes of it."""
    assert plain(path) == meant


@relaxed
@given(st.one_of(tricky_paths, st.text()))
@example("/%\x002e")
def test_plain_is_idempotent(path: str) -> None:
    """What is plain stays as it is, and begins with a slash."""
    once = plain(path)
    assert plain(once) == once
    assert once.startswith("/")


@relaxed
@given(st.one_of(tricky_paths, st.text()))
def test_a_plain_path_has_one_reading(path: str) -> None:
    """What is plain is plain to every server: no empty, ``.`` or ``..`` segment, no parameter, nothing unprintable."""
    segments = plain(path).split("/")[1:]
    assert segments == [""] or not {"", ".", ".."} & set(segments)
    assert not any(mark in plain(path) for mark in (";", "\\", "\x00", "\n", "//"))


def test_readings_are_the_path_and_its_plain_form_with_and_without_root_path() -> None:
    """All readings are tried, each once; an ordinary path has but one."""
    assert readings("/live", "/live") == ("/live",)
    assert {"//live/", "/live", "/app//live/", "/app/live"} <= set(readings("/app//live/", "//live/", "/app"))


def test_an_escaped_letter_is_utf_8() -> None:
    """A pattern with a letter beyond ASCII holds where the letter is still escaped, in UTF-8 as every URL is."""
    assert any(PathPattern("/caf\u00e9").matches(reading) for reading in readings("/caf%C3%A9", "/caf%C3%A9"))


# --- how other servers read a path, as choices that each of them makes --------------------------------


def _segments(path: str, merge_slashes: bool) -> list[str]:
    """RFC 3986, section 5.2.4; with or without nginx's merge_slashes before it."""
    kept: list[str] = []
    for segment in path.split("/")[1:]:
        if segment == "..":
            del kept[-1:]
        elif segment != "." and (segment or not merge_slashes):
            kept.append(segment)
    return kept


def as_servers_read_it(path: str) -> set[str]:
    """What the path is to servers that decode once more or do not, know parameters or do not, and so on."""
    found = set()
    for decodes, backslashes, parameters, controls, merges in product((False, True), repeat=5):
        read = unquote(path) if decodes else path
        read = read.replace("\\", "/") if backslashes else read
        read = "/".join(segment.partition(";")[0] for segment in read.split("/")) if parameters else read
        read = "".join(character for character in read if character.isprintable()) if controls else read
        found.add("/" + "/".join(_segments(read, merges)).rstrip("/"))
    return found


@pytest.mark.parametrize(
    "path",
    [
        pytest.param("//live", id="merged-slashes"),
        pytest.param("/x/../live", id="up-and-down"),
        pytest.param("/live/", id="a-trailing-slash"),
        pytest.param("/live/x/..", id="down-and-up"),
        pytest.param("/live//..", id="up-from-an-empty-segment-by-rfc-3986"),
        pytest.param("/live/;a/..", id="up-from-a-segment-that-is-only-a-parameter"),
        pytest.param("/live/\x00/..", id="up-from-a-segment-that-is-only-a-nul"),
        pytest.param("/live/a\\b/..", id="up-from-a-backslash-that-is-a-character"),
        pytest.param("/live/a%2fb/..", id="up-from-a-slash-that-stays-escaped"),
        pytest.param("/x/%2e%2e/../live", id="up-from-dots-that-stay-escaped"),
    ],
)
def test_readings_of_servers_in_a_table(path: str) -> None:
    """Each of these is /live to some server, so it falls under a pattern for /live."""
    assert "/live" in as_servers_read_it(path)
    assert any(PathPattern("/live").matches(reading) for reading in readings(path, path))


@relaxed
@given(tricky_paths.map(lambda path: "/" + path))
@example("/live//..")
@example("/live/;a/..")
def test_no_server_reads_its_way_around_a_pattern(path: str) -> None:
    """Where any server would read a path as /live, it falls under the pattern /live."""
    if "/live" in as_servers_read_it(path):
        assert any(PathPattern("/live").matches(reading) for reading in readings(path, path))


# --- patterns ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("pattern", "path", "matches"),
    [
        pytest.param("/live", "/live", True, id="exact"),
        pytest.param("/live", "/live/a", False, id="exact-is-not-below"),
        pytest.param("/live", "/livestock", False, id="nor-a-longer-word"),
        pytest.param("/live", "/a/live", False, id="nor-somewhere-inside"),
        pytest.param("/live", "/LIVE", False, id="nor-in-another-case"),
        pytest.param("/live/*", "/live", True, id="a-boundary-matches-itself"),
        pytest.param("/live/*", "/live/", True, id="and-its-slash"),
        pytest.param("/live/*", "/live/a/b", True, id="and-everything-below"),
        pytest.param("/live/*", "/livestock", False, id="but-no-longer-word"),
        pytest.param("/live/*", "/a/live/b", False, id="nor-somewhere-inside-it"),
        pytest.param("/*", "/", True, id="everything-has-the-root"),
        pytest.param("/*", "/a/b", True, id="everything"),
        pytest.param("/", "/", True, id="the-root"),
        pytest.param("/", "/a", False, id="the-root-only"),
    ],
)
def test_patterns(pattern: str, path: str, matches: bool) -> None:
    """A pattern is exact, or ends on a path boundary; it is never a bare substring."""
    assert PathPattern(pattern).matches(path) is matches


@pytest.mark.parametrize(
    ("pattern", "right"),
    [
        pytest.param("live", "did you mean '/live'?", id="no-leading-slash"),
        pytest.param("/live/", "did you mean '/live'?", id="a-trailing-slash"),
        pytest.param("//live", "did you mean '/live'?", id="two-slashes"),
        pytest.param("/a/../live", "did you mean '/live'?", id="dots"),
        pytest.param("/l%69ve", "did you mean '/live'?", id="an-escape"),
        pytest.param("/live;a", "did you mean '/live'?", id="a-parameter"),
        pytest.param("/a/./b/*", "'/a/./b/*' is not a path as the app sees it", id="dots-before-a-star"),
        pytest.param("/live//*", "did you mean '/live/*'?", id="two-slashes-before-a-star"),
        pytest.param("/l*ve", "an exact path, or one that ends in /*", id="a-star-inside"),
        pytest.param("/live*", "an exact path, or one that ends in /*", id="a-star-without-its-slash"),
        pytest.param("/live/**", "an exact path, or one that ends in /*", id="two-stars"),
        pytest.param("*", "an exact path, or one that ends in /*", id="a-star-alone"),
        pytest.param("", "did you mean '/'?", id="empty"),
    ],
)
def test_what_is_no_pattern_is_told_what_would_be(pattern: str, right: str) -> None:
    """A pattern that could never match, or not what was meant, is refused with what would be right."""
    with pytest.raises(ValueError, match=r".") as caught:
        PathPattern(pattern)
    assert right in str(caught.value)


def test_patterns_are_values() -> None:
    """Patterns of the same text are equal, and say what they are."""
    assert PathPattern("/live") == PathPattern("/live") != PathPattern("/live/*")
    assert len({PathPattern("/live"), PathPattern("/live")}) == 1
    assert repr(PathPattern("/live/*")) == "PathPattern(text='/live/*')"


@given(st.binary(max_size=60) | st.text("%aAfF09gz/é", max_size=60).map(str.encode))
def test_a_path_is_decoded_as_servers_do(raw_path: bytes) -> None:
    """Escapes are, and percent signs that escape nothing stay."""
    assert served(raw_path) == unquote_to_bytes(raw_path).decode("utf-8", "replace")


def test_a_path_with_too_many_escapes_is_beyond_reading() -> None:
    """So the strictest rules apply to it; Chinese is none."""
    assert served(b"/%e4%b8%ad" * 300) == "/中" * 300
    hidden = b"/%73earch" + b"%" * MOST_PATH_ESCAPES
    assert served(hidden) == hidden.decode()
    assert readings(served(hidden), served(hidden)) == ()


def test_no_path_takes_long_to_decode() -> None:
    """One in which nothing is an escape no longer than one that is all escapes."""
    longest = least_ns(lambda: served(b"/" + b"%41" * MOST_PATH_ESCAPES))
    assert least_ns(lambda: served(b"/" + b"%" * 60_000)) < longest
    assert least_ns(lambda: served(b"/" + b"%41" * 20_000)) < longest
    assert least_ns(lambda: served(b"/" + b"%" * (MOST_PATH_ESCAPES - 1))) < 2 * longest


def least_ns(work: Callable[[], object]) -> int:
    """The shortest of many runs, in nanoseconds."""
    found = []
    for _ in range(50):
        began_ns = time.perf_counter_ns()
        work()
        found.append(time.perf_counter_ns() - began_ns)
    return min(found)
