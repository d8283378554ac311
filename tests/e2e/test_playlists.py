"""Players without cookies on real servers, which may send files by themselves: their ticket is in their URLs."""

from __future__ import annotations

import json
import re
import time
from pathlib import Path

import pytest

from e2e.clients import client, fresh_address
from servers import AsgiKind, asgi_server, wait_until

LEASE_S = 6
SETTINGS = {
    "SHIELD_RULES": json.dumps([{"name": "hls", "path": "/hls/*", "polled": True, "lease_seconds": LEASE_S}]),
    "SHIELD_TICKET_IN_PLAYLISTS": "true",
    "SHIELD_CAPACITY": "1",
    "SHIELD_IP_LIMIT": "off",
}
MASTER = """#EXTM3U
#EXT-X-MEDIA:TYPE=AUDIO,GROUP-ID="a",NAME="A, B",URI="a/live.m3u8"
#EXT-X-STREAM-INF:BANDWIDTH=1
live.m3u8
"""
MEDIA = "#EXTM3U\n#EXTINF:4,\n1.ts\nhttps://cdn.example.org/2.ts\n"
SEGMENT = bytes(range(256)) * 100


@pytest.mark.parametrize(("kind", "app"), [("shieldmw", "app"), ("uvicorn", "shielded"), ("hypercorn", "shielded")])
def test_a_player_without_cookies_keeps_its_seat(kind: AsgiKind, app: str, tmp_path: Path) -> None:
    """It asks for the same URL for longer than a lease, while another waits in vain for the only seat."""
    for name, content in ("master.m3u8", MASTER), ("live.m3u8", MEDIA):
        (tmp_path / name).write_text(content, "utf-8")
    (tmp_path / "1.ts").write_bytes(SEGMENT)
    with (
        asgi_server(kind, f"e2e.playlist_app:{app}", env=SETTINGS, cwd=tmp_path) as server,
        client(fresh_address()) as player,
        client(fresh_address()) as other,
    ):
        folder = f"{server.base_url}/hls"
        master = player.get(f"{folder}/master.m3u8").text
        player.cookies.clear()
        ticket = master.rpartition("?")[2].strip()
        assert re.fullmatch(r"shield_ticket=[A-Za-z0-9_.-]+", ticket)
        assert master == MASTER.replace('8"', f'8?{ticket}"').replace("8\n", f"8?{ticket}\n")
        segment = player.get(f"{folder}/1.ts?{ticket}")
        assert (segment.content, segment.headers["content-length"]) == (SEGMENT, str(len(SEGMENT)))

        began_s, seen = time.monotonic(), set()

        def polls_for_long() -> bool:
            answer = player.get(f"{folder}/live.m3u8?{ticket}").raise_for_status()
            player.cookies.clear()
            added = re.findall(r"\?(shield_ticket=.*)", answer.text)
            seen.update(added)
            assert answer.text == MEDIA.replace("1.ts", f"1.ts?{added[0]}")
            assert answer.headers["content-length"] == str(len(answer.content))
            assert other.get(f"{folder}/live.m3u8").status_code == 503
            return time.monotonic() - began_s > 2 * LEASE_S

        wait_until(polls_for_long, 4 * LEASE_S, "two leases to be over", server.log)
        assert len(seen) > 2, "its ticket was renewed, and it never took the new one"


MANIFEST = """<?xml version="1.0" encoding="utf-8"?>
<MPD xmlns="urn:mpeg:dash:schema:mpd:2011" type="dynamic" minimumUpdatePeriod="PT1S"><!-- as packaged -->
  <Period><AdaptationSet><SegmentTemplate media="$Number$.m4s?a=1&amp;b=2" duration="2"/></AdaptationSet></Period>
</MPD>
"""


def test_a_player_of_dash_without_cookies_keeps_its_seat(tmp_path: Path) -> None:
    """It asks where the manifest says, for longer than a lease, while another waits in vain for the only seat."""
    (tmp_path / "live.mpd").write_text(MANIFEST, "utf-8")
    with (
        asgi_server("shieldmw", "e2e.playlist_app:app", env=SETTINGS, cwd=tmp_path) as server,
        client(fresh_address()) as player,
        client(fresh_address()) as other,
    ):
        began_s, seen, location = time.monotonic(), set(), "live.mpd?quality=low"

        def polls_for_long() -> bool:
            nonlocal location
            answer = player.get(f"{server.base_url}/hls/{location}").raise_for_status()
            player.cookies.clear()
            (location,) = re.findall("<Location>(.*)</Location>", answer.text)
            location = location.replace("&amp;", "&")
            added = re.fullmatch(r"live\.mpd\?quality=low&(shield_ticket=[A-Za-z0-9_.-]+)", location)
            assert added
            seen.add(added[1])
            whole = answer.text.replace(f"&amp;{added[1]}", "").replace("<Location>live.mpd?quality=low</Location>", "")
            assert whole == MANIFEST
            assert answer.text.count(f"b=2&amp;{added[1]}") == 1
            assert other.get(f"{server.base_url}/hls/live.mpd").status_code == 503
            return time.monotonic() - began_s > 2 * LEASE_S

        wait_until(polls_for_long, 4 * LEASE_S, "two leases to be over", server.log)
        assert 2 < len(seen) < 9, "a new ticket with each lease, and not with each poll"
