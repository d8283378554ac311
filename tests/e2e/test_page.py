"""The operator's page in a real browser, on two workers: what somebody sees and does on the evening.

With SHIELD_PAGE_IMAGES=docs/images the screenshots of the docs are made anew.
"""

from __future__ import annotations

import os
import re
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx
import pytest

from e2e.clients import JWT_SECRET, TIMEOUT_S, bearer, client, fresh_address
from servers import (
    HOST,
    HttpServer,
    asgi_server,
    chromium_page,
    clean_environment,
    free_port,
    missing,
    redis_server,
    require,
    wait_until,
)
from servers.asgi import _asgi_command
from servers.http import ready
from servers.places import APPS, on_free_port, own_directory
from servers.processes import end_group, spawn

if TYPE_CHECKING:
    from playwright.sync_api import Page, Route

ADMIN, VIEW = "an-admin-token-of-some-length", "a-view-token-of-some-length"
GUESTS, MEMBERS = 40, 80
SETTINGS = {
    "SHIELD_ADMIN_TOKEN": ADMIN,
    "SHIELD_VIEW_TOKEN": VIEW,
    "SHIELD_JWT_SECRET": JWT_SECRET,
    "SHIELD_LIVE_PATHS": "/live/*",
    "SHIELD_CAPACITY": "30",
    "SHIELD_EMERGENCY_CAPACITY": "20",
    "SHIELD_RECORDING_URL": "https://event.example.org/recording",
    "SHIELD_REDIS_TIMEOUT_MS": "5000",
    "SHIELD_IP_LIMIT": f"{GUESTS}/hour",
    "SHIELD_TOKEN_LIMIT": f"{MEMBERS}/hour",
    "SHIELD_RULES": '[{"name": "search", "path": "/search", "emergency": "members"}]',
}
PHONE, DESK = {"width": 360, "height": 740}, {"width": 1280, "height": 900}
MARKUP = "<img src=x onerror=\"document.title='taken'\"><script>document.title='taken'</script>"


@pytest.fixture(scope="module")
def server() -> Iterator[HttpServer]:
    """`shieldmw serve` with two workers."""
    require("chromium")
    with asgi_server("shieldmw", "e2e.live_app:app", env=SETTINGS, cwd=APPS, workers=2) as serving:
        yield serving


@pytest.fixture(scope="module")
def browser() -> Iterator[Page]:
    """One browser for all tests; each has a tab of its own."""
    with chromium_page() as page:
        yield page


@pytest.fixture
def operator(server: HttpServer) -> Iterator[httpx.Client]:
    """Another operator, on a terminal; afterwards all is as before."""
    address = fresh_address()
    headers = {"authorization": f"Bearer {ADMIN}", "shield-actor": "jo"}
    with client(address, headers) as http:
        http.base_url = httpx.URL(f"{server.base_url}/-/shield/")
        yield http
        if http.get("status").json()["mode"] == "emergency":
            http.put("mode", json={"mode": "normal"}).raise_for_status()
        for entry in http.get("deny").json()["entries"]:
            http.delete(f"deny/{entry['cidr']}")


@pytest.fixture
def page(browser: Page, server: HttpServer) -> Iterator[Page]:
    """A tab with the page. Errors of its script, and all that its policy had to stop, fail the test."""
    tab = browser.context.new_page()
    wrong: list[str] = []
    tab.on("pageerror", lambda error: wrong.append(str(error)))
    tab.on("console", lambda message: wrong.append(message.text) if "Content Security Policy" in message.text else None)
    tab.set_default_timeout(TIMEOUT_S * 1000)
    tab.set_viewport_size(DESK)  # type: ignore[arg-type]
    tab.goto(f"{server.base_url}/-/shield")
    yield tab
    tab.close()
    assert wrong == []


def sign_in(page: Page, token: str = ADMIN, name: str = "kim") -> None:
    """Sign in, and see the numbers."""
    page.fill("#token", token)
    page.fill("#actor", name)
    page.press("#actor", "Enter")
    page.wait_for_selector("#board:visible")


