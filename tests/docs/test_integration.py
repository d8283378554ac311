"""The code in docs/integration.md does what its text says."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jwt
import pytest

from docs.documents import blocks, section
from doors.asgi.harness import NO_BODY, Record, body, call, http_scope, run
from doors.asgi.shields import ok
from e2e.clients import JWT_SECRET, ask, client, fresh_address
from servers import REPOSITORY, HttpServer, asgi_server, chromium_page, nginx, wait_until
from shieldmw import Identity, Settings, ShieldMiddleware
from shieldmw.doors.asgi.cors import Cors

INTEGRATION = (REPOSITORY / "docs" / "integration.md").read_text("utf-8")
WAIT_S = 20.0
TOKEN = "an admin token, long enough"


def code(heading: str, language: str) -> list[str]:
    """The code of one language in a section."""
    return blocks(section(INTEGRATION, heading), language)


def settings_of(heading: str) -> dict[str, str]:
    """The variables that a section says to set."""
    lines = "".join(code(heading, "sh")).splitlines()
    return dict(line.split("=", 1) for line in lines)


# --- behind a proxy -------------------------------------------------------------------------------


def test_behind_a_proxy(tmp_path: Path) -> None:
    """With these settings and these lines of nginx a client has its own address, and forges none."""
    (lines,) = code("Behind a proxy", "nginx")
    environment = {**settings_of("Behind a proxy"), "SHIELD_IP_LIMIT": "2/hour"}
    with (
        asgi_server("uvicorn", "e2e.shielded_app:shielded", env=environment, cwd=tmp_path) as app,
        nginx(app.base_url, forwarded_for="pass", extra=lines) as proxy,
    ):
        forged = [("X-Forwarded-For", "203.0.113.7")]
        for address in fresh_address(), fresh_address():
            answers = [ask(proxy, address, "/who", forged) for _ in range(3)]
            assert [answer.status for answer in answers] == [200, 200, 429]
            assert json.loads(answers[0].body)["address"] == address
            with client(address) as guest:
                assert guest.post(f"{proxy.base_url}/echo", content=b"x" * 3_000_000).status_code == 429


# --- CORS -----------------------------------------------------------------------------------------

PUTS = """async ([url, count]) => {
  const told = [];
  for (let i = 0; i < count; i++) {
    const options = { method: "PUT", headers: { "Content-Type": "application/json" }, body: "{}" };
    const answer = await fetch(url, options);
    told.push([answer.status, await waitToldBy(answer), answer.headers.get("RateLimit")]);
  }
  return told;
}"""


@pytest.fixture
def other_origin(tmp_path: Path) -> Iterator[HttpServer]:
    """A server of pages."""
    with asgi_server("uvicorn", "apps:app", env={}, cwd=tmp_path) as server:
        yield server


def test_a_page_of_another_origin_reads_a_refusal(other_origin: HttpServer, tmp_path: Path) -> None:
    """In a real browser: preflights cost nothing of the limit, and the 429 and its wait can be read."""
    (app,), (script,), environment = code("CORS", "python"), code("CORS", "js"), settings_of("CORS")
    (origin,) = environment.values()
    exposed = dict(Cors(["*"]).headers({}))[b"access-control-expose-headers"].decode().split(", ")
    assert f"expose_headers={json.dumps(exposed)}," in app, "the app's own CORS exposes what a refusal does"
    served = app.replace(origin, other_origin.base_url) + "\n\n@app.put('/x')\nasync def x() -> None: ...\n"
    (tmp_path / "app.py").write_text(served, "utf-8")
    environment = {"SHIELD_CORS_ORIGINS": other_origin.base_url, "SHIELD_IP_LIMIT": "2/hour"}
    with asgi_server("uvicorn", "app:app", env=environment, cwd=tmp_path) as server, chromium_page() as page:
        page.goto(f"{other_origin.base_url}/healthz")
        page.add_script_tag(content=script)
        told = page.evaluate(PUTS, [f"{server.base_url}/x", 4])
    assert [status for status, *_ in told] == [200, 200, 429, 429]
    assert [wait > 0 for _, wait, _ in told] == [False, False, True, True]
    assert all(limit.startswith('"ip";') for *_, limit in told), "of what is admitted as well"


# --- WebSocket clients ----------------------------------------------------------------------------

LISTENS = """([path, protocols]) => new Promise((done) => {
  const url = location.origin.replace("http", "ws") + path;
  const onwait = (seconds, code) => done([code, seconds]);
  listen(url, { protocols, onmessage() {}, onwait, onend: (code, reason) => done([code, reason]) });
})"""
ENDS = {"SHIELD_DENY_IPS": "127.0.0.1"}
# In an emergency without seats for guests, on a live path.
NO_SEAT = {
    "SHIELD_LIVE_PATHS": "/ws",
    "SHIELD_CAPACITY": "5",
    "SHIELD_ADMIN_TOKEN": TOKEN,
    "SHIELD_RETRY_AFTER": "60",
}


@pytest.mark.parametrize("refusals", ["http", "close"])
def test_a_websocket_client_waits_for_as_long_as_told(refusals: str, tmp_path: Path) -> None:
    """In a real browser: by the reason of 1013, or after 1006 by asking over HTTP."""
    environment = {**settings_of("WebSocket clients"), **NO_SEAT, "SHIELD_WEBSOCKET_REFUSALS": refusals}
    with asgi_server("uvicorn", "e2e.shielded_app:shielded", env=environment, cwd=tmp_path) as server:
        _emergency(server)
        code_seen, seconds = _listen(server, ["chat"])
    assert code_seen == (1013 if refusals == "close" else 1006)
    assert 60 <= seconds <= 72


def test_a_websocket_client_stays_away_where_it_is_not_wanted(tmp_path: Path) -> None:
    """1008 ends it."""
    environment = {**settings_of("WebSocket clients"), **ENDS}
    with asgi_server("uvicorn", "e2e.shielded_app:shielded", env=environment, cwd=tmp_path) as server:
        code_seen, reason = _listen(server, [])
    assert code_seen == 1008
    assert reason.startswith("Abnormal usage detected")


RENEWS = """([first, second]) => {
  window.seen = [];
  const url = location.origin.replace("http", "ws") + "/chat";
  const renew = second && (async () => ["chat", "bearer." + second]);
  listen(url, {
    protocols: ["chat", "bearer." + first],
    renew,
    onmessage: ({ data }) => window.seen.push(data),
    onend: (code, reason) => window.seen.push(`${code} ${reason}`),
  });
}"""


@pytest.mark.parametrize("renews", [True, False], ids=["with a new token", "without one"])
def test_a_websocket_client_whose_token_is_over(renews: bool, tmp_path: Path) -> None:
    """In a real browser: it returns with a new token as the same member; where it has none the page is told."""
    (function,) = code("WebSocket clients", "python")
    said = "await websocket.send_text(str(websocket.scope['shield'].identity.subject))"
    app = chat_app(f"{function}\n    {said}\n    await websocket.receive()\n")
    (tmp_path / "app.py").write_text(app, "utf-8")
    environment = {
        **settings_of("WebSocket clients"),
        "SHIELD_LIVE_PATHS": "/chat",
        "SHIELD_JWT_SECRET": JWT_SECRET,
        "SHIELD_JWT_LEEWAY": "0",
    }
    with asgi_server("uvicorn", "app:app", env=environment, cwd=tmp_path) as server, chromium_page() as page:
        page.goto(f"{server.base_url}/healthz")
        page.add_script_tag(content=code("WebSocket clients", "js")[0])
        page.evaluate(RENEWS, [token("ada", 3), token("ada", 600) if renews else None])
        expected = ["ada", "ada" if renews else "1008 credential ended"]
        wait_until(lambda: page.evaluate("() => window.seen") == expected, WAIT_S, "the second message", server.log)


def token(subject: str, lives_s: int) -> str:
    """A token of a member."""
    return jwt.encode({"sub": subject, "exp": int(time.time()) + lives_s}, JWT_SECRET, algorithm="HS256")


def chat_app(function: str) -> str:
    """The source of a shielded app whose route ``/chat`` is the function."""
    return (
        "from starlette.applications import Starlette\nfrom starlette.responses import PlainTextResponse\n"
        "from starlette.routing import Route, WebSocketRoute\nfrom shieldmw import ShieldMiddleware\n"
        f"{function}\n"
        "routes = [Route('/healthz', lambda _: PlainTextResponse('ok')), WebSocketRoute('/chat', chat)]\n"
        "app = ShieldMiddleware(Starlette(routes=routes))\n"
    )


def test_a_websocket_client_comes_back(tmp_path: Path) -> None:
    """When the wait is over it connects again, and is heard."""
    environment = {**settings_of("WebSocket clients"), "SHIELD_IP_LIMIT": "1/second"}
    app = "e2e.shielded_app:shielded"
    with asgi_server("uvicorn", app, env=environment, cwd=tmp_path) as server, chromium_page() as page:
        page.goto(f"{server.base_url}/healthz")
        page.add_script_tag(content=code("WebSocket clients", "js")[0])
        page.evaluate(
            """() => {
              window.codes = [];
              window.opened = 0;
              const Real = WebSocket;
              window.WebSocket = class extends Real {
                constructor(...given) { super(...given); this.addEventListener("open", () => this.send("x")); }
              };
              const url = location.origin.replace("http", "ws") + "/ws";
              const onmessage = () => { window.opened++; };
              for (let i = 0; i < 3; i++) listen(url, { onmessage, onwait: (_, code) => window.codes.push(code) });
            }"""
        )
        wait_until(lambda: page.evaluate("() => window.opened") == 3, WAIT_S, "all three to be heard", server.log)
        assert set(page.evaluate("() => window.codes")) == {1013}


def test_a_token_among_the_subprotocols_is_not_repeated(tmp_path: Path) -> None:
    """In a real browser: the app accepts with its own subprotocol, and that is what the page has."""
    (function,) = code("WebSocket clients", "python")
    _, opens = code("WebSocket clients", "js")
    (tmp_path / "app.py").write_text(chat_app(f"{function}\n    await websocket.close()\n"), "utf-8")
    environment = settings_of("WebSocket clients")
    script = f"([url, token]) => new Promise((done) => {{ const socket = {opens.strip()} {OPENED} }})"
    with asgi_server("uvicorn", "app:app", env=environment, cwd=tmp_path) as server, chromium_page() as page:
        page.goto(f"{server.base_url}/healthz")
        assert page.evaluate(script, [f"{server.ws_url}/chat", "x" * 40]) == "chat"


OPENED = "socket.onopen = () => done(socket.protocol); socket.onclose = (event) => done(event.code);"


def _listen(server: HttpServer, protocols: list[str]) -> Any:
    """What the client of the document does after its first connection has ended."""
    with chromium_page() as page:
        page.goto(f"{server.base_url}/healthz")
        page.add_script_tag(content=code("WebSocket clients", "js")[0])
        return page.evaluate(LISTENS, ["/ws", protocols])


def _emergency(server: HttpServer) -> None:
    with client("127.0.0.1", {"authorization": f"Bearer {TOKEN}"}) as operator:
        change = {"mode": "emergency", "for_seconds": 600, "reason": "a test"}
        assert operator.put(f"{server.base_url}/-/shield/mode", json=change).status_code == 200


# --- HLS and other polled media -------------------------------------------------------------------


async def by_cookie(scope: Any) -> Identity | None:
    """The host app's own check: who has a cookie is a member."""
    return Identity("ada") if any(name == b"cookie" for name, _ in scope["headers"]) else None


