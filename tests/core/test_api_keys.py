"""API keys: only keyed digests are kept, and only the key itself proves its subject."""

from __future__ import annotations

from hashlib import blake2b, sha256

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from shieldmw.core.api_keys import ApiKey, ApiKeyTable, derive_digest_key, digest
from shieldmw.core.client import Identity, ListenerClass

KEY = "shield_0123456789abcdef"
ALICE = Identity("alice", ListenerClass.HOST)
DIGEST_KEY = derive_digest_key(b"s" * 32)


def table(digest_key: bytes = DIGEST_KEY) -> ApiKeyTable:
    entry = ApiKey(digest(KEY, DIGEST_KEY), ALICE, 1_700_000_000)
    return ApiKeyTable(1, digest_key, {entry.digest: entry})


@pytest.mark.parametrize(
    ("presented", "identity"),
    [
        pytest.param(KEY, ALICE, id="the-key"),
        pytest.param(KEY.upper(), None, id="in-another-case"),
        pytest.param(KEY + " ", None, id="with-a-space-behind"),
        pytest.param(KEY[:-1], None, id="one-character-short"),
        pytest.param("", None, id="nothing"),
        pytest.param(digest(KEY, DIGEST_KEY), None, id="its-own-digest-as-found-in-a-stolen-store"),
        pytest.param(sha256(KEY.encode()).hexdigest(), None, id="its-plain-hash"),
        pytest.param("\ud800", None, id="a-lone-surrogate"),
        pytest.param("\x00", None, id="a-nul"),
    ],
)
def test_only_the_key_itself_proves_its_subject(presented: str, identity: Identity | None) -> None:
    """What is presented proves a subject only where it is the key, to the letter."""
    assert table().find(presented) == identity


def test_a_table_under_another_secret_knows_none_of_its_keys() -> None:
    """The digests are keyed: a table carried to a shield of another secret proves nothing."""
    assert table(derive_digest_key(b"t" * 32)).find(KEY) is None


@given(st.text(), st.text())
def test_different_keys_have_different_digests(first: str, second: str) -> None:
    """Any text can be presented, and no two have the same digest."""
    assume(first != second)
    assert digest(first, DIGEST_KEY) != digest(second, DIGEST_KEY)


def test_a_digest_is_keyed_and_256_bits_long() -> None:
    """A digest is 64 hex digits that say nothing without the shield's secret."""
    assert len(digest(KEY, DIGEST_KEY)) == 64
    assert digest(KEY, DIGEST_KEY) != digest(KEY, derive_digest_key(b"t" * 32))
    assert digest(KEY, DIGEST_KEY) != blake2b(KEY.encode(), digest_size=32).hexdigest()


def test_the_key_of_the_digests_is_not_the_secret() -> None:
    """The digest key is derived, so that it gives away neither the secret nor other keys made of it."""
    assert b"s" * 32 not in DIGEST_KEY
    assert blake2b(b"s" * 32, digest_size=32).digest() != DIGEST_KEY
    assert len(DIGEST_KEY) == 32


def test_a_key_is_named_by_the_beginning_of_its_digest() -> None:
    """The id in lists and logs is taken from the digest, never from the key."""
    entry = ApiKey(digest(KEY, DIGEST_KEY), ALICE, 0)
    assert entry.id == entry.digest[:12]


def test_the_digest_key_is_never_shown() -> None:
    """A table in a log line or traceback keeps its digest key to itself."""
    assert repr(DIGEST_KEY) not in repr(table())
    assert DIGEST_KEY.hex() not in repr(table())