def says(page: Page, selector: str, pattern: str, within_s: float = TIMEOUT_S) -> str:
    """Wait until a part of the page says something."""

    def text() -> str:
        shown = page.inner_text(selector)
        return shown if re.search(pattern, shown) else ""

    return wait_until(text, within_s, f"{selector} to say {pattern}: it says {page.inner_text(selector)!r}")


@contextmanager
def listeners(server: HttpServer, members: int, guests: int, name: str = "member") -> Iterator[list[int]]:
    """Listeners on live streams, each from an address of its own; the statuses of their answers."""
    with ExitStack() as stack:
        statuses = []
        for number in range(members + guests):
            headers = bearer(f"{name}-{number}") if number < members else {}
            http = stack.enter_context(client(fresh_address(), headers))
            statuses.append(stack.enter_context(http.stream("GET", f"{server.base_url}/live/sse")).status_code)
        yield statuses


def nobody_listens(operator: httpx.Client) -> bool:
    """Whether those of the tests before have gone, and seats are no longer kept for those who found none.

    Asked once a second at most: there is a limit for operators, too.
    """
    status = operator.get("status").raise_for_status().json()
    if any((status["demand"] or status["seats"]).values()):
        time.sleep(1)
        return False
    return True


# --- signing in


def test_a_wrong_token_shows_nothing(page: Page, operator: httpx.Client) -> None:
    """It is said, nothing is shown, and the right one lets in; the token is nowhere afterwards."""
    page.fill("#token", "a-wrong-token-of-some-length")
    page.press("#token", "Enter")
    says(page, "#sign-in-error", "token is wrong")
    assert page.is_hidden("#board")
    sign_in(page)
    says(page, "#link", "Live")
    assert page.input_value("#token") == ""
    kept = "JSON.stringify([Object.entries(localStorage), Object.entries(sessionStorage), document.cookie])"
    assert ADMIN not in page.evaluate(kept) + page.content() + page.url
    page.click("#sign-out")
    page.wait_for_selector("#sign-in:visible")
    page.reload()
    assert page.is_hidden("#board")


def test_with_the_view_token_nothing_can_be_changed(page: Page, operator: httpx.Client) -> None:
    """The buttons say why they do not work; addresses are masked."""
    operator.put("deny/198.51.100.0/24", json={"for_seconds": 600, "reason": "botnet"}).raise_for_status()
    sign_in(page, VIEW)
    says(page, "#deny-rows", r"198\.51\.x\.x/24")
    says(page, "#mode-note", "need the admin token")
    for button in ("#to-emergency", "#deny", "#deny-rows button"):
        assert page.is_disabled(button)
        assert "admin token" in (page.get_attribute(button, "title") or "")
    assert "198.51.100" not in page.inner_text("body")


# --- seeing


def test_the_page_shows_who_is_served_and_who_is_not(page: Page, server: HttpServer, operator: httpx.Client) -> None:
    """Members with seats are green; when some find none it is red, in words and in the tab."""
    wait_until(lambda: nobody_listens(operator), 2 * TIMEOUT_S, "the listeners before to go")
    sign_in(page)
    says(page, "#served", "Nobody asks")
    with listeners(server, 12, 20):
        says(page, "#served-word", "Yes")
        says(page, "#served-why", "(?i)every member has a seat")
        says(page, "#seats-rows", r"Members\s+12\s")
        says(page, "#would", "let all 12 members stay")
        says(page, "#would", r"send all 1\d guests to the recording")
        wait_until(lambda: "✓ normal · members served" in page.title(), TIMEOUT_S, "the tab to say it")
        assert page.evaluate("document.getElementById('icon').href").startswith("data:image/svg+xml,")
        operator.put("mode", json={"mode": "emergency", "for_seconds": 60, "capacity": 5}).raise_for_status()
        says(page, "#mode-word", "EMERGENCY")
        with listeners(server, 8, 0, "late") as statuses:
            assert 503 in statuses
            says(page, "#served-word", "NO")
            says(page, "#served-why", "members? without a seat")
            says(page, "#room", "waiting with a number")
            assert "members NOT served" in page.title()


