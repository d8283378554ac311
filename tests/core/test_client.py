"""The client that is charged: which addresses are one client, and that no subject can pass for another client."""

from __future__ import annotations

from dataclasses import FrozenInstanceError
from ipaddress import IPv4Address, IPv6Address, ip_network

import pytest
from hypothesis import given
from hypothesis import strategies as st

from core.addresses import PREFIXES, clients_at, ipv4, ipv6, packed
from shieldmw.core.client import (
    Address,
    AddressClients,
    Client,
    Identity,
    ListenerClass,
    Prefixes,
    address_text,
    token_client,
)

addresses = st.one_of(ipv4, ipv6, st.none())


@pytest.mark.parametrize(
    ("address", "prefixes", "one", "site"),
    [
        pytest.param("203.0.113.7", (32, 64), "203.0.113.7/32", None, id="an-ipv4-address-is-one-client"),
        pytest.param("203.0.113.7", (24, 64), "203.0.113.0/24", None, id="or-a-wider-one-if-so-set"),
        pytest.param("2001:db8:1:22ff::9", (32, 64), "2001:db8:1:22ff::/64", "2001:db8:1:2200::/56", id="64-and-56"),
        pytest.param("2001:db8::1", (32, 128), "2001:db8::1/128", "2001:db8::/56", id="128-and-56"),
        pytest.param("2001:db8:0:1fff::1", (32, 60), "2001:db8:0:1ff0::/60", "2001:db8:0:1f00::/56", id="60-and-56"),
        pytest.param("2001:db8:0:22ff::1", (32, 56), "2001:db8:0:2200::/56", None, id="a-56-is-its-own-site"),
        pytest.param("2001:db8:7:22ff::1", (32, 48), "2001:db8:7::/48", None, id="a-48-is-wider-than-a-site"),
    ],
)
def test_what_counts_as_one_address(address: str, prefixes: tuple[int, int], one: str, site: str | None) -> None:
    """An address stands for its network, and for IPv6 also for the /56 around it; both share the slot of the /56."""
    clients = Prefixes(*prefixes).clients(packed(address))
    assert clients.network == Client("ip", one, f"ip:{site or one}")
    assert clients.site == (None if site is None else Client("ip", site, f"ip:{site}"))


@pytest.mark.parametrize(
    ("other", "same_one", "same_site"),
    [
        pytest.param("2001:db8:1:2200::2", True, True, id="rotating-inside-the-64"),
        pytest.param("2001:db8:1:2200:ffff:ffff:ffff:ffff", True, True, id="to-its-last-address"),
        pytest.param("2001:db8:1:2201::1", False, True, id="the-next-64-of-the-same-site"),
        pytest.param("2001:db8:1:22ff::1", False, True, id="the-last-64-of-the-same-site"),
        pytest.param("2001:db8:1:2300::1", False, False, id="the-next-site"),
    ],
)
def test_rotating_addresses(other: str, same_one: bool, same_site: bool) -> None:
    """Inside a /64 rotating gains nothing, and inside a /56 everything is charged to one site."""
    base = clients_at("2001:db8:1:2200::1")
    rotated = clients_at(other)
    assert (rotated.network == base.network, rotated.site == base.site) == (same_one, same_site)


@given(ipv6, st.binary(min_size=8, max_size=8))
def test_the_lower_half_of_an_ipv6_address_never_matters(address: Address, lower: bytes) -> None:
    """Any two addresses of one /64 are the same clients."""
    other = address[:8] + lower
    assert PREFIXES.clients(other) == PREFIXES.clients(address)


def test_no_address_is_one_client() -> None:
    """All requests without an address share one bucket, rather than having none."""
    assert PREFIXES.clients(None) == AddressClients(Client("ip", "unknown", "ip:unknown"), None)


@pytest.mark.parametrize(
    "subject",
    [
        pytest.param("ip:203.0.113.7/32", id="the-whole-key-of-an-address"),
        pytest.param("ip:203.0.113.7", id="the-operator-s-spelling-of-an-address"),
        pytest.param("203.0.113.7/32", id="the-text-of-an-address"),
        pytest.param("unknown", id="the-client-without-an-address"),
        pytest.param("ip:unknown", id="and-its-key"),
        pytest.param("}:ip:203.0.113.7/32", id="a-closing-hash-tag"),
        pytest.param("\x00ip:203.0.113.7/32", id="a-nul-in-front"),
    ],
)
def test_a_subject_that_poses_as_an_address(subject: str) -> None:
    """A subject spelled like an address is still a token client, in its own bucket and slot."""
    token = token_client(Identity(subject))
    address = clients_at("203.0.113.7").network
    nobody = PREFIXES.clients(None).network
    assert len({token, address, nobody}) == len({str(token), str(address), str(nobody)}) == 3
    assert token.slot not in (address.slot, nobody.slot)


@given(
    st.one_of(st.text(min_size=1, max_size=60), addresses.map(lambda address: f"ip:{address_text(address)}")),
    addresses,
    st.integers(8, 32),
    st.integers(16, 128),
)
def test_token_and_address_clients_never_collide(
    subject: str, address: Address | None, ipv4_prefix: int, ipv6_prefix: int
) -> None:
    """Whatever a subject is called, it is no address's client: neither as value, nor as text, nor by slot."""
    token = token_client(Identity(subject))
    clients = Prefixes(ipv4_prefix, ipv6_prefix).clients(address)
    for client in (clients.network, *([clients.site] if clients.site else [])):
        assert token != client
        assert str(token) != str(client)
        assert token.slot != client.slot


