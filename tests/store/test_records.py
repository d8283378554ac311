"""Records as the store keeps them, parsed on demand."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from shieldmw.core.api_keys import ApiKey
from shieldmw.core.client import Identity
from shieldmw.core.distinct import KEPT, Distinct
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
    """It does not say which mode the worker follows, nor whom it turned away; in an upgrade both releases report."""
    told = Distinct(2, (3, 4)), Distinct(), Distinct(KEPT + 1, tuple(range(KEPT)))
    load = WorkerLoad("w", "host", 7, 1.0, 0, 0, 64, Audience(), Audience(), Audience(), 2000, 3, told)
    assert parse_load(b"w", load_text(load).encode()) == load
    values = json.loads(load_text(load))
    del values["mode_version"], values["unseated"]
    older = replace(load, mode_version=None, unseated=(Distinct(), Distinct(), Distinct()))
    assert parse_load(b"w", json.dumps(values).encode()) == older


def test_the_longest_report_is_read() -> None:
    """With the largest numbers that are reported, and the longest name of a host."""
    large = 2**53
    hashes = Distinct(large, tuple(2**32 - 1 - number for number in range(KEPT))[::-1])
    counts = (Audience(large, large, large),) * 3
    load = WorkerLoad("w", "h" * 255, 2**31, 1e10, *(large,) * 3, *counts, large, large, (hashes, hashes, hashes))
    assert parse_load(b"w", load_text(load).encode()) == load


def test_a_key_that_cannot_be_read_proves_nobody() -> None:
    """Though something is kept under its digest."""
    keys = ApiKeyRecords({DIGEST.encode(): b"}{"})
    assert keys.get(DIGEST) is None
    assert list(keys) == []