def test_a_flood_is_seen_as_it_arrives(page: Page, server: HttpServer, operator: httpx.Client) -> None:
    """By what became of its requests, on both workers; for those who cannot see the chart as text."""
    sign_in(page)
    says(page, "#traffic-legend", r"Over a limit 0")
    with client(fresh_address()) as bot:
        for _ in range(GUESTS + 60):
            bot.get(f"{server.base_url}/hello")
        says(page, "#traffic-legend", r"Over a limit [1-9]")
    label = page.get_attribute("#traffic-chart", "aria-label") or ""
    assert re.search(r"Requests a second.* Now: Offered", label)
    assert page.evaluate("document.querySelectorAll('#traffic-chart canvas').length") == 1


def test_members_whose_requests_are_refused_are_not_served(
    page: Page, server: HttpServer, operator: httpx.Client
) -> None:
    """A part of a hundred that is told in words and in red."""
    sign_in(page)
    with client(fresh_address(), bearer("loud")) as member:
        for _ in range(MEMBERS + 60):
            member.get(f"{server.base_url}/hello")
        says(page, "#served-word", "NO")
        says(page, "#served-why", "requests of members a second are refused")


def test_the_line_for_the_chat_says_it_all(page: Page, operator: httpx.Client) -> None:
    """One click, one line."""
    operator.put("mode", json={"mode": "emergency", "for_seconds": 600, "reason": "flood"}).raise_for_status()
    page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    sign_in(page)
    says(page, "#mode-word", "EMERGENCY")
    says(page, "#mode-obeyed", "2 of 2 workers follow")
    page.click("#copy")
    says(page, "#copy", "Copied")
    line = page.evaluate("navigator.clipboard.readText()")
    assert re.fullmatch(
        r"\d\d:\d\d:\d\d EMERGENCY until \d\d:\d\d:\d\d \(admin \(jo\): flood\); .*; 2 of 2 workers follow\.", line
    )


def test_an_emergency_counts_down_and_ends(page: Page, operator: httpx.Client) -> None:
    """By itself, and the page says so without being asked."""
    operator.put("mode", json={"mode": "emergency", "for_seconds": 4}).raise_for_status()
    sign_in(page)
    says(page, "#mode-clock", r"ends in 0:0\d")
    says(page, "#mode-word", "Normal", 20)
    says(page, "#audit-rows", "its end time has come", 20)
    assert page.is_visible("#to-emergency")


# --- switching


def test_the_switch_is_two_clicks_and_back_is_one(page: Page, server: HttpServer, operator: httpx.Client) -> None:
    """What it would do is told before, who follows is counted after, and undo is beside it."""
    wait_until(lambda: nobody_listens(operator), 2 * TIMEOUT_S, "the listeners before to go")
    sign_in(page)
    with listeners(server, 12, 15) as statuses:
        assert statuses == [200] * 27
        says(page, "#seats-rows", r"Guests\s+15\s", 20)
        page.click("#to-emergency")
        says(page, "#flip-would", "No member has to leave; 15 guests must")
        assert page.evaluate("document.activeElement.id") == "flip-minutes"
        page.fill("#flip-share", "25")
        says(page, "#flip-would", "No member has to leave; 10 guests must")
        page.fill("#flip-capacity", "10")
        says(page, "#flip-rows", r"Members\s+10\s+2\s")
        says(page, "#flip-would", "2 members and 15 guests must leave")
        page.fill("#flip-capacity", "-1")
        says(page, "#flip-error", "capacity")
        page.fill("#flip-capacity", "")
        page.fill("#flip-share", "")
        says(page, "#flip-would", "No member has to leave; 15 guests must")
        page.fill("#flip-reason", "flood on /live")
        page.click("#flip-do")
        says(page, "#flip-obeyed", "All 2 workers follow")
        page.click("#flip-close")
        says(page, "#mode-who", "kim.*flood on /live")
        says(page, "#mode-clock", r"ends in (29|30):\d\d")
        says(page, "#seats-rows", r"Guests\s+0\s", 20)
        assert "EMERGENCY" in page.title()
        page.click("#undo")
        says(page, "#mode-word", "Normal")
        says(page, "#audit-rows", "undo")
        assert operator.get("status").json()["mode"] == "normal"


