"""Key names: no text of a client becomes part of one, and one request's buckets share a slot."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from core.addresses import clients_at
from servers import RedisServer
from shieldmw.core.bucket import Charge
from shieldmw.core.client import Client, Identity, token_client
from shieldmw.core.limits import aggregate
from shieldmw.store.keys import Keys, Names
from store.stores import BUCKET_KEY, PREFIX, SECRET, all_keys, opened, run, slow_limit, take

HOSTILE = {
    "colons": "alice:ip:203.0.113.7",
    "a hash tag": "{alice}",
    "an open hash tag": "{",
    "a closed hash tag": "}x{}",
    "a line end": "alice\r\nFLUSHALL\r\n",
    "NUL": "alice\0bob",
    "one megabyte": "x" * 1_000_000,
    "a name of ours": "shield:secret",
    "glob characters": "*?[a-z]",
    "lone surrogates": "\ud800\udfff",
    "nothing": "",
    "beyond the BMP": "\U0001f399",
}


def keys(secret: bytes = SECRET, prefix: str = PREFIX) -> Keys:
    """The key names of one fleet."""
    return Keys(prefix, secret)


def charge(client: Client, name: str = "ip") -> Charge:
    """A charge of any cost: keys do not depend on it."""
    return Charge(client, slow_limit(10, name))


def hash_tag(key: str) -> str:
    """What Redis Cluster hashes of a key: between the first { and the next }."""
    return key[key.index("{") + 1 : key.index("}")]


@pytest.mark.parametrize("text", HOSTILE.values(), ids=HOSTILE.keys())
@pytest.mark.parametrize("kind", ["token", "ip"])
def test_no_text_of_a_client_is_in_a_key(kind: str, text: str) -> None:
    """Prefix, digests and the limit's name are all there is, whether or not the client is its own slot."""
    for slot in (f"{kind}:{text}", text, "ip:somewhere"):
        key = keys().bucket(charge(Client(kind, text, slot)))
        assert BUCKET_KEY.fullmatch(key)


@given(text=st.text(), other=st.text())
def test_different_clients_have_different_keys(text: str, other: str) -> None:
    """Two texts give one key exactly where they are the same, and a subject is never an address."""
    make = keys()
    first, second = (make.bucket(charge(Client("token", each, f"token:{each}"))) for each in (text, other))
    assert (first == second) == (text == other)
    assert first != make.bucket(charge(Client("ip", text, f"ip:{text}")))


@pytest.mark.parametrize("text", HOSTILE.values(), ids=HOSTILE.keys())
def test_a_hostile_client_leaves_only_clean_keys_in_the_server(server: RedisServer, text: str) -> None:
    """What lies in a real server after charges of such a client: buckets of the strict form, with their TTL."""

    async def work() -> None:
        client = Client("token", text, f"token:{text}")
        part = Client("token", text, "token:other")
        async with opened(server.url) as store:
            assert (await take(store, [charge(client), charge(client, "ip-2"), charge(part)])).allowed

    run(work())
    found = all_keys(server.client())
    assert len(found) == 3
    assert all(BUCKET_KEY.fullmatch(key) for key in found)


def test_a_64_shares_the_slot_of_its_56() -> None:
    """The buckets of an IPv6 address and of its site are of one slot, those of another site of another."""
    make = keys()
    tags = set()
    for address in ("2001:db8:0:0::1", "2001:db8:0:ff::1"):
        clients = clients_at(address)
        assert clients.site is not None
        names = [make.bucket(charge(clients.network)), make.bucket(Charge(clients.site, aggregate(slow_limit(10))))]
        assert len(set(names)) == 2
        tags |= {hash_tag(name) for name in names}
    assert len(tags) == 1
    elsewhere = clients_at("2001:db8:0:100::1")
    assert hash_tag(make.bucket(charge(elsewhere.network))) not in tags


def test_two_64s_of_one_56_have_buckets_of_their_own() -> None:
    """Sharing a slot is not sharing a bucket."""
    make = keys()
    one, two = (clients_at(text).network for text in ("2001:db8::1", "2001:db8:0:1::1"))
    assert make.bucket(charge(one)) != make.bucket(charge(two))


def test_the_same_client_always_has_the_same_key() -> None:
    """Any worker with the fleet's secret makes the same name; the cache of digests changes nothing."""
    client = token_client(Identity("alice"))
    make = keys()
    first = make.bucket(charge(client))
    for number in range(100):
        make.bucket(charge(token_client(Identity(f"subject {number}"))))
    assert make.bucket(charge(client)) == first == keys().bucket(charge(client))


def test_secret_and_prefix_separate_fleets() -> None:
    """Another secret gives other digests, so names say nothing without it; another prefix other names."""
    client = token_client(Identity("alice"))
    ours = keys().bucket(charge(client))
    assert hash_tag(keys(b"another secret").bucket(charge(client))) != hash_tag(ours)
    other = keys(prefix="other").bucket(charge(client))
    assert (other.partition(":")[0], other.partition(":")[2]) == ("other", ours.partition(":")[2])


def test_the_other_keys_are_no_buckets() -> None:
    """The secret and the API keys have names that no bucket can have."""
    for key in (Names(PREFIX).secret, Names(PREFIX).api_keys):
        assert key.startswith("shield:")
        assert not BUCKET_KEY.fullmatch(key)
