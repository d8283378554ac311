"""EventSource in a real browser: evicted, refused, admitted again, and disconnected."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx

from docs.documents import INTEGRATION, blocks, section
from e2e.clients import TIMEOUT_S
from servers import HttpServer, asgi_server, chromium_page, wait_until

ADMIN_TOKEN = "the token of the operator"
(LISTEN_JS,) = blocks(section(INTEGRATION, "EventSource clients"), "js")

# What a page needs beyond the wait that it was told.
SLACK_S = 5.0


@contextmanager
def serving(tmp_path: Path, retry_after_s: int) -> Iterator[HttpServer]:
    """The event, with guests who wait so long once they are turned away."""
    env = {
        "SHIELD_REDIS_URL": "memory://",
        "SHIELD_ADMIN_TOKEN": ADMIN_TOKEN,
        "SHIELD_LIVE_PATHS": "/live",
        "SHIELD_EMERGENCY_IP_LIMIT": "off",
        "SHIELD_RETRY_AFTER": str(retry_after_s),
        "LISTEN_JS": LISTEN_JS,
    }
    with asgi_server("uvicorn", "listening_app:shielded", env=env, cwd=tmp_path) as server:
        yield server


def put_mode(server: HttpServer, mode: str, **more: int) -> None:
    """Flip the switch."""
    headers = {"authorization": f"Bearer {ADMIN_TOKEN}"}
    url = f"{server.base_url}/-/shield/mode"
    assert httpx.put(url, headers=headers, json={"mode": mode, **more}, timeout=TIMEOUT_S).status_code == 200


def test_the_code_of_the_documents_comes_back(tmp_path: Path) -> None:
    """It hears why it is sent away, and why it is refused then, waits as long as it was told, and is let in again."""
    with serving(tmp_path, 1) as server, chromium_page() as page:

        def heard(after: int = 0) -> list[Any]:
            found: list[Any] = page.evaluate("heard")
            return found[after:]

        page.goto(f"{server.base_url}/listening")
        wait_until(lambda: heard() == ["welcome"], TIMEOUT_S, "the first event", server.log)
        put_mode(server, "emergency")
        wait_until(lambda: len(heard()) >= 3, TIMEOUT_S, "a goodbye and a refusal", server.log)
        for problem in heard(1):
            assert (problem["status"], problem["title"]) == (503, "Fewer listeners for now")
            assert 1000 <= problem["retry_after_ms"] <= 1200
        put_mode(server, "normal")
        wait_until(lambda: heard()[-1] == "welcome", TIMEOUT_S, "the way back in", server.log)


def test_nobody_is_sent_away_for_longer_than_the_emergency(tmp_path: Path) -> None:
    """A guest without a seat is asked back when it ends, although SHIELD_RETRY_AFTER is longer."""
    with serving(tmp_path, 300) as server:
        put_mode(server, "emergency", for_seconds=40)
        answer = httpx.get(f"{server.base_url}/live", timeout=TIMEOUT_S)
    assert answer.status_code == 503
    assert 5_000 <= answer.json()["retry_after_ms"] <= 40_000
    assert 5 <= int(answer.headers["retry-after"]) <= 48


LISTENERS = 8
WAITS = """(count) => {
  window.waits = [];
  window.setTimeout = (_, wait_ms) => window.waits.push(wait_ms);
  for (let i = 0; i < count; i++) listen("/live", { message() {} });
}"""


def test_listeners_refused_together_do_not_return_together(tmp_path: Path) -> None:
    """The refusal's figure is the same for all; the code of the documents lengthens it by up to a fifth, at random."""
    wait_s = 60
    with serving(tmp_path, wait_s) as server, chromium_page() as page:
        put_mode(server, "emergency")
        page.goto(f"{server.base_url}/healthz")
        page.add_script_tag(content=LISTEN_JS)
        page.evaluate(WAITS, LISTENERS)
        wait_until(lambda: page.evaluate("waits.length") == LISTENERS, TIMEOUT_S, "all refusals", server.log)
        waits: list[float] = page.evaluate("waits")
    assert len(set(waits)) > LISTENERS / 2
    assert wait_s * 1000 <= min(waits) <= max(waits) <= wait_s * 1200


def test_a_long_wait_is_kept_for_once_only(tmp_path: Path) -> None:
    """A plain EventSource waits as long as the goodbye says, and is back at once when its next stream breaks."""
    wait_s = 8
    with serving(tmp_path, wait_s) as server, chromium_page() as page:

        def opened(times: int, patience_s: float) -> list[float]:
            wait_until(lambda: page.evaluate("opened.length") == times, patience_s, f"stream {times}", server.log)
            moments: list[float] = page.evaluate("opened")
            return moments

        page.goto(f"{server.base_url}/plain")
        opened(1, TIMEOUT_S)
        put_mode(server, "emergency")
        wait_until(lambda: page.evaluate("lost.length") == 1, TIMEOUT_S, "the goodbye", server.log)
        put_mode(server, "normal")
        opened(2, 2 * wait_s + SLACK_S)
        httpx.get(f"{server.base_url}/break", timeout=TIMEOUT_S)
        came = opened(3, 2 * wait_s + SLACK_S)
        went: list[float] = page.evaluate("lost")
        assert came[1] - went[0] >= wait_s * 1000
        assert came[2] - went[1] < (wait_s - 1) * 1000
