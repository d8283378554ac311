"""The examples run as documented, answer, and are limited."""

from __future__ import annotations

import json
import re
import socket
import subprocess
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import pytest
from websockets.sync.client import connect

from e2e.clients import JWT_SECRET, TIMEOUT_S, ask, client, fresh_address
from servers import REPOSITORY, HttpServer, asgi_server, chromium_page, require, wait_until
from servers.http import ready
from servers.places import on_free_port, own_directory
from servers.processes import end_group, spawn

if TYPE_CHECKING:
    from playwright.sync_api import Page

EXAMPLES = REPOSITORY / "examples"
BURST, MEMBERS_BURST = 5, 7
SETTINGS = {
    "SHIELD_IP_LIMIT": f"{BURST}/hour",
    "SHIELD_TOKEN_LIMIT": f"{MEMBERS_BURST}/hour",
    "SHIELD_REDIS_TIMEOUT_MS": "5000",
}
# As in examples/README.md and examples/nginx/README.md.
LIVE_EVENT_SETTINGS = {
    **SETTINGS,
    "SHIELD_JWT_SECRET": JWT_SECRET,
    "SHIELD_JWT_AUDIENCE": "live-event",
    "SHIELD_JWT_ISSUER": "live-event",
    "SHIELD_TOKEN_QUERY": "token",
    "SHIELD_RECORDING_URL": "http://127.0.0.1:8000/recording",
    "SHIELD_TRUSTED_PROXIES": "127.0.0.1/32,::1/128",
    "LIVE_EVENT_HOSTS": "Mira,Jo",
}


# --- the live event -------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def live_event() -> Iterator[HttpServer]:
    """The live event under `shieldmw serve`."""
    folder = EXAMPLES / "live_event"
    with asgi_server("shieldmw", "app:app", env=LIVE_EVENT_SETTINGS, cwd=folder) as server:
        yield server


def _sign_in(server: HttpServer, name: str) -> str:
    """A token for a name, as the page gets it."""
    with client(fresh_address()) as guest:
        return str(guest.post(f"{server.base_url}/sign-in", json={"name": name}).raise_for_status().json()["token"])


def test_the_live_event_answers_and_is_limited(live_event: HttpServer) -> None:
    """A guest gets the pages and the API, then a refusal that points to the recording."""
    address = fresh_address()
    with client(address) as guest:
        paths = ("/", "/recording", "/api/programme", "/api/now", "/api/me")
        answers = [guest.get(f"{live_event.base_url}{path}") for path in paths]
        refused = guest.get(f"{live_event.base_url}/api/now")
    assert [answer.status_code for answer in answers] == [200] * BURST
    assert answers[-1].json()["client_address"] == address
    assert refused.status_code == 429
    assert refused.json()["recording_url"] == LIVE_EVENT_SETTINGS["SHIELD_RECORDING_URL"]


@pytest.mark.parametrize(("name", "listener_class"), [("Ada", "member"), ("Mira", "host")])
def test_who_signs_in_is_a_client_of_its_own(live_event: HttpServer, name: str, listener_class: str) -> None:
    """The token of the sign-in makes a member, or a host, with a bucket of its own."""
    with client(fresh_address(), {"authorization": f"Bearer {_sign_in(live_event, name)}"}) as member:
        answers = [member.get(f"{live_event.base_url}/api/me") for _ in range(MEMBERS_BURST + 1)]
    assert (answers[0].json()["identity"], answers[0].json()["listener_class"]) == (name, listener_class)
    assert [answer.status_code for answer in answers] == [200] * MEMBERS_BURST + [429]


def test_a_question_can_be_read_by_others(live_event: HttpServer) -> None:
    """What one member asks is there for the next."""
    headers = {"authorization": f"Bearer {_sign_in(live_event, 'Eve')}"}
    with client(fresh_address(), headers) as member:
        member.post(f"{live_event.base_url}/api/question", json={"question": "When?"}).raise_for_status()
        asked = member.get(f"{live_event.base_url}/api/questions").raise_for_status().json()
    assert {"from": "Eve", "question": "When?"} in asked


def test_the_live_stream_and_the_chat_work(live_event: HttpServer) -> None:
    """Events come, a message returns under the name that signed in, and both take their token from the query."""
    token, address = _sign_in(live_event, "Bob"), fresh_address()
    stream = f"{live_event.base_url}/live?token={token}"
    with client(address) as member, member.stream("GET", stream) as answer:
        came = answer.iter_lines()
        assert next(line for line in came if line.startswith("event: ")) == "event: line"
        assert answer.headers["ratelimit-policy"].startswith('"token"')
    url = f"{live_event.ws_url}/chat?token={token}"
    with connect(url, source_address=(address, 0), open_timeout=TIMEOUT_S) as chat:
        assert '"you":"Bob"' in str(chat.recv(TIMEOUT_S)).replace(" ", "")
        chat.send("hello")
        assert '"from":"Bob","text":"hello"' in str(chat.recv(TIMEOUT_S)).replace(" ", "")