def test_undo_goes_back_to_the_emergency_before(page: Page, operator: httpx.Client) -> None:
    """With its numbers and its end, not to normal."""
    operator.put(
        "mode", json={"mode": "emergency", "for_seconds": 600, "capacity": 7, "guest_share": 0.5}
    ).raise_for_status()
    until = operator.get("status").json()["until"]
    sign_in(page)
    says(page, "#mode-word", "EMERGENCY")
    page.click("#to-normal")
    says(page, "#flip-would", "Nobody")
    page.click("#flip-do")
    says(page, "#flip-undo", "back to the emergency before")
    says(page, "#mode-word", "Normal")
    page.click("#flip-undo")
    says(page, "#mode-word", "EMERGENCY")
    status = operator.get("status").json()
    assert (status["capacity"], status["guest_share"]) == (7, 0.5)
    assert abs(status["until"] - until) < 2


def test_undo_goes_once_somebody_else_has_switched(page: Page, operator: httpx.Client) -> None:
    """Said in the open dialogue, in place of a button that would do nothing."""
    sign_in(page)
    page.click("#to-emergency")
    page.click("#flip-do")
    says(page, "#flip-obeyed", "All 2 workers follow")
    assert page.is_visible("#flip-undo")
    operator.put("mode", json={"mode": "emergency", "for_seconds": 300, "reason": "theirs"}).raise_for_status()
    says(page, "#flip-error", r"Since then admin \(jo\) has set the mode to emergency \(“theirs”\).*nothing to undo")
    assert page.is_hidden("#flip-undo")
    page.click("#flip-close")
    assert page.is_hidden("#undo")


def test_undo_leaves_to_the_settings_what_was_left_to_them(page: Page, operator: httpx.Client) -> None:
    """The emergency comes back as it was asked for, not with numbers that it only amounted to."""
    operator.put("mode", json={"mode": "emergency", "for_seconds": 600, "guest_share": 0.5}).raise_for_status()
    sign_in(page)
    says(page, "#mode-word", "EMERGENCY")
    page.click("#to-normal")
    page.click("#flip-do")
    page.click("#flip-undo")
    wait_until(lambda: operator.get("status").json()["mode"] == "emergency", TIMEOUT_S, "the emergency to be back")
    status = operator.get("status").json()
    assert (status["requested_capacity"], status["requested_guest_share"]) == (None, 0.5)


def test_two_operators_do_not_overwrite_each_other(page: Page, operator: httpx.Client) -> None:
    """The second one is told who was faster, and changes nothing until they press again."""
    sign_in(page)
    page.click("#to-emergency")
    page.fill("#flip-reason", "mine")
    operator.put("mode", json={"mode": "emergency", "for_seconds": 300, "reason": "theirs"}).raise_for_status()
    page.click("#flip-do")
    says(page, "#flip-error", r"Somebody was faster: admin \(jo\) has set the mode to emergency \(“theirs”\)")
    assert operator.get("status").json()["reason"] == "theirs"
    page.click("#flip-do")
    says(page, "#flip-obeyed", "All 2 workers follow")
    assert operator.get("status").json()["reason"] == "mine"


def test_escape_leaves_everything_as_it_is(page: Page, operator: httpx.Client) -> None:
    """With the keyboard alone: open, look, leave."""
    sign_in(page)
    page.focus("#to-emergency")
    page.keyboard.press("Enter")
    page.wait_for_selector("#flip[open]")
    page.keyboard.press("Escape")
    page.wait_for_selector("#flip:not([open])", state="attached")
    assert page.evaluate("document.activeElement.id") == "to-emergency"
    assert operator.get("status").json()["mode"] == "normal"


