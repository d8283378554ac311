"""Server-sent events are read as a browser reads them."""

from __future__ import annotations

import pytest

from shieldmw.rehearsal.load.sse import Event, EventReader

STREAM = b'retry: 2500\n\nid: 7\nevent: line\ndata: {"id": 7}\n\n\n\nevent: shed\nretry: 3000\ndata: a\ndata: b\n\n'
EVENTS = [
    Event(retry_ms=2500),
    Event("line", '{"id": 7}', "7"),
    Event("shed", "a\nb", retry_ms=3000),
]


@pytest.mark.parametrize("size", [1, 2, 3, 7, 1000])
def test_events_are_found_however_the_stream_is_cut(size: int) -> None:
    """Chunks end anywhere; empty lines between events make no event."""
    reader = EventReader()
    chunks = [STREAM[at : at + size] for at in range(0, len(STREAM), size)]
    assert [event for chunk in chunks for event in reader.feed(chunk)] == EVENTS


@pytest.mark.parametrize(
    ("text", "event", "reason"),
    [
        (b"data: x\r\n\r\n", Event(data="x"), "lines may end with CRLF"),
        (b"data:x\n\n", Event(data="x"), "the space after the colon is optional"),
        (b"retry: soon\n\n", Event(), "a wait that is no number is none"),
        (b": nothing\nid: 1\n\n", Event(id="1"), "a comment says nothing"),
    ],
)
def test_each_field_is_read(text: bytes, event: Event, reason: str) -> None:
    """A table of one event each."""
    assert list(EventReader().feed(text)) == [event], reason


def test_an_event_without_its_empty_line_is_not_there_yet() -> None:
    """A stream that was cut has lost its last event."""
    assert list(EventReader().feed(b"event: shed\ndata: x\n")) == []
