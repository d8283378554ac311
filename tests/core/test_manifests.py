"""DASH manifests with a parameter in their URIs: what is changed, and that nothing else is."""

from __future__ import annotations

import re
from pathlib import Path
from urllib.parse import urljoin
from xml.etree import ElementTree

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shieldmw.core.manifests import with_parameter

TICKET = b"abc.DEF-1_2"
ADDED = b"shield_ticket=" + TICKET
NAMESPACE = b'xmlns="urn:mpeg:dash:schema:mpd:2011"'
TEMPLATE = b'<SegmentTemplate duration="2" media="%s"/>'

# As packagers write them: comments, CDATA, other namespaces, quotes and line ends of either kind.
LIVE = b"""<?xml version="1.0" encoding="utf-8"?>\r
<!-- <Location>a comment</Location> -->
<MPD xmlns="urn:mpeg:dash:schema:mpd:2011" xmlns:x="urn:other" type="dynamic" minimumUpdatePeriod="PT2S">
\t<ProgramInformation><Title><![CDATA[<SegmentTemplate media="a">]]></Title></ProgramInformation>
\t<BaseURL>audio/</BaseURL>
\t<Period id="0" start='PT0S'><AdaptationSet><Representation id="a &gt; b">
\t\t<SegmentTemplate x:media="x.m4s" timescale = '44100'
\t\t\tinitialization = "init-$RepresentationID$.m4s" media='$Number%05d$.m4s?a=1&amp;b=2'><SegmentTimeline/>
\t\t</SegmentTemplate><x:SegmentTemplate media="y.m4s"/>
\t</Representation></AdaptationSet></Period>
</MPD>\r
"""
# The same with what is added marked: + where a query begins, & where it goes on, @ for the element.
MARKED = (
    LIVE.replace(b"<Period", b"@<Period")
    .replace(b'$.m4s"', b'$.m4s+"')
    .replace(b"b=2'", b"b=2&'")
    .replace(b"@", b"<Location>live.mpd+</Location>")
)


def changed(text: bytes, own: bytes = b"live.mpd") -> bytes:
    """A manifest with the ticket."""
    return with_parameter(text, own, b"shield_ticket", TICKET)


def manifest(inside: bytes, kind: bytes = b"dynamic") -> bytes:
    """A manifest with this inside, and a location, so that none is added."""
    return b"<MPD %s type='%s'><Location>https://example.org/</Location>%s</MPD>" % (NAMESPACE, kind, inside)


def test_a_live_manifest() -> None:
    """Its segments get the parameter, and it says where to ask the next time; all other bytes are as they were."""
    right = MARKED.replace(b"b=2&'", b"b=2&amp;" + ADDED + b"'").replace(b"m4s+", b"m4s?" + ADDED)
    assert changed(LIVE) == right.replace(b"mpd+", b"mpd?" + ADDED)


def test_what_is_added_is_where_the_schema_wants_it_and_resolves() -> None:
    """The Location comes after the BaseURL and before the Period, and names the manifest itself."""
    root = ElementTree.fromstring(changed(LIVE, b"live.mpd?token=a&shield_ticket=old&b=c"))
    tags = [element.tag.rpartition("}")[2] for element in root]
    assert tags == ["ProgramInformation", "BaseURL", "Location", "Period"]
    location = urljoin("https://example.org/hls/live.mpd?token=a", root[2].text)
    assert location == f"https://example.org/hls/live.mpd?token=a&b=c&{ADDED.decode()}"
    (template,) = root.iter("{urn:mpeg:dash:schema:mpd:2011}SegmentTemplate")
    assert template.attrib["media"] == f"$Number%05d$.m4s?a=1&b=2&{ADDED.decode()}"
    assert template.attrib["timescale"] == "44100"


def test_elements_with_a_prefix() -> None:
    """The element that is added has the prefix of the others."""
    text = b'<d:MPD xmlns:d="urn:mpeg:dash:schema:mpd:2011" type="dynamic"><d:Period/></d:MPD>'
    added = b"<d:Location>live.mpd?" + ADDED + b"</d:Location>"
    assert changed(text) == text.replace(b"<d:Period/>", added + b"<d:Period/>")