# --- its sound ------------------------------------------------------------------------------------

ADMIN_TOKEN = "an admin token, long enough"
LEASE_S = 6
# A cut refuses all guests within 12 s and a lease; then a page needs its answer.
CUT_S = 12 + LEASE_S + 12
SOUND_SETTINGS = {
    **LIVE_EVENT_SETTINGS,
    "SHIELD_IP_LIMIT": "off",
    "SHIELD_EMERGENCY_IP_LIMIT": "off",
    "SHIELD_RULES": json.dumps([{"name": "sound", "path": "/hls/live.m3u8", "polled": True, "lease_seconds": LEASE_S}]),
    "SHIELD_CAPACITY": "10",
    "SHIELD_RETRY_AFTER": "2",
    "SHIELD_ADMIN_TOKEN": ADMIN_TOKEN,
}
REDIRECTED = {
    "SHIELD_RECORDING_URL": "http://127.0.0.1:{port}/recording.m3u8",
    "SHIELD_REDIRECT_TO_RECORDING": "true",
}


def _switch(server: HttpServer, mode: str) -> None:
    """As `shieldmw mode` does."""
    headers = {"authorization": f"Bearer {ADMIN_TOKEN}"}
    with client(fresh_address(), headers) as operator:
        operator.put(f"{server.base_url}/-/shield/mode", json={"mode": mode, "reason": "a test"}).raise_for_status()


def _hears(page: Page, what: str, within_s: float = 20) -> None:
    """Wait until the page says what is heard, and until it is: the player's time goes on."""
    heard_s = "document.getElementById('audio').currentTime"
    wait_until(lambda: page.inner_text("#sound-state") == what, within_s, what)
    before_s = page.evaluate(heard_s)
    wait_until(lambda: page.evaluate(heard_s) > before_s + 0.5, within_s, "the player to play")


def _leased(server: HttpServer) -> int:
    """How many guests hold a lease seat, by the status of the fleet."""
    with client(fresh_address(), {"authorization": f"Bearer {ADMIN_TOKEN}"}) as operator:
        status = operator.get(f"{server.base_url}/-/shield/status").raise_for_status().json()
    return int(status["leased"]["guest"])


def _loads_from(page: Page, folder: str) -> None:
    """Wait until the last segment that the player loaded is of this folder."""

    def last() -> str:
        loaded = page.evaluate("performance.getEntriesByType('resource').map((entry) => entry.name)")
        paths = [urlsplit(address).path for address in loaded if address.endswith(".aac")]
        return paths[-1] if paths else ""

    wait_until(lambda: last().rpartition("/")[0] == folder, 20, f"a segment of {folder}")


def _notice(page: Page) -> str:
    return page.inner_text("#notice") if page.is_visible("#notice") else ""


@pytest.mark.parametrize("extra", [{}, REDIRECTED], ids=["told why", "redirected"])
def test_the_sound_is_cut_for_guests_and_comes_back(extra: dict[str, str]) -> None:
    """In a real browser with hls.js: it plays; in the cut the page tells why, or plays the recording, if its player is
    redirected; afterwards it plays on by itself.
    """
    folder = EXAMPLES / "live_event"
    with (
        asgi_server("shieldmw", "app:app", env={**SOUND_SETTINGS, **extra}, cwd=folder) as server,
        chromium_page() as page,
    ):
        page.goto(server.base_url)
        page.click("#sound")
        _hears(page, "You hear the event live.")
        _loads_from(page, "/hls")
        assert _notice(page) == ""
        wait_until(lambda: _leased(server) == 1, 10, "the listener to be counted", server.log)
        _switch(server, "emergency")
        if extra:
            _hears(page, "You hear the recording.", CUT_S)
            _loads_from(page, "/recording")
        else:
            page.wait_for_selector("#notice:visible", timeout=CUT_S * 1000)
            wait_until(
                lambda: page.inner_text("#sound-state") == "The sound waits for a seat.", 10, "the sound to stop"
            )
            assert "in again" not in _notice(page)
            assert "Listen to the recording" in _notice(page)
            page.click("#toggle")
            page.click("#toggle")
            page.wait_for_selector("#badge:text-is('LIVE')")  # this says nothing of the sound
        assert "Fewer listeners for now" in _notice(page)
        wait_until(lambda: _leased(server) == 0, 10, "the listener to be gone", server.log)
        _switch(server, "normal")
        _hears(page, "You hear the event live.", 40)
        _loads_from(page, "/hls")
        assert _notice(page) == ""
        wait_until(lambda: _leased(server) == 1, 10, "the listener to be counted again", server.log)


