"""Records as the store keeps them, parsed on demand."""

from __future__ import annotations

from dataclasses import replace

import pytest

from shieldmw.core.api_keys import ApiKey
from shieldmw.core.client import Identity
from shieldmw.core.load import WorkerLoad
from shieldmw.core.seats import Audience
from shieldmw.store import records
from shieldmw.store.records import ApiKeyRecords, api_key_text, load_text, parse_load

DIGEST = "ab" * 32
TEXT = api_key_text(ApiKey(DIGEST, Identity("alice"), 1_700_000_000)).encode()


def test_whether_there_is_a_key_is_told_without_reading_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """A thousand seats are looked at in one go: each asks only whether its key is still kept."""
    monkeypatch.setattr(records, "parse_api_key", lambda name, value: pytest.fail("it was read"))
    texts = {DIGEST.encode(): TEXT}
    keys = ApiKeyRecords(texts)
    assert DIGEST in keys
    assert "cd" * 32 not in keys
    assert "\ud800" not in keys
    del texts[DIGEST.encode()]
    assert DIGEST not in keys


def test_half_a_character_is_no_text_of_ours() -> None:
    """JSON can spell what no encoding can: an operator's status would fail for it."""
    load = WorkerLoad("w", "host", 7, 1.0, 0, 0, 64, Audience(), Audience(), Audience(), 2000)
    text = load_text(load)
    assert parse_load(b"w", text.encode()) == load
    assert parse_load(b"w", text.replace('"host": "host"', '"host": "\\ud800"').encode()) is None


def test_a_report_of_an_older_release_is_read() -> None:
    """It does not say which mode the worker follows; during an upgrade both releases report."""
    load = WorkerLoad("w", "host", 7, 1.0, 0, 0, 64, Audience(), Audience(), Audience(), 2000, 3)
    text = load_text(load)
    assert parse_load(b"w", text.encode()) == load
    assert parse_load(b"w", text.replace(', "mode_version": 3', "").encode()) == replace(load, mode_version=None)


def test_a_key_that_cannot_be_read_proves_nobody() -> None:
    """Though something is kept under its digest."""
    keys = ApiKeyRecords({DIGEST.encode(): b"}{"})
    assert keys.get(DIGEST) is None
    assert list(keys) == []
