"""The sound of the event as HLS: a live playlist that loops over a few files, and a recording made of the same.

A segment is packed audio (AAC), so it begins with an ID3 tag that holds its time (RFC 8216, section 3.4). The tag is
made for each number, so the sound never breaks off, and all workers agree without communicating.
"""

from collections.abc import Iterable
from pathlib import Path

# As the files were made: frames of a segment, samples of a frame, samples of a second.
SEGMENT_S = 43 * 1024 / 22050
FILES = tuple(path.read_bytes() for path in sorted(Path(__file__).parent.joinpath("sound").glob("*.aac")))

SEGMENTS_OF_PLAYLIST = 6
SEGMENTS_OF_RECORDING = 15

PLAYLIST_TYPE = "application/vnd.apple.mpegurl"
SEGMENT_TYPE = "audio/aac"

_TICKS_PER_S = 90_000
_OWNER = b"com.apple.streaming.transportStreamTimestamp\0"


def live_playlist(now_s: float) -> str:
    """The playlist at a Unix time: the last segments that are complete."""
    end = int(now_s / SEGMENT_S)
    return _playlist(range(end - SEGMENTS_OF_PLAYLIST, end))


def recorded_playlist() -> str:
    """The playlist of the recording, which has an end."""
    return _playlist(range(SEGMENTS_OF_RECORDING), "recording/") + "#EXT-X-ENDLIST\n"


def is_live(number: int, now_s: float) -> bool:
    """Whether a segment has been complete for less than a minute."""
    return 0 < now_s - (number + 1) * SEGMENT_S < 60


def segment(number: int) -> bytes:
    """A segment, with its time."""
    ticks = round(number * SEGMENT_S * _TICKS_PER_S) % (1 << 33)
    frame = _OWNER + ticks.to_bytes(8, "big")
    tag = b"PRIV" + _synchsafe(len(frame)) + b"\0\0" + frame
    return b"ID3\4\0\0" + _synchsafe(len(tag)) + tag + FILES[number % len(FILES)]


def _playlist(numbers: range, folder: str = "") -> str:
    head = ("#EXTM3U", "#EXT-X-VERSION:3", "#EXT-X-TARGETDURATION:2", f"#EXT-X-MEDIA-SEQUENCE:{numbers.start}")
    segments: Iterable[str] = (f"#EXTINF:{SEGMENT_S:.5f},\n{folder}{number}.aac" for number in numbers)
    return "\n".join((*head, *segments, ""))


def _synchsafe(length: int) -> bytes:
    """A length in ID3, seven bits a byte."""
    return bytes(length >> shift & 0x7F for shift in (21, 14, 7, 0))