def test_rules_for_polled_media() -> None:
    """The playlist holds a seat, segments do not; in an emergency without seats for guests only members have either."""
    (rules,) = code("HLS and other polled media", "json")
    playlist, segment = http_scope("/hls/live.m3u8"), http_scope("/hls/720p/17.ts")
    member = [(b"cookie", b"session=x")]

    async def watching() -> tuple[list[Record], list[Record], list[Record]]:
        shield = ShieldMiddleware(ok, Settings(rules=rules, admin_token=TOKEN, capacity=9), authenticate=by_cookie)
        polls = [await call(shield, playlist, NO_BODY) for _ in range(31)]
        pieces = [await call(shield, segment, NO_BODY) for _ in range(121)]
        change = json.dumps({"mode": "emergency", "for_seconds": 60, "reason": "a test"}).encode()
        headers = [(b"authorization", f"Bearer {TOKEN}".encode()), (b"content-type", b"application/json")]
        await call(shield, http_scope("/-/shield/mode", "PUT", headers=headers), body(change))
        other = [{**scope, "client": ("203.0.113.99", 1)} for scope in (playlist, segment)]
        guest = [await call(shield, scope, NO_BODY) for scope in other]
        asked = [http_scope(scope["path"], headers=member) for scope in (playlist, segment)]
        async with asyncio.timeout(WAIT_S):
            while (await call(shield, asked[0], NO_BODY)).status == 503:  # noqa: ASYNC110  (until seats are divided)
                await asyncio.sleep(0.01)
        return polls, pieces, [*guest, *[await call(shield, scope, NO_BODY) for scope in asked]]

    polls, pieces, in_emergency = run(watching())
    assert [record.status for record in polls] == [200] * 30 + [429]
    assert [len(record.values(b"shield-ticket")) for record in (polls[0], pieces[0])] == [1, 0]
    assert [record.status for record in pieces] == [200] * 120 + [429]
    assert [record.status for record in in_emergency] == [503, 503, 200, 200]