def test_a_worker_that_does_not_follow_is_named(browser: Page) -> None:
    """On the listener of `--admin`, which answers whatever the workers do: one hangs, and follows late."""
    own = f"{HOST}:{free_port()}"
    args = ("--admin", own)
    with asgi_server("shieldmw", "e2e.live_app:app", env=SETTINGS, cwd=APPS, workers=2, args=args) as server:

        def listens() -> bool:
            with suppress(httpx.TransportError):
                return httpx.get(f"http://{own}/-/shield/").status_code == 200
            return False

        wait_until(listens, TIMEOUT_S, "the listener of --admin", server.log)
        tab = browser.context.new_page()
        tab.goto(f"http://{own}/-/shield/")
        sign_in(tab)
        says(tab, "#mode-obeyed", "2 of 2 workers follow", 20)
        told = httpx.get(f"http://{own}/-/shield/status", headers={"authorization": f"Bearer {ADMIN}"}).json()
        pid = told["overload"]["workers"][0]["pid"]
        os.kill(pid, signal.SIGSTOP)
        try:
            tab.click("#to-emergency")
            tab.click("#flip-do")
            says(tab, "#flip-behind", rf"Not yet: .*, process {pid}\.")
            says(tab, "#flip-obeyed", "1 of 2 workers follow…")
            says(tab, "#health", rf"Does not follow the mode: .*, process {pid}")
        finally:
            os.kill(pid, signal.SIGCONT)
        says(tab, "#flip-obeyed", "All 2 workers follow", 20)
        assert tab.inner_text("#flip-behind") == "", server.log()
        tab.close()


# --- denying


def test_a_network_is_denied_and_let_in_again(page: Page, server: HttpServer, operator: httpx.Client) -> None:
    """On every worker, with undo; what is no network is said."""
    sign_in(page)
    page.fill("#deny-cidr", "127.9.0.0/16")
    page.fill("#deny-reason", "botnet")
    page.click("#deny")
    says(page, "#deny-note", "Denied 127.9.0.0/16 for 1:00:00")
    says(page, "#deny-rows", "127.9.0.0/16")

    def status() -> int:
        with client("127.9.0.1") as bot:
            return bot.get(f"{server.base_url}/hello").status_code

    wait_until(lambda: status() == 429, 5, "the network to be refused")
    page.click("#deny-undo")
    says(page, "#deny-note", "no longer denied")
    wait_until(lambda: status() == 200, 5, "the network to be let in")
    page.fill("#deny-cidr", "127.0.0.1/8")
    page.click("#deny")
    says(page, "#deny-note", "cidr")
    page.fill("#deny-cidr", "127.0.0.0/8")
    page.click("#deny")
    says(page, "#deny-note", "contains your own address, 127.0.0.1. Nothing was denied.")  # as if it was cancelled
    assert operator.get("deny").json()["entries"] == []
    page.once("dialog", lambda dialog: dialog.accept())
    page.fill("#deny-cidr", "127.0.0.0/30")
    page.click("#deny")
    says(page, "#deny-note", "Denied 127.0.0.0/30")
    page.click("#deny-undo")
    says(page, "#deny-note", "no longer denied")


def test_lifting_can_be_undone(page: Page, operator: httpx.Client) -> None:
    """The entry comes back with its reason, for as long as it had left."""
    operator.put("deny/2001:db8:7::/48", json={"for_seconds": 600, "reason": "scan"}).raise_for_status()
    sign_in(page)
    page.click("#deny-rows button")
    says(page, "#deny-note", "no longer denied")
    wait_until(lambda: operator.get("deny").json()["entries"] == [], 5, "the entry to go")
    page.click("#deny-undo")
    says(page, "#deny-rows", "2001:db8:7::/48")
    (entry,) = operator.get("deny").json()["entries"]
    assert entry["reason"] == "scan"
    assert 550 < entry["seconds_left"] <= 600


# --- hostile text


