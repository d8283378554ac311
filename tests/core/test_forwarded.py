"""The ``Forwarded`` header, by the grammar of RFC 7239, section 4."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from core.addresses import client_address, packed
from shieldmw.core.address import Networks, parse_networks

PROXY = "10.0.0.1"
CLIENT = "203.0.113.7"
TRUSTED = Networks(parse_networks("10.0.0.0/8"))


@pytest.mark.parametrize(
    ("lines", "found"),
    [
        pytest.param(("for=203.0.113.7",), CLIENT, id="a-token"),
        pytest.param(("For=203.0.113.7",), CLIENT, id="names-have-no-case"),
        pytest.param(('for="203.0.113.7"',), CLIENT, id="quoted"),
        pytest.param(('for="203.0.113.7:4711"',), CLIENT, id="quoted-with-port"),
        pytest.param(('for="[2001:db8::a]"',), "2001:db8::a", id="v6-is-quoted-and-in-brackets"),
        pytest.param(('for="[2001:DB8::A]:4711"',), "2001:db8::a", id="v6-with-port"),
        pytest.param((r'for="203\.0.113.7"',), CLIENT, id="an-escape-that-was-not-needed"),
        pytest.param(("for=203.0.113.7;proto=https;by=10.0.0.2",), CLIENT, id="with-other-pairs"),
        pytest.param(("proto=https;for=203.0.113.7",), CLIENT, id="the-pairs-have-no-order"),
        pytest.param(('host="a;b,c=\\"d";for=203.0.113.7',), CLIENT, id="separators-in-quotes-separate-nothing"),
        pytest.param(("for=198.51.100.9, for=203.0.113.7",), CLIENT, id="the-right-most-element"),
        pytest.param(("for=203.0.113.7, for=10.1.1.1",), CLIENT, id="over-a-trusted-hop"),
        pytest.param(("for=198.51.100.9", "for=203.0.113.7"), CLIENT, id="the-last-of-two-lines"),
        pytest.param(("for=203.0.113.7", "for=10.1.1.1, for=10.2.2.2"), CLIENT, id="two-lines-are-one-list"),
        pytest.param((" for=203.0.113.7 ; proto=https ",), CLIENT, id="white-space-around-the-pairs"),
        pytest.param(("for=unknown, for=203.0.113.7",), CLIENT, id="unknown-left-of-the-client"),
        pytest.param((",for=203.0.113.7",), CLIENT, id="an-empty-element-left-of-the-client"),
        pytest.param(("for=10.1.1.1",), PROXY, id="all-hops-trusted"),
        pytest.param(("for=unknown",), PROXY, id="unknown"),
        pytest.param(("for=203.0.113.7, for=unknown",), PROXY, id="unknown-right-of-it-hides-it"),
        pytest.param(("for=_hidden",), PROXY, id="obfuscated"),
        pytest.param(('for="_SEVKISEK"',), PROXY, id="obfuscated-and-quoted"),
        pytest.param(("proto=https",), PROXY, id="no-for-at-all"),
        pytest.param(("for=203.0.113.7, proto=https",), PROXY, id="no-for-in-the-last-element"),
        pytest.param(("for=203.0.113.7,",), PROXY, id="an-empty-last-element"),
        pytest.param(("",), PROXY, id="an-empty-header"),
        pytest.param(("203.0.113.7",), PROXY, id="the-form-of-the-other-header"),
        pytest.param(("by=203.0.113.7",), PROXY, id="by-is-not-for"),
        pytest.param(("xfor=203.0.113.7",), PROXY, id="nor-is-a-name-that-ends-in-for"),
        pytest.param(("for=",), PROXY, id="no-value"),
        pytest.param(("for =203.0.113.7",), PROXY, id="white-space-before-the-equals-sign"),
        pytest.param(("for= 203.0.113.7",), PROXY, id="white-space-after-the-equals-sign"),
        pytest.param(("for=203.0.113.7 proto=https",), PROXY, id="pairs-without-a-semicolon"),
        pytest.param(("for=203.0.113.7:80",), PROXY, id="a-port-must-be-quoted"),
        pytest.param(("for=[2001:db8::a]",), PROXY, id="brackets-must-be-quoted"),
        pytest.param(('for="203.0.113.7',), PROXY, id="a-quote-that-never-ends"),
        pytest.param(('for="203.0.113.7\\"',), PROXY, id="an-escaped-quote-is-no-end"),
        pytest.param(('for="203.0.113.7"x',), PROXY, id="something-after-the-quote"),
        pytest.param(("for='203.0.113.7'",), PROXY, id="another-kind-of-quote"),
        pytest.param(('for="198.51.100.9, for=203.0.113.7"',), PROXY, id="an-element-inside-a-quote-is-none"),
        pytest.param(("for=203.0.113.7\x00",), PROXY, id="a-nul"),
    ],
)
def test_the_grammar(lines: tuple[str, ...], found: str) -> None:
    """Behind a trusted peer the right-most readable ``for`` that is not trusted is the client; else the peer."""
    assert client_address(PROXY, lines, TRUSTED, "forwarded") == packed(found)


@pytest.mark.parametrize(
    "left",
    [
        pytest.param('for="', id="a-quote-that-never-ends"),
        pytest.param("garbage", id="no-pair"),
        pytest.param("for=1.2.3.4:80", id="a-port-that-is-not-quoted"),
        pytest.param("x" * 16_384, id="sixteen-kilobytes"),
    ],
)
def test_a_broken_element_does_not_hide_the_one_the_proxy_wrote(left: str) -> None:
    """What a client broke on the left leaves the proxy's own element readable, on a line of its own or behind it."""
    theirs = 'for=203.0.113.7;proto="https"'
    assert client_address(PROXY, (left, theirs), TRUSTED, "forwarded") == packed(CLIENT)
    assert client_address(PROXY, (f"{left}, {theirs}",), TRUSTED, "forwarded") == packed(CLIENT)


_token = st.text(alphabet="abcXYZ019!#$%&'*+.^_`|~-", min_size=1, max_size=10)
_quoted = st.text(alphabet='ab,;= "\\[]:é', max_size=10).map(
    lambda text: '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'
)
_elements = st.lists(
    st.lists(st.tuples(_token, st.one_of(_token, _quoted)).map("=".join), min_size=1, max_size=3).map(";".join),
    max_size=4,
).map(", ".join)


@settings(deadline=None)
@given(_elements, st.booleans())
def test_no_well_formed_element_changes_the_one_right_of_it(left: str, own_line: bool) -> None:
    """Whatever elements a client sends, the one that the proxy appends names the client."""
    theirs = "for=203.0.113.7;proto=https"
    lines = (left, theirs) if own_line else (f"{left}, {theirs}",)
    assert client_address(PROXY, lines, TRUSTED, "forwarded") == packed(CLIENT)


@settings(deadline=None)
@given(st.text(alphabet='for=.,;"\\ 12:[]', max_size=60))
def test_no_text_is_slow_or_raises(text: str) -> None:
    """A header made of the grammar's own characters comes to an end, with an address."""
    assert client_address(PROXY, (text * 50,), TRUSTED, "forwarded") is not None


def test_the_other_header_is_not_read() -> None:
    """Only the configured header counts: the form of the one is unreadable as the other."""
    assert client_address(PROXY, ("for=203.0.113.7",), TRUSTED, "x-forwarded-for") == packed(PROXY)
    assert client_address(PROXY, ("203.0.113.7",), TRUSTED, "forwarded") == packed(PROXY)