HLS_SETTINGS = {
    "SHIELD_RULES": '[{"name": "hls", "path": "/hls/live.m3u8", "polled": true, "lease_seconds": 6}]',
    "SHIELD_CAPACITY": "1",
    "SHIELD_RETRY_AFTER": "2",
    "SHIELD_IP_LIMIT": "off",
}
PLAYS = """() => {
  document.body.innerHTML = "<audio id='media' muted></audio>";
  const media = document.getElementById("media");
  window.told = [];
  window.away = (problem, seconds) => told.push([problem.title, seconds]);
  play(media, "/hls/live.m3u8", { away });
  media.play();
}"""


def test_a_page_waits_as_long_as_its_player_is_told() -> None:
    """The page's player with hls.js is refused once for each wait, knows why, and plays when there is a seat."""
    (script,) = code("HLS and other polled media", "js")
    event = REPOSITORY / "examples" / "live_event"
    with asgi_server("shieldmw", "app:app", env=HLS_SETTINGS, cwd=event) as server, chromium_page() as page:
        with client(fresh_address()) as other:
            other.get(f"{server.base_url}/hls/live.m3u8").raise_for_status()
        page.goto(f"{server.base_url}/recording")
        page.add_script_tag(url="/hls.js")
        page.add_script_tag(content=script)
        asked = []
        page.on("response", lambda answer: asked.append(answer.status) if "live.m3u8" in answer.url else None)
        page.evaluate(PLAYS)
        wait_until(lambda: page.evaluate("media.currentTime") > 0.5, WAIT_S, "a seat and the sound")
        told = page.evaluate("told")
        assert {title for title, _ in told} == {"Fewer listeners for now"}
        assert all(2 <= seconds <= 3 for _, seconds in told)
        assert asked.count(503) == len(told), "no second try before its time"