def test_text_of_others_is_only_text(page: Page, operator: httpx.Client) -> None:
    """Markup in reasons and names is shown as it was written, and runs nothing."""
    operator.headers["shield-actor"] = MARKUP[:60]
    operator.put("deny/198.51.100.0/24", json={"for_seconds": 600, "reason": MARKUP}).raise_for_status()
    operator.put("mode", json={"mode": "emergency", "for_seconds": 60, "reason": MARKUP}).raise_for_status()
    sign_in(page, name="<b>kim</b>")
    for place in ("#mode-who", "#deny-rows", "#audit-rows"):
        says(page, place, re.escape("<img src=x onerror="))
    page.click("#to-normal")
    page.fill("#flip-reason", MARKUP)
    page.click("#flip-do")
    says(page, "#audit-rows", re.escape("admin (<b>kim</b>)"))
    assert page.evaluate("document.querySelectorAll('img, b, main script').length") == 0
    assert "taken" not in page.title()


def test_the_busiest_are_shown_as_text_and_can_be_denied(page: Page, operator: httpx.Client) -> None:
    """Where the server has `/top`. Paths and user agents are what clients wrote; a network goes into the form."""

    def busy(name: str, refused: int = 0, **more: int) -> dict[str, Any]:
        counts = {"requests": 1200, "requests_at_most": 1200, "refused": refused, "refused_at_most": refused}
        return {"name": name, **counts, **more}

    top = {
        **{"seconds": 61.5, "workers": 2, "requests": 4000, "refused": 900},
        "addresses": [busy("198.51.100.7/32", 800)],
        "networks": [busy("198.51.100.0/24", 900, requests_at_most=1300)],
        "subjects": [busy(MARKUP)],
        "paths": [busy(f"/{MARKUP}")],
        "user_agents": [{"name": MARKUP, "requests": 5, "requests_at_most": 21}, busy("")],
    }
    page.route("**/top?count=*", lambda route: route.fulfill(json=top))
    sign_in(page)
    says(page, "#top-scope", "of 4,000 requests, 900 refused, in the last 62 s on 2 workers")
    says(page, "#top-tables", r"198\.51\.100\.0/24 Deny…\s+1,200–1,300\s+900")
    says(page, "#top-tables", re.escape(f"/{MARKUP}"))
    says(page, "#top-tables", r"\(none\)")
    assert page.evaluate("document.querySelectorAll('main img, main script').length") == 0
    assert _serious(page) == []
    page.set_viewport_size(PHONE)  # type: ignore[arg-type]
    assert _has_no_horizontal_scroll(page)
    page.click("#top-tables button")
    assert page.input_value("#deny-cidr") == "198.51.100.0/24"
    assert operator.get("deny").json()["entries"] == []


def test_nothing_of_an_admin_is_left_for_the_viewer_who_signs_in_next(page: Page, operator: httpx.Client) -> None:
    """Neither rows that are hidden, nor an answer that was under way."""
    operator.put("deny/198.51.99.0/24", json={"for_seconds": 600, "reason": "botnet"}).raise_for_status()
    held: list[Route] = []

    def answer(route: Route) -> None:
        if route.request.headers["authorization"] == f"Bearer {ADMIN}":
            held.append(route)
        else:
            route.fulfill(json=_top("203.0.x.x/32"))

    page.route("**/top?count=*", answer)
    sign_in(page)
    says(page, "#deny-rows", r"198\.51\.99\.0/24")
    page.fill("#deny-cidr", "203.0.113.7")
    wait_until(lambda: page.evaluate("1") and held, TIMEOUT_S, "the admin's page to ask who is busiest")
    page.click("#sign-out")
    page.wait_for_selector("#sign-in:visible")
    assert "198.51.99" not in page.content()
    sign_in(page, VIEW)
    assert page.input_value("#deny-cidr") == ""
    says(page, "#top-tables", r"203\.0\.x\.x/32")
    held[0].fulfill(json=_top("203.0.113.7/32"))
    shown = page.inner_text("#link-text")
    wait_until(lambda: page.inner_text("#link-text") != shown, TIMEOUT_S, "the next state")
    assert "203.0.113" not in page.content()


