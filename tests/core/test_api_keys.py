"""API keys: only keyed digests are kept."""

from __future__ import annotations

from hashlib import blake2b

from hypothesis import assume, given
from hypothesis import strategies as st

from shieldmw.core.api_keys import ApiKey, ApiKeyTable, derive_digest_key, digest
from shieldmw.core.client import Identity

KEY = "shield_0123456789abcdef"
DIGEST_KEY = derive_digest_key(b"s" * 32)


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
    entry = ApiKey(digest(KEY, DIGEST_KEY), Identity("alice"), 0)
    assert entry.id == entry.digest[:12]


def test_the_digest_key_is_never_shown() -> None:
    """A table in a log line or traceback keeps its digest key to itself."""
    assert repr(DIGEST_KEY) not in repr(ApiKeyTable(1, DIGEST_KEY, {}))
    assert DIGEST_KEY.hex() not in repr(ApiKeyTable(1, DIGEST_KEY, {}))