@given(st.text(min_size=1, max_size=60), st.text(min_size=1, max_size=60))
def test_two_subjects_are_two_clients(first: str, second: str) -> None:
    """Subjects share a client only where they are the same text."""
    assert (str(token_client(Identity(first))) == str(token_client(Identity(second)))) is (first == second)


@given(addresses, addresses, st.integers(57, 128))
def test_the_text_of_a_client_is_its_bucket(first: Address | None, second: Address | None, ipv6_prefix: int) -> None:
    """Clients that differ are spelled differently, so that keys made of the text cannot collide."""
    prefixes = Prefixes(32, ipv6_prefix)
    found = [prefixes.clients(first), prefixes.clients(second)]
    clients = {client for pair in found for client in (pair.network, pair.site) if client is not None}
    assert len({str(client) for client in clients}) == len(clients)


@pytest.mark.parametrize(
    "subject",
    [pytest.param("", id="empty"), pytest.param("x" * 1025, id="too-long-for-a-log-line")],
)
def test_a_subject_that_cannot_be(subject: str) -> None:
    """An identity has a subject of 1 to 1024 characters."""
    with pytest.raises(ValueError, match="1 to 1024 characters"):
        Identity(subject)


def test_an_identity_is_a_member_unless_told_otherwise() -> None:
    """The class may be given as text, and one that does not exist is refused."""
    assert Identity("alice").listener_class is ListenerClass.MEMBER
    assert Identity("alice", ListenerClass("host")).listener_class is ListenerClass.HOST
    assert Identity("x" * 1024).subject == "x" * 1024
    with pytest.raises(ValueError, match="'owner' is not a valid ListenerClass"):
        Identity("alice", "owner")  # type: ignore[arg-type]


def test_an_identity_cannot_be_changed() -> None:
    """An app that reads the identity from the scope cannot promote it by accident."""
    identity = Identity("alice")
    with pytest.raises(FrozenInstanceError):
        identity.listener_class = ListenerClass.HOST  # type: ignore[misc]


@given(st.one_of(st.ip_addresses(v=4), st.ip_addresses(v=6)), st.integers(8, 32), st.integers(16, 128))
def test_a_client_is_the_network_of_its_address(
    address: IPv4Address | IPv6Address, ipv4_prefix: int, ipv6_prefix: int
) -> None:
    """As the standard library cuts it; the site around it is a /56, where that is wider."""
    prefixes = Prefixes(ipv4_prefix, ipv6_prefix)
    own = ip_network((address, ipv4_prefix if address.version == 4 else ipv6_prefix), strict=False)
    site = ip_network((address, 56), strict=False) if address.version == 6 and ipv6_prefix > 56 else None
    cut = prefixes.cut(address.packed)
    assert cut == (own.network_address.packed, None if site is None else site.network_address.packed)
    clients = prefixes.clients(address.packed)
    # The text of a network is that of its first address: for IPv6 as inet_ntop spells it, which the tests above fix.
    assert clients.network.text == f"{address_text(cut[0])}/{own.prefixlen}"
    assert ip_network(clients.network.text) == own
    assert clients.site is None or ip_network(clients.site.text) == site
    assert (clients.site is None) is (site is None)
    assert prefixes.client(*cut) == clients.network
    assert clients.network.slot == f"ip:{(clients.site or clients.network).text}"


def test_an_unknown_address_is_cut_to_nothing() -> None:
    """It has no first address, and no site around it."""
    assert PREFIXES.cut(None) == (b"", None)
    assert PREFIXES.client(b"", None) == Client("ip", "unknown", "ip:unknown")


whose = st.one_of(
    *(st.tuples(st.none(), addresses), st.tuples(st.builds(Identity, st.text(min_size=1, max_size=4)), addresses)),
    st.tuples(addresses.map(lambda address: Identity(f"ip:{address_text(address)}")), addresses),
    st.sampled_from([(None, b"abcd"), (Identity("abcd"), None), (None, None), (Identity("ip:"), None)]),
)


@given(whose, whose, st.sampled_from([PREFIXES, Prefixes(8, 20)]))
def test_two_clients_have_two_names(
    one: tuple[Identity | None, Address | None], other: tuple[Identity | None, Address | None], prefixes: Prefixes
) -> None:
    """A name stands for the client that is charged: the verified subject, or the address if there is none."""

    def client(identity: Identity | None, address: Address | None) -> Client:
        return prefixes.clients(address).network if identity is None else token_client(identity)

    assert (prefixes.name(*one) == prefixes.name(*other)) is (client(*one) == client(*other))


@given(st.one_of(st.ip_addresses(v=4), st.ip_addresses(v=6)))
def test_the_text_of_an_address_is_canonical(address: IPv4Address | IPv6Address) -> None:
    """One text for each address, in lower case, which spells just this one."""
    text = address_text(address.packed)
    assert text is not None
    assert packed(text) == address.packed
    assert text == text.lower()
    if "." not in text or address.version == 4:  # inet_ntop spells ::192.0.2.1 with dots
        assert text == str(address)


def test_no_address_has_no_text() -> None:
    """A unix socket."""
    assert address_text(None) is None