def test_who_was_busiest_is_marked_when_it_is_old(page: Page, operator: httpx.Client) -> None:
    """With the reason why there is no newer list."""
    answers: list[dict[str, Any]] = [
        {"json": _top("203.0.113.7/32")},
        {"status": 503, "json": {"detail": "The store is away."}},
    ]
    page.route("**/top?count=*", lambda route: route.fulfill(**(answers.pop(0) if len(answers) > 1 else answers[0])))
    sign_in(page)
    says(page, "#top-tables", r"203\.0\.113\.7/32")
    says(page, "#top-scope", "as last known: The store is away", 2 * TIMEOUT_S)


def _top(address: str) -> dict[str, Any]:
    """An answer of `/top` with one address."""
    counts = {"requests": 9, "requests_at_most": 9, "refused": 0, "refused_at_most": 0}
    kinds: dict[str, Any] = {"networks": [], "subjects": [], "paths": [], "user_agents": []}
    totals = {"seconds": 60.0, "workers": 2, "requests": 9, "refused": 0}
    return {**totals, "addresses": [{"name": address, **counts}], **kinds}


# --- a server that is gone


def test_a_server_that_hangs_is_told_and_found_again(page: Page, server: HttpServer, operator: httpx.Client) -> None:
    """An old "Yes" does not stay: the page says since when it knows nothing, and goes on by itself."""
    with listeners(server, 2, 0):
        sign_in(page)
        says(page, "#served-word", "Yes")
        os.killpg(server.process.pid, signal.SIGSTOP)
        try:
            says(page, "#gone-text", r"No answer from the server since \d\d:\d\d:\d\d", 20)
            says(page, "#served-word", "Unknown")
            assert page.title() == "? no answer · shieldmw"
        finally:
            os.killpg(server.process.pid, signal.SIGCONT)
        says(page, "#served-word", "Yes", 40)
        assert page.is_hidden("#gone")


def test_while_the_store_is_away_what_is_not_known_is_said_to_be_so(browser: Page) -> None:
    """A page that is opened then knows no waiting room, and not which workers follow."""
    with redis_server("valkey") as store:
        env = {**SETTINGS, "SHIELD_REDIS_URL": store.url, "SHIELD_REDIS_TIMEOUT_MS": "500"}
        with asgi_server("shieldmw", "e2e.live_app:app", env=env, cwd=APPS) as server:
            store.kill()
            tab = browser.context.new_page()
            tab.goto(f"{server.base_url}/-/shield/")
            sign_in(tab)
            says(tab, "#mode-obeyed", "not known while the store is away", 2 * TIMEOUT_S)
            says(tab, "#room", "Not known while the store is away")
            says(tab, "#deny-count", "0 as last known")
            tab.close()


def test_a_server_that_is_restarted_is_found_again(browser: Page) -> None:
    """It stops at once, though the page is open; the page needs no new sign-in."""
    require("chromium")
    with own_directory() as directory:

        def start(port: int) -> HttpServer:
            log = directory / f"{port}.log"
            command = _asgi_command("shieldmw", "e2e.live_app:app", port, 1, ())
            process = spawn(command, log, APPS, clean_environment(SETTINGS))
            return ready(HttpServer(port, process, log), "shieldmw serve", "/healthz")

        first = on_free_port(start)
        try:
            tab = browser.context.new_page()
            tab.goto(f"{first.base_url}/-/shield/")
            sign_in(tab)
            began = time.monotonic()
            first.terminate()
            assert time.monotonic() - began < 8, "it waited for the page"
            says(tab, "#gone-text", "No answer from the server since")
        finally:
            end_group(first.process)
        second = start(first.port)
        try:
            tab.click("#retry")
            wait_until(lambda: tab.is_hidden("#gone"), 30, "the page to connect again", second.log)
            says(tab, "#link", "Live")
            tab.close()
        finally:
            end_group(second.process)


