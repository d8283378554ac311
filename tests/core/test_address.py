"""The client's address: spellings, trusted hops, and forged headers that must not change it."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv4Network, IPv6Address, ip_network

import pytest
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st

from core.addresses import PREFIXES, client_address, clients_at, locate, packed
from shieldmw.core.address import (
    Addressing,
    IPNetwork,
    Networks,
    parse_address,
    parse_networks,
)
from shieldmw.core.bounds import LONGEST_HEADER
from shieldmw.core.client import Prefixes, address_text

XFF = "x-forwarded-for"
HEADERS = [XFF, "forwarded", "cf-connecting-ip"]

PROXY = "10.0.0.1"
CLIENT = "203.0.113.7"
TRUSTED = Networks(parse_networks("10.0.0.0/8 2001:db8:ffff::/48"))

relaxed = settings(deadline=None)

# What a header can hold once a server has let it through, and then some that it would not.
header_text = st.one_of(
    st.text(max_size=60),
    st.lists(
        st.sampled_from(
            [CLIENT, PROXY, "::1", "[::1]:80", "for=", '"', "\\", ";", ",", " ", "unknown", "1.2.3.4:5", "%"]
        ),
        max_size=12,
    ).map("".join),
    st.ip_addresses().map(str),
)


@pytest.mark.parametrize(
    ("meant", "spelling"),
    [
        pytest.param("192.0.2.1", "192.0.2.1", id="v4"),
        pytest.param("192.0.2.1", " 192.0.2.1\t", id="v4-with-white-space-around"),
        pytest.param("192.0.2.1", "192.0.2.1:99", id="v4-with-port"),
        pytest.param("192.0.2.1", "::ffff:192.0.2.1", id="v4-mapped"),
        pytest.param("192.0.2.1", "::FFFF:C000:0201", id="v4-mapped-in-hex-and-upper-case"),
        pytest.param("192.0.2.1", "0:0:0:0:0:ffff:192.0.2.1", id="v4-mapped-in-full"),
        pytest.param("192.0.2.1", "[::ffff:192.0.2.1]:80", id="v4-mapped-in-brackets-with-port"),
        pytest.param("192.0.2.1", "::ffff:192.0.2.1%eth0", id="v4-mapped-with-zone"),
        pytest.param("2001:db8::a", "2001:db8::a", id="v6"),
        pytest.param("2001:db8::a", "2001:DB8::A", id="v6-upper-case"),
        pytest.param("2001:db8::a", "2001:0db8:0000:0000:0000:0000:0000:000a", id="v6-in-full"),
        pytest.param("2001:db8::a", "2001:db8:0:0:0:0:0:a", id="v6-without-leading-zeros"),
        pytest.param("2001:db8::a", "2001:db8:0:0::a", id="v6-shortened-elsewhere"),
        pytest.param("2001:db8::a", "2001:db8::0.0.0.10", id="v6-with-a-v4-tail"),
        pytest.param("2001:db8::a", "[2001:db8::a]", id="v6-in-brackets"),
        pytest.param("2001:db8::a", "[2001:db8::a]:443", id="v6-in-brackets-with-port"),
        pytest.param("2001:db8::a", "2001:db8::a%eth0", id="v6-with-zone"),
        pytest.param("2001:db8::a", "2001:db8::a%1", id="v6-with-a-numbered-zone"),
        pytest.param("2001:db8::a", "[2001:db8::a%25eth0]:443", id="v6-with-everything"),
        pytest.param("::1", "[::1]:80", id="loopback"),
    ],
)
def test_all_spellings_of_an_address_are_one_key(meant: str, spelling: str) -> None:
    """However a peer or a proxy spells an address, it is the same client."""
    assert parse_address(spelling) == packed(meant)
    assert client_address(spelling, (), Networks(), XFF) == packed(meant)
    through_proxy = client_address(PROXY, (spelling,), TRUSTED, XFF)
    assert PREFIXES.clients(through_proxy) == clients_at(meant)


NO_ADDRESS = [
    pytest.param("", id="empty"),
    pytest.param(" \t", id="white-space"),
    pytest.param("unknown", id="unknown"),
    pytest.param("_hidden", id="obfuscated"),
    pytest.param("localhost", id="a-host-name"),
    pytest.param("unix:", id="a-unix-socket"),
    pytest.param("-", id="a-dash"),
    pytest.param("192.0.2", id="three-numbers"),
    pytest.param("192.0.2.1.5", id="five-numbers"),
    pytest.param("192.0.2.256", id="a-number-too-big"),
    pytest.param("192.0.2.01", id="a-leading-zero-octal-or-not"),
    pytest.param("0192.0.2.1", id="a-leading-zero-in-front"),
    pytest.param("0xc0.0.2.1", id="hexadecimal"),
    pytest.param("3221225985", id="one-number"),
    pytest.param("127.1", id="shortened-as-inet-aton-would"),
    pytest.param("192.0.2.1/32", id="a-network"),
    pytest.param("192.0.2.1%eth0", id="v4-has-no-zone"),
    pytest.param("192.0.2.1:", id="an-empty-port"),
    pytest.param("192.0.2.1:http", id="a-port-by-name"),
    pytest.param("192.0.2.1:123456", id="a-port-too-long"),
    pytest.param("192.0.2.1:-1", id="a-negative-port"),
    pytest.param("[192.0.2.1]", id="v4-in-brackets"),
    pytest.param("::ffff:192.0.2.1:99", id="v4-mapped-with-port-but-no-brackets"),
    pytest.param("::ffff:192.0.2.01", id="v4-mapped-with-a-leading-zero"),
    pytest.param("[::1", id="an-open-bracket"),
    pytest.param("::1]", id="a-closing-bracket"),
    pytest.param("[[::1]]", id="two-brackets"),
    pytest.param("[]:80", id="empty-brackets"),
    pytest.param("[::1]x", id="something-after-the-bracket"),
    pytest.param("[::1]:", id="v6-with-an-empty-port"),
    pytest.param(":::1", id="three-colons"),
    pytest.param("1::2::3", id="shortened-twice"),
    pytest.param("1:2:3:4:5:6:7:8:9", id="nine-groups"),
    pytest.param("2001:db8::12345", id="a-group-too-long"),
    pytest.param("2001:db8::g", id="no-hexadecimal-digit"),
    pytest.param("%eth0", id="only-a-zone"),
    pytest.param("192.0.2.1 192.0.2.2", id="two-addresses"),
    pytest.param("192.0.2.1;x=y", id="with-a-parameter"),
    pytest.param("192.0.2.1\n", id="a-line-feed"),
    pytest.param("\r\nSet-Cookie: a=b", id="a-header-of-its-own"),
    pytest.param("192.0.2.1\x00", id="a-nul"),
    pytest.param("\ufeff192.0.2.1", id="a-byte-order-mark"),
    pytest.param("１９２.0.2.1", id="digits-of-full-width"),
    pytest.param("١٩٢.0.2.1", id="digits-of-another-script"),
    pytest.param("192。0。2。1", id="dots-of-another-script"),
    pytest.param("'192.0.2.1'", id="quoted"),
    pytest.param("1" * 1_000_000, id="a-megabyte-of-digits"),
    pytest.param(":" * 1_000_000, id="a-megabyte-of-colons"),
    pytest.param("[" * 1_000_000, id="a-megabyte-of-brackets"),
]


@pytest.mark.parametrize("text", NO_ADDRESS)
def test_text_that_is_no_address_is_never_a_key(text: str) -> None:
    """What cannot be read strictly is no address; from a proxy it leaves the proxy, from a peer nobody."""
    assert parse_address(text) is None
    assert client_address(PROXY, (text,), TRUSTED, XFF) == packed(PROXY)
    assert client_address(text, (CLIENT,), TRUSTED, XFF) is None


@given(st.text())
def test_any_text_can_be_read(text: str) -> None:
    """No text makes the parser raise, and what it reads, it reads the same when spelled canonically."""
    address = parse_address(text)
    assert address is None or parse_address(address_text(address) or "") == address


@given(st.ip_addresses(), st.integers(0, 65_535))
def test_every_address_can_be_read(address: IPv4Address | IPv6Address, port: int) -> None:
    """Every address is read from its canonical text, in full, in upper case and with a port."""
    mapped = getattr(address, "ipv4_mapped", None) or address
    with_port = f"{address}:{port}" if address.version == 4 else f"[{address}]:{port}"
    for spelling in (str(address), address.exploded, str(address).upper(), with_port):
        assert parse_address(spelling) == mapped.packed


@pytest.mark.parametrize(
    ("written", "meant"),
    [("::ffff:192.0.2.1", "192.0.2.1/32"), ("::ffff:c000:200/120", "192.0.2.0/24"), ("::/0", "::/0")],
)
def test_an_ipv4_network_written_as_ipv6_is_one(written: str, meant: str) -> None:
    """Addresses are read that way, so a list that did not would hold nobody."""
    assert list(map(str, parse_networks(written))) == [meant]


@pytest.mark.parametrize(
    ("forwarded", "found"),
    [
        pytest.param((), PROXY, id="no-header"),
        pytest.param((CLIENT,), CLIENT, id="one-hop"),
        pytest.param((f"198.51.100.9, {CLIENT}",), CLIENT, id="the-left-most-is-what-the-client-wrote"),
        pytest.param((f"127.0.0.1, {CLIENT}",), CLIENT, id="even-where-it-claims-to-be-local"),
        pytest.param((f"{PROXY}, {CLIENT}",), CLIENT, id="even-where-it-claims-to-be-a-proxy"),
        pytest.param((f"{CLIENT}, 10.1.1.1, 10.2.2.2",), CLIENT, id="over-two-trusted-hops"),
        pytest.param((f"{CLIENT}, 2001:db8:ffff::1",), CLIENT, id="over-a-trusted-v6-hop"),
        pytest.param((f"{CLIENT}, ::ffff:10.1.1.1",), CLIENT, id="over-a-trusted-hop-in-a-v6-spelling"),
        pytest.param((f"{CLIENT}, [2001:db8:ffff::1]:443, 10.1.1.1:80",), CLIENT, id="over-trusted-hops-with-ports"),
        pytest.param((f"198.51.100.9, 10.1.1.1, {CLIENT}",), CLIENT, id="a-trusted-address-left-of-the-client"),
        pytest.param(("198.51.100.9", CLIENT), CLIENT, id="the-last-of-two-lines"),
        pytest.param((CLIENT, "10.1.1.1"), CLIENT, id="two-lines-are-one-list"),
        pytest.param((CLIENT, "10.1.1.1, 10.2.2.2"), CLIENT, id="two-lines-two-hops"),
        pytest.param((f"1.1.1.1,2.2.2.2,{CLIENT}",), CLIENT, id="no-spaces"),
        pytest.param((f"\t{CLIENT}\t, \t10.1.1.1 ",), CLIENT, id="tabs"),
        pytest.param((f"garbage, {CLIENT}",), CLIENT, id="garbage-left-of-the-client"),
        pytest.param((f",,, {CLIENT}",), CLIENT, id="empty-hops-left-of-the-client"),
        pytest.param(("10.1.1.1, 10.2.2.2",), PROXY, id="all-hops-trusted"),
        pytest.param((f"{CLIENT}, garbage",), PROXY, id="garbage-right-of-the-client-hides-it"),
        pytest.param((f"{CLIENT}, garbage, 10.1.1.1",), PROXY, id="also-behind-a-trusted-hop"),
        pytest.param((f"{CLIENT},",), PROXY, id="an-empty-hop-on-the-right"),
        pytest.param((CLIENT, ""), PROXY, id="an-empty-last-line"),
        pytest.param(("",), PROXY, id="an-empty-header"),
        pytest.param((f"{CLIENT} 10.1.1.1",), PROXY, id="separated-by-a-space"),
        pytest.param(("," * 16_000,), PROXY, id="sixteen-thousand-empty-hops"),
    ],
)
def test_the_first_hop_from_the_right_that_is_not_trusted(forwarded: tuple[str, ...], found: str) -> None:
    """Behind a trusted peer the header is read from the right; where it cannot be read, the peer it is."""
    assert client_address(PROXY, forwarded, TRUSTED, XFF) == packed(found)


@relaxed
@given(header_text, st.lists(st.sampled_from(["10.1.1.1", "2001:db8:ffff::2", "10.9.9.9:80"]), max_size=3))
@example('for="', [])
@example("\n", [])
def test_whatever_stands_left_of_the_client_is_not_read(left: str, proxies: list[str]) -> None:
    """The hop that the outermost trusted proxy wrote is the client, whatever the client put before it."""
    lines = (left, ", ".join([CLIENT, *proxies]))
    assert client_address(PROXY, lines, TRUSTED, XFF) == packed(CLIENT)
    assert client_address(PROXY, (", ".join(lines),), TRUSTED, XFF) == packed(CLIENT)


def test_a_very_long_header_does_not_hide_the_client() -> None:
    """A client that sends 16 KiB of hops is still found, or it would shed a deny list and its own bucket."""
    assert client_address(PROXY, ("1" * LONGEST_HEADER, CLIENT), TRUSTED, XFF) == packed(CLIENT)


@relaxed
@given(
    st.ip_addresses(),
    st.lists(header_text, max_size=4).map(tuple),
    st.sampled_from(HEADERS),
    st.sampled_from([Networks(), TRUSTED, Networks(unix=True)]),
)
@example(IPv4Address("203.0.113.7"), ("10.0.0.1",), XFF, TRUSTED)
@example(IPv4Address("203.0.113.7"), ("for=10.0.0.1",), "forwarded", TRUSTED)
def test_from_an_untrusted_peer_no_header_changes_anything(
    peer: IPv4Address | IPv6Address, forwarded: tuple[str, ...], header: str, trusted: Networks
) -> None:
    """A peer that is not trusted is the client, whatever headers it sends."""
    address = parse_address(str(peer))
    assume(address not in trusted)
    assert client_address(str(peer), forwarded, trusted, header) == address


@relaxed
@given(st.one_of(st.none(), header_text), st.lists(header_text, max_size=4).map(tuple), st.sampled_from(HEADERS))
def test_no_header_makes_the_reader_raise(peer: str | None, forwarded: tuple[str, ...], header: str) -> None:
    """Whatever peer and header say, an address or none comes out, and a trusted one only where it is the peer."""
    for trusted in (TRUSTED, Networks(TRUSTED.networks, unix=True)):
        address = client_address(peer, forwarded, trusted, header)
        assert address is None or address not in trusted or address == parse_address(peer or "")


@pytest.mark.parametrize(
    ("peer", "trusted", "found"),
    [
        pytest.param(None, Networks(), None, id="a-unix-peer-is-not-trusted-by-default"),
        pytest.param(None, TRUSTED, None, id="nor-because-some-network-is"),
        pytest.param(None, Networks(unix=True), CLIENT, id="but-where-unix-is"),
        pytest.param("testclient", Networks(unix=True), None, id="a-peer-that-is-no-address-is-no-unix-socket"),
        pytest.param("", Networks(unix=True), None, id="nor-is-an-empty-one"),
        pytest.param(PROXY, Networks(unix=True), PROXY, id="unix-trusts-no-address"),
    ],
)
def test_a_peer_on_a_unix_socket(peer: str | None, trusted: Networks, found: str | None) -> None:
    """A unix socket has no address, and is trusted only where the settings say so."""
    expected = None if found is None else packed(found)
    assert client_address(peer, (CLIENT,), trusted, XFF) == expected


@pytest.mark.parametrize(
    ("value", "found"),
    [
        pytest.param((CLIENT,), CLIENT, id="the-single-value"),
        pytest.param(("2001:DB8::1",), "2001:db8::1", id="v6"),
        pytest.param((f"{CLIENT}, {CLIENT}",), PROXY, id="a-list-is-no-single-value"),
        pytest.param((CLIENT, "198.51.100.9"), PROXY, id="nor-are-two-lines"),
        pytest.param(("10.1.1.1",), PROXY, id="a-trusted-address-is-no-client"),
        pytest.param(("garbage",), PROXY, id="garbage"),
    ],
)
def test_a_header_with_a_single_value(value: tuple[str, ...], found: str) -> None:
    """A header such as cf-connecting-ip holds one address; a second one means that somebody forged it."""
    assert client_address(PROXY, value, TRUSTED, "cf-connecting-ip") == packed(found)


@pytest.mark.parametrize(
    ("text", "networks"),
    [
        pytest.param("", (), id="none"),
        pytest.param("10.0.0.0/8", ("10.0.0.0/8",), id="one"),
        pytest.param("10.0.0.0/8, 2001:db8::/32", ("10.0.0.0/8", "2001:db8::/32"), id="comma"),
        pytest.param(" 10.0.0.0/8  ::1 ", ("10.0.0.0/8", "::1/128"), id="spaces-and-a-bare-address"),
        pytest.param("192.0.2.1", ("192.0.2.1/32",), id="a-bare-address-is-a-network-of-one"),
    ],
)
def test_networks_are_read(text: str, networks: tuple[str, ...]) -> None:
    """CIDRs are separated by commas or spaces."""
    assert parse_networks(text) == tuple(ip_network(network) for network in networks)


@pytest.mark.parametrize(
    ("text", "right"),
    [
        pytest.param("10.0.0.1/8", "did you mean 10.0.0.0/8?", id="bits-beyond-the-prefix"),
        pytest.param("2001:db8::1/32", "did you mean 2001:db8::/32?", id="bits-beyond-the-prefix-v6"),
        pytest.param("10.0.0.0/33", "write it like 203.0.113.0/24", id="a-prefix-too-long"),
        pytest.param("10.0.0.0/-1", "write it like 203.0.113.0/24", id="a-negative-prefix"),
        pytest.param("ten", "'ten' is not a CIDR", id="no-address"),
        pytest.param("10.0.0.0/8;::1", "'10.0.0.0/8;::1' is not a CIDR", id="another-separator"),
        pytest.param("*", "'*' is not a CIDR", id="everybody"),
    ],
)
def test_what_is_no_network_is_told_what_would_be(text: str, right: str) -> None:
    """An entry that is no CIDR is named, with what would be right."""
    with pytest.raises(ValueError, match=r".") as caught:
        parse_networks(f"192.0.2.0/24, {text}")
    assert right in str(caught.value)


def test_networks_hold_addresses_of_their_own_version_only() -> None:
    """0.0.0.0/0 is every IPv4 address, no IPv6 address and no unix socket; ``unix`` is only the latter."""
    every_v4 = Networks(parse_networks("0.0.0.0/0"))
    assert packed(CLIENT) in every_v4
    assert packed("::1") not in every_v4
    assert None not in every_v4
    assert None in Networks(unix=True)
    assert packed(CLIENT) not in Networks(unix=True)
    assert (bool(Networks()), bool(every_v4), bool(Networks(unix=True))) == (False, True, True)


CLOUDFRONT = "cloudfront-viewer-address"


@pytest.mark.parametrize(
    ("value", "found"),
    [
        pytest.param("198.51.100.7:46532", "198.51.100.7", id="v4"),
        pytest.param("2001:db8:1:2::9:46532", "2001:db8:1:2::9", id="v6-that-would-be-an-address-with-its-port"),
        pytest.param("2001:db8:1:2::9:9985", "2001:db8:1:2::9", id="a-port-that-would-be-a-group"),
        pytest.param("2001:db8:1:2:3:4:5:6:46532", "2001:db8:1:2:3:4:5:6", id="all-groups"),
        pytest.param("2001:db8:1:2:3:4:5:6:80", "2001:db8:1:2:3:4:5:6", id="a-short-port"),
        pytest.param("::1:80", "::1", id="a-short-address"),
        pytest.param("[2001:db8::9]:443", "2001:db8::9", id="in-brackets"),
        pytest.param(" 198.51.100.7:1 ", "198.51.100.7", id="blanks-around-it"),
        pytest.param("198.51.100.7", PROXY, id="no-port"),
        pytest.param("2001:db8::ab", PROXY, id="no-port-in-v6"),
        pytest.param("2001:db8::9:465321", PROXY, id="no-such-port"),
        pytest.param("198.51.100.7:46532,198.51.100.8:1", PROXY, id="two-of-them"),
        pytest.param("", PROXY, id="empty"),
        pytest.param("1:" * 9000, PROXY, id="a-long-one"),
    ],
)
def test_the_address_and_port_that_cloudfront_writes(value: str, found: str) -> None:
    """IPv6 has no brackets there: whatever is behind the last colon is the port."""
    assert client_address(PROXY, (value,), TRUSTED, CLOUDFRONT) == packed(found)


@pytest.mark.parametrize(
    ("peer", "forwarded", "is_fallback", "is_unreadable"),
    [
        pytest.param(PROXY, (CLIENT,), False, False, id="named"),
        pytest.param(PROXY, ("garbage",), True, True, id="unreadable"),
        pytest.param(PROXY, (f"{CLIENT},",), True, True, id="unreadable-at-its-end"),
        pytest.param(PROXY, (), True, False, id="missing"),
        pytest.param(PROXY, ("10.1.1.1, 10.2.2.2",), True, False, id="trusted-hops-only"),
        pytest.param(CLIENT, ("garbage",), False, False, id="a-peer-that-is-not-trusted"),
        pytest.param(CLIENT, (), False, False, id="a-peer-without-a-header"),
    ],
)
def test_how_an_address_was_found_is_told(
    peer: str, forwarded: tuple[str, ...], is_fallback: bool, is_unreadable: bool
) -> None:
    """Whether it is the client's own, or a proxy's that names none."""
    located = locate(peer, forwarded, TRUSTED, XFF)
    assert (located.is_fallback, located.is_unreadable) == (is_fallback, is_unreadable)
    assert located.address == client_address(peer, forwarded, TRUSTED, XFF)


networks = st.one_of(st.ip_addresses(v=4), st.ip_addresses(v=6)).flatmap(
    lambda address: st.integers(0, address.max_prefixlen).map(lambda bits: ip_network((address, bits), strict=False))
)


@given(
    st.lists(networks, max_size=4).map(tuple),
    st.one_of(st.ip_addresses(v=4), st.ip_addresses(v=6)),
    st.booleans(),
    st.integers(0, 128),
)
def test_networks_hold_what_the_standard_library_says(
    found: tuple[IPNetwork, ...], address: IPv4Address | IPv6Address, unix: bool, bits: int
) -> None:
    """Random networks, and one around the address itself or just beside it."""
    around = ip_network((address, min(bits, address.max_prefixlen)), strict=False)
    for listed in (found, (*found, around)):
        networks = Networks(listed, unix=unix)
        for number in (int(address), int(around.network_address), int(around.broadcast_address)):
            for beside in (number - 1, number, number + 1):
                if 0 <= beside < 2**address.max_prefixlen:
                    other = type(address)(beside)
                    assert (other.packed in networks) is any(other in network for network in listed)
        assert (None in networks) is unix


@given(st.lists(networks, max_size=4).map(tuple))
def test_ipv4_networks_as_numbers(found: tuple[IPNetwork, ...]) -> None:
    """Each by its shift and prefix; those of IPv6 are not among them."""
    assert [IPv4Network((prefix << shift, 32 - shift)) for shift, prefix in Networks(found).ipv4] == [
        network for network in found if network.version == 4
    ]


@pytest.mark.parametrize(
    ("prefix", "header", "is_plain"),
    [
        pytest.param(32, XFF, True, id="an-address-alone-is-a-header-of-one-hop"),
        pytest.param(32, "cf-connecting-ip", True, id="or-all-of-it"),
        pytest.param(24, XFF, False, id="an-address-is-no-client"),
        pytest.param(32, "forwarded", False, id="addresses-are-written-in-another-way"),
        pytest.param(32, CLOUDFRONT, False, id="a-port-follows"),
    ],
)
def test_where_a_header_of_one_address_is_its_client(prefix: int, header: str, is_plain: bool) -> None:
    """Where that is so, the address is read without further ado; and then it is the one that is located."""
    assert Addressing(TRUSTED, header, Prefixes(prefix, 64)).is_plain is is_plain
    found = locate(PROXY, (CLIENT,), TRUSTED, header)
    is_named = not found.is_fallback and found.address == packed(CLIENT)
    assert (is_named and Prefixes(prefix, 64).cut(found.address) == (packed(CLIENT), None)) is is_plain