# --- nginx ----------------------------------------------------------------------------------------


@pytest.fixture
def nginx_conf(live_event: HttpServer) -> Iterator[Path]:
    """The example's configuration in a folder of its own, with no change but of the app's port."""
    text = (EXAMPLES / "nginx" / "nginx.conf").read_text("utf-8")
    with own_directory() as folder:
        changed = text.replace("127.0.0.1:8000;", f"127.0.0.1:{live_event.port};")
        assert changed != text
        (folder / "nginx.conf").write_text(changed, "utf-8")
        yield folder / "nginx.conf"


def _command(conf: Path, *more: str) -> list[str]:
    """As examples/nginx/README.md calls nginx."""
    return [require("nginx"), "-e", "stderr", "-p", str(conf.parent), "-c", str(conf), *more]


def _listen_on(conf: Path, port: int) -> None:
    """Put a free port in place of 8080, on IPv4 alone where this machine has no IPv6."""
    text = re.sub(r"8080;", f"{port};", conf.read_text("utf-8"))
    has_ipv6 = False
    with suppress(OSError), socket.create_server(("::1", 0), family=socket.AF_INET6):
        has_ipv6 = True
    conf.write_text(text if has_ipv6 else re.sub(r"listen \[::\].*;", "", text), "utf-8")


def test_the_nginx_example_is_valid(nginx_conf: Path) -> None:
    """`nginx -t` accepts the configuration without a warning."""
    result = on_free_port(lambda port: _tested(nginx_conf, port))
    assert "syntax is ok" in result
    assert "[warn]" not in result.replace('the "user" directive', "")


def _tested(conf: Path, port: int) -> str:
    _listen_on(conf, port)
    result = subprocess.run(_command(conf, "-t"), capture_output=True, check=False, text=True)
    assert result.returncode == 0, result.stderr
    return result.stderr


def test_the_nginx_example_keeps_clients_apart(nginx_conf: Path) -> None:
    """Behind nginx the live event sees each client's own address, limits it, and believes no forged header."""

    def start(port: int) -> HttpServer:
        _listen_on(nginx_conf, port)
        log = nginx_conf.parent / "log"
        process = spawn(_command(nginx_conf, "-g", "daemon off;"), log, nginx_conf.parent)
        return ready(HttpServer(port, process, log), "nginx", "/healthz")

    proxy = on_free_port(start)
    try:
        for address in fresh_address(), fresh_address():
            forged = [(name, "203.0.113.7") for name in ("X-Forwarded-For", "X-Real-IP", "Forwarded")]
            answers = [ask(proxy, address, "/api/me", forged) for _ in range(BURST + 1)]
            assert [answer.status for answer in answers] == [200] * BURST + [429]
            assert f'"client_address":"{address}"'.encode() in answers[0].body
        with client(fresh_address()) as guest, guest.stream("GET", f"{proxy.base_url}/live") as answer:
            assert next(answer.iter_lines()).startswith("retry:")
        for path in "/-/shield/status", "/%2d//shield/status":
            answered = ask(proxy, fresh_address(), path)
            assert (answered.status, b"nginx" in answered.body) == (404, True), "the admin routes are not passed on"
    finally:
        end_group(proxy.process)


# --- frameworks -----------------------------------------------------------------------------------


def test_the_fastapi_example_answers_and_is_limited() -> None:
    """The middleware inside a FastAPI app: five answers, then a refusal; the app knows who is asking."""
    with asgi_server("uvicorn", "fastapi_app:app", env=SETTINGS, cwd=EXAMPLES) as server:
        first, second = fresh_address(), fresh_address()
        assert [ask(server, first, "/").status for _ in range(BURST + 1)] == [200] * BURST + [429]
        with client(second) as guest:
            answer = guest.get(f"{server.base_url}/me").json()
    assert answer == {"name": "guest", "listener_class": "guest", "client_address": second, "mode": "normal"}


def test_the_django_example_answers_and_is_limited() -> None:
    """The middleware around Django: guests by address, members by Django's own signed cookie."""
    with (
        asgi_server("uvicorn", "django_asgi:application", env=SETTINGS, cwd=EXAMPLES) as server,
        client(fresh_address()) as browser,
    ):
        guests = [browser.get(server.base_url) for _ in range(BURST - 1)]
        assert {answer.text for answer in guests} == {"Hello somebody, a guest\n"}
        assert browser.post(f"{server.base_url}/sign-in", data={"name": "ada"}).text == "Signed in\n"
        members = [browser.get(server.base_url) for _ in range(MEMBERS_BURST + 1)]
        assert members[0].text == "Hello ada, a member\n"
        assert [answer.status_code for answer in members] == [200] * MEMBERS_BURST + [429]
        browser.cookies.clear()
        assert browser.get(server.base_url, headers={"cookie": "member=ada:forged"}).status_code == 429