# --- for everybody


def _has_no_horizontal_scroll(page: Page) -> bool:
    return bool(page.evaluate("document.documentElement.scrollWidth <= innerWidth"))


def _serious(page: Page) -> list[str]:
    """What axe-core finds that is serious."""
    try:
        from axe_playwright_python.sync_playwright import Axe
    except ImportError:
        missing("axe-playwright-python")
    found: list[dict[str, Any]] = Axe().run(page).response["violations"]
    return [
        f"{rule['id']}: {[node['html'] for node in rule['nodes']]}"
        for rule in found
        if rule["impact"] in ("serious", "critical")
    ]


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [320, 360, 1280])
def test_it_can_be_used_by_everybody(
    page: Page, server: HttpServer, operator: httpx.Client, scheme: Any, width: int
) -> None:
    """Light and dark, on a phone and a desk: axe-core finds nothing serious, and nothing is cut off at the side."""
    page.emulate_media(color_scheme=scheme, reduced_motion="reduce")
    page.set_viewport_size({"width": width, "height": 740})
    assert _serious(page) == []
    assert _has_no_horizontal_scroll(page)
    operator.put("deny/2001:db8:aaaa:bbbb:cccc:dddd:eeee:0/112", json={"for_seconds": 600, "reason": "scan " * 39})
    operator.put("mode", json={"mode": "emergency", "for_seconds": 600, "reason": "x" * 200}).raise_for_status()
    with listeners(server, 3, 0):
        sign_in(page)
        says(page, "#served-word", "Yes")
        page.evaluate("document.querySelector('details').open = true")
        assert _serious(page) == []
        assert _has_no_horizontal_scroll(page)
        page.click("#to-other")
        says(page, "#flip-would", "leave")
        assert _serious(page) == []
        assert _has_no_horizontal_scroll(page)
        assert page.evaluate(
            "document.getElementById('flip').scrollWidth <= document.getElementById('flip').clientWidth"
        )


@contextmanager
def flood(server: HttpServer, seconds: float) -> Iterator[None]:
    """Members who ask now and then, and bots that never stop, for some seconds before the block and in it."""
    over = threading.Event()

    def ask(http: httpx.Client, pause_s: float) -> None:
        with http:
            while not over.wait(pause_s):
                http.get(f"{server.base_url}/hello")

    bots = [threading.Thread(target=ask, args=(client(fresh_address()), 0.02)) for _ in range(4)]
    members = [threading.Thread(target=ask, args=(client(fresh_address(), bearer(f"m{n}")), 1.0)) for n in range(12)]
    for thread in (*members, *bots):
        thread.start()
    try:
        over.wait(seconds)
        yield
    finally:
        over.set()
        for thread in (*members, *bots):
            thread.join()


def test_the_screenshots_are_of_this_page(page: Page, server: HttpServer, operator: httpx.Client) -> None:
    """Three moments of an evening, for the docs; written only if asked for."""
    folder = os.environ.get("SHIELD_PAGE_IMAGES")
    take = Path(folder) if folder else None

    def shoot(name: str) -> None:
        if take is not None:
            page.screenshot(path=take / f"page-{name}.png")

    sign_in(page)
    with listeners(server, 12, 20), flood(server, 20.0 if take else 0.0):
        says(page, "#served-word", "Yes")
        says(page, "#would", r"send all 1\d guests")
        page.click("#to-emergency")
        says(page, "#flip-would", "guests must")
        page.fill("#flip-reason", "flood on /live")
        shoot("switch")
        page.click("#flip-do")
        says(page, "#flip-obeyed", "All 2 workers follow")
        page.click("#flip-close")
        says(page, "#seats-rows", r"Guests\s+0\s", 20)
        page.set_viewport_size({"width": 1280, "height": 800})
        shoot("emergency")
        page.set_viewport_size(PHONE)  # type: ignore[arg-type]
        page.emulate_media(color_scheme="dark")
        shoot("phone")