@pytest.mark.parametrize(
    ("inside", "right"),
    [
        (b"<Location>a.mpd</Location>", b"<Location>a.mpd?+</Location>"),
        (b"<Location>\n a.mpd?b=1&amp;c=2 \n</Location>", b"<Location>\n a.mpd?b=1&amp;c=2&amp;+ \n</Location>"),
        (b"<PatchLocation ttl='9'>p.xml</PatchLocation>", b"<PatchLocation ttl='9'>p.xml?+</PatchLocation>"),
        (b'<SegmentURL media="1.m4s" mediaRange=""/>', b'<SegmentURL media="1.m4s?+" mediaRange=""/>'),
        (b"<Initialization sourceURL='../i.mp4'/>", b"<Initialization sourceURL='../i.mp4?+'/>"),
        (b"<Period><BaseURL>b/</BaseURL></Period>" + TEMPLATE % b"1", b"<Period><BaseURL>b/</BaseURL></Period>!"),
        (b"<AdaptationSet bitstreamSwitching='true' index='1'/>", None),
        (b"<Location>https://example.org/a.mpd</Location>", None),
        (b"<Location>//example.org/a.mpd</Location>", None),
        (b"<Location>https&#58;//example.org/a.mpd</Location>", None),
        (b"<Location><![CDATA[a.mpd]]></Location>", None),
        (b"<Location>a.mpd?shield_ticket=old</Location>", None),
        (b"<Location/>", None),
        (TEMPLATE % b"https://cdn.example.org/$Number$.m4s", None),
        (TEMPLATE % b"&#47;&#47;cdn.example.org/$Number$.m4s", None),
        (b"<Period><BaseURL>https://cdn.example.org/</BaseURL></Period>" + TEMPLATE % b"1", None),
        (TEMPLATE % b"1" + b"<Period><BaseURL>&#47;/cdn.example.org/</BaseURL></Period>", None),
    ],
)
def test_uris_of_the_own_server_get_it(inside: bytes, right: bytes | None) -> None:
    """Those of other servers do not, nor those relative to one of them, nor any that is spelt in an unusual way."""
    wanted = inside if right is None else right.replace(b"!", TEMPLATE % b"1?+").replace(b"+", ADDED)
    assert changed(manifest(inside)) == manifest(wanted)


def test_only_a_live_manifest_gets_a_location() -> None:
    """A recording is asked for once; a location of its own, or a path that no reference can name, is not replaced."""
    text = b"<MPD %s type='%s'><Period/></MPD>"
    assert changed(text % (NAMESPACE, b"static")) == text % (NAMESPACE, b"static")
    live = text % (NAMESPACE, b"dynamic")
    assert changed(live) == live.replace(b"<Period/>", b"<Location>live.mpd?" + ADDED + b"</Location><Period/>")
    for own in (
        b"",
        b"a:b.mpd",
        b"a<b.mpd\xff",
        b"https:evil.example?xshield_ticket=1",
        b"live.mpd?shield_ticket=\x01&x=\xff",
    ):
        assert changed(live, own) == live


def test_no_request_puts_an_element_into_a_manifest() -> None:
    """Where a server passes on what no browser sends, it is text of the Location."""
    root = ElementTree.fromstring(changed(LIVE, b"live.mpd?</Location><script>]]>&x='\""))
    assert [element.text for element in root if element.tag.endswith("Location")] == [
        f"live.mpd?</Location><script>]]>&x='\"&{ADDED.decode()}"
    ]


BILLION_LAUGHS = b"<!DOCTYPE MPD [<!ENTITY a 'aaaaaaaaaa'><!ENTITY b '&a;&a;&a;&a;&a;&a;&a;&a;'>]>"


@pytest.mark.parametrize(
    "text",
    [
        pytest.param(BILLION_LAUGHS + b"<MPD " + NAMESPACE + b" type='dynamic'><Period>&b;</Period></MPD>", id="a DTD"),
        pytest.param(LIVE[:-10], id="cut off"),
        pytest.param(LIVE + b"<more/>", id="more than one"),
        pytest.param(LIVE.decode().encode("utf-16"), id="UTF-16"),
        pytest.param(LIVE.replace(b"audio/", b"\xff/"), id="no UTF-8"),
        pytest.param(b"<html><Location>a.mpd</Location></html>", id="a page"),
        pytest.param(LIVE.replace(b"schema:mpd:2011", b"schema:mpd:2035"), id="another schema"),
        pytest.param(b"", id="nothing"),
    ],
)
def test_what_is_not_understood_stays(text: bytes) -> None:
    """Every byte of it."""
    assert changed(text) == text


@given(st.data())
def test_nothing_else_is_changed(data: st.DataObject) -> None:
    """Whatever is cut out of a manifest or put into it: without what was added it is what it was."""
    begin = data.draw(st.integers(0, len(LIVE)))
    end = data.draw(st.integers(begin, min(len(LIVE), begin + 40)))
    odd = data.draw(
        st.sampled_from([b"", b">", b"&amp;", b"'", b"<x/>", b"<!--", b"\xc3\xa9", b"<BaseURL>b</BaseURL>"])
    )
    text = LIVE[:begin] + odd + LIVE[end:]
    got = re.sub(rb"<Location>live\.mpd\?[^<]*</Location>(?=<)", b"", changed(text))
    assert re.sub(rb"(\?|&amp;)" + re.escape(ADDED), b"", got) == text


def test_a_manifest_of_a_real_packager() -> None:
    """One that ffmpeg wrote: the live profile, with a timeline."""
    text = Path(__file__).with_name("ffmpeg.mpd").read_bytes()
    root = ElementTree.fromstring(changed(text))
    assert [element.text for element in root if element.tag.endswith("Location")] == [f"live.mpd?{ADDED.decode()}"]
    assert changed(text).count(ADDED) == 3
