"""`/live`: the state as server-sent events, for those with a token, until they go or the worker stops."""

from __future__ import annotations

import asyncio
import gc
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any
from weakref import ref

import pytest
from starlette.types import Message

from admin.app import ADMIN, HOME, VIEW, WRONG, Operator, run, shielded
from shieldmw import ShieldMiddleware
from shieldmw.admin import live as live_module
from shieldmw.admin.live import KEPT_FOR_ADMINS, MOST_PAGES
from shieldmw.admin.live_state import Members
from shieldmw.core.load import WorkerLoad
from shieldmw.core.seats import UNLIMITED, Audience, Report
from shieldmw.core.service import Served
from shieldmw.core.traffic import Outcome, Rates
from shieldmw.errors import StoreUnavailable
from shieldmw.gate.operator.control import Control
from shieldmw.gate.worker import Worker

FLOOD = {"mode": "emergency", "for_seconds": 60, "reason": "from 198.51.100.7 <script>"}


class Page:
    """One open page: what was sent to it, and its way to leave."""

    def __init__(self) -> None:
        self.inbox: asyncio.Queue[Message] = asyncio.Queue()
        self.sent: asyncio.Queue[Message] = asyncio.Queue()
        self.task: asyncio.Task[None] | None = None
        self.head: Message = {}
        self.history: list[list[float]] = []

    async def open(self, app: ShieldMiddleware, token: str | None, method: str = "GET") -> None:
        headers = [] if token is None else [(b"authorization", f"Bearer {token}".encode())]
        path = "/-/shield/live"
        scope = {
            **{"type": "http", "http_version": "1.1", "method": method, "path": path, "raw_path": path.encode()},
            **{"query_string": b"", "headers": headers, "client": (HOME, 40_000), "server": ("shield.test", 80)},
            **{"scheme": "http", "root_path": ""},
        }
        await self.inbox.put({"type": "http.request", "body": b"", "more_body": False})
        self.task = asyncio.create_task(app(scope, self.inbox.get, self.sent.put))
        self.head = await self.sent.get()
        if self.head["status"] == 200:
            kind, _, data = (await self.sent.get())["body"].decode().partition("\n")
            assert kind == "event: history"
            self.history = json.loads(data.removeprefix("data: "))

    async def next_state(self) -> dict[str, Any]:
        """The next event."""
        message = await self.sent.get()
        assert message["more_body"], "the stream has ended"
        text = message["body"].decode()
        assert text.startswith("data: ")
        assert text.endswith("\n\n")
        assert "\n" not in text[:-2]
        state: dict[str, Any] = json.loads(text[6:])
        return state

    async def state_when(self, wanted: Any) -> dict[str, Any]:
        """The next state of which something is true."""
        while not wanted(state := await self.next_state()):
            pass
        return state

    async def close(self) -> None:
        """Leave, as a browser does that is closed."""
        await self.inbox.put({"type": "http.disconnect"})
        assert self.task is not None
        await self.task


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """No waiting between two states."""
    monkeypatch.setattr(live_module.Live.__init__, "__defaults__", (0.0,))


@asynccontextmanager
async def page(app: ShieldMiddleware, token: str = ADMIN) -> AsyncIterator[Page]:
    """An open page."""
    opened = Page()
    await opened.open(app, token)
    assert opened.head["status"] == 200
    yield opened
    await opened.close()


def test_a_page_gets_one_state_after_the_other() -> None:
    """What /status tells without the settings, whether members are served, who follows, what the switch would do."""

    async def work() -> None:
        app = shielded(live_paths="/live", capacity=10, emergency_capacity=4)
        async with page(app) as opened:
            headers = dict(opened.head["headers"])
            assert headers[b"content-type"] == b"text/event-stream; charset=utf-8"
            assert headers[b"cache-control"] == b"no-store"
            assert headers[b"x-accel-buffering"] == b"no"
            assert b"content-length" not in headers
            state = await opened.next_state()
            assert state["role"] == "admin"
            assert "settings" not in state["status"]
            assert state["members"]["served"] == "idle"
            assert (state["switch"]["mode"], state["switch"]["capacity"]) == ("emergency", 4)
            assert state["obedience"] == {"version": 0, "follow": 1, "behind": [], "silent": 0}
            assert state["waiting_room"] == {"waiting": 0, "called": 0}
            assert (await Operator(app).put("/mode", FLOOD)).status_code == 200
            state = await opened.state_when(lambda state: state["status"]["mode"] == "emergency")
            assert (state["switch"]["mode"], state["switch"]["capacity"]) == ("normal", 10)
            assert state["audit"][0]["why"] == FLOOD["reason"]
            assert state["lists"] == "current"

    run(work)


def test_requests_are_counted_by_what_became_of_them() -> None:
    """Since the start, and a second lately; members who are refused are not served."""

    async def work() -> None:
        app = shielded(ip_limit="2/day", emergency_ip_limit="2/day", live_paths="/live")
        guest = Operator(app, None)
        statuses = [(await guest.anywhere("/")).status_code for _ in range(5)]
        assert statuses == [200, 200, 429, 429, 429]
        await Operator(app).put("/mode", {"mode": "emergency"})
        other = Operator(app, None, address="203.0.113.10")
        assert (await other.anywhere("/live")).status_code == 503
        async with page(app) as opened:
            traffic = (await opened.next_state())["traffic"]
            assert traffic["totals"] == {"let_in": 2, "over_limit": 3, "sent_away": 1, "overload": 0, "denied": 0}
            assert traffic["workers"] == 1
            assert set(traffic["lately"]) == set(traffic["totals"])

    run(work)


def test_requests_of_hosts_and_members_are_added_before_they_are_rounded() -> None:
    """Otherwise few of each class would be none of both."""

    async def work() -> None:
        app = shielded()
        assert (await Operator(app).get("/status")).status_code == 200
        assert app._worker is not None
        few = dict.fromkeys(Outcome, Rates(hosts=0.04, members=0.04, guests=9.0))
        status = await app._worker.control.status()
        members = Members.of(status, few, Rates())
        assert (members.served, members.let_in, members.refused) == (Served.NO, 0.1, 0.3)

    run(work)


def test_members_who_ask_for_a_seat_again_count_as_members_without_a_seat() -> None:
    """Where all others listen, and send no requests, the only ones that come are refused: yet most are served."""

    async def work() -> None:
        app = shielded()
        assert (await Operator(app).get("/status")).status_code == 200
        assert app._worker is not None
        status = await app._worker.control.status()
        seats = replace(status.seats, present=Audience(0, 198, 0), demand=Audience(0, 200, 0))
        retries = {**dict.fromkeys(Outcome, Rates()), Outcome.SENT_AWAY: Rates(members=0.4)}
        members = Members.of(replace(status, seats=seats), retries, Rates(members=0.4))
        assert (members.served, members.percent, members.refused) == (Served.YES, 99.0, 0.4)
        assert members.why == "2 members without a seat"
        others = Members.of(replace(status, seats=seats), retries, Rates())
        assert (others.served, others.percent) == (Served.NO, 0.0)

    run(work)


def test_a_page_is_told_first_what_came_before() -> None:
    """A row for each sample: time, totals by outcome, members, guests, listeners without a seat, seats."""

    async def work() -> None:
        app = shielded(capacity=10)
        async with page(app) as opened:
            assert len(opened.history) == 1, "taken when the worker began"
            (row,) = opened.history
            assert row[1:] == [0, 0, 0, 0, 0, 0, 0, 0, 10]
            assert row[0] <= (await opened.next_state())["status"]["now"]

    run(work)


def test_with_the_view_token_addresses_are_masked() -> None:
    """In the deny list, the audit log and reasons; the admin token shows them at the same moment."""

    async def work() -> None:
        app = shielded()
        operator = Operator(app)
        await operator.put("/mode", FLOOD)
        await operator.put("/deny/198.51.100.0/24", {"for_seconds": 60, "reason": "with 2001:db8:1::2"})
        async with page(app) as whole, page(app, VIEW) as cut:
            seen = await whole.state_when(lambda state: state["denied"])
            masked = await cut.state_when(lambda state: state["denied"])
            assert (seen["denied"][0]["cidr"], masked["denied"][0]["cidr"]) == ("198.51.100.0/24", "198.51.x.x/24")
            assert masked["denied"][0]["reason"] == "with 2001:db8:…"
            assert (seen["role"], masked["role"]) == ("admin", "viewer")
            assert "198.51.100" in json.dumps(seen)
            assert "198.51.100" not in json.dumps(masked)
            assert masked["status"]["reason"] == "from 198.51.x.x <script>"

    run(work)


@pytest.mark.parametrize(("token", "status"), [(None, 401), (WRONG, 401)])
def test_there_is_nothing_without_a_token(token: str | None, status: int) -> None:
    """As on every other route with data."""

    async def work() -> None:
        opened = Page()
        await opened.open(shielded(), token)
        assert opened.head["status"] == status

    run(work)


def test_the_state_is_made_once_for_all_pages(monkeypatch: pytest.MonkeyPatch) -> None:
    """However many are open; and no more once the last one has gone."""
    made = 0
    control_status = Control.status

    async def status(control: Control) -> Any:
        nonlocal made
        made += 1
        await asyncio.sleep(0)
        return await control_status(control)

    async def work() -> None:
        monkeypatch.setattr(Control, "status", status)
        app = shielded()
        pages = [Page() for _ in range(10)]
        for opened in pages:
            await opened.open(app, ADMIN)
        seen = [await opened.next_state() for opened in pages for _ in range(5)]
        assert len({state["status"]["now"] for state in seen}) <= made < len(seen)
        for opened in pages:
            await opened.close()
        await asyncio.sleep(0.01)
        after = made
        await asyncio.sleep(0.01)
        assert made == after

    run(work)


def test_pages_are_bounded() -> None:
    """One more is told so, with a 503; when one has gone there is room."""

    async def work() -> None:
        app = shielded()
        pages = [Page() for _ in range(MOST_PAGES + 1)]
        for opened in pages:
            await opened.open(app, ADMIN)
        assert [opened.head["status"] for opened in pages] == [200] * MOST_PAGES + [503]
        assert dict(pages[-1].head["headers"])[b"retry-after"] == b"5"
        await pages[0].close()
        again = Page()
        await again.open(app, ADMIN)
        assert again.head["status"] == 200
        for opened in (*pages[1:-1], again):
            await opened.close()

    run(work)


def test_pages_that_may_only_look_do_not_shut_out_an_admin() -> None:
    """However many there are."""

    async def work() -> None:
        app = shielded()
        pages = [Page() for _ in range(MOST_PAGES)]
        for opened in pages:
            await opened.open(app, VIEW)
        looking = MOST_PAGES - KEPT_FOR_ADMINS
        assert [opened.head["status"] for opened in pages] == [200] * looking + [503] * KEPT_FOR_ADMINS
        one = Page()
        await one.open(app, ADMIN)
        assert one.head["status"] == 200
        for opened in (*pages[:looking], one):
            await opened.close()

    run(work)


def test_nothing_is_kept_for_pages_that_have_gone() -> None:
    """A worker whose event loop has ended can be freed with all that it holds."""
    app = shielded()
    workers: list[ref[Control]] = []

    async def work() -> None:
        async with page(app) as opened:
            await opened.next_state()
        assert app._worker is not None
        workers.append(ref(app._worker.control))

    run(work)
    run(work)
    gc.collect()
    assert workers[0]() is None


def test_a_worker_that_stops_ends_its_pages() -> None:
    """Otherwise it would wait for them: they never go by themselves."""

    async def work() -> None:
        app = shielded()
        opened = Page()
        await opened.open(app, ADMIN)
        await opened.next_state()
        worker: Worker | None = app._worker
        assert worker is not None
        worker.entrance.seats.leave()
        while (await opened.sent.get())["more_body"]:
            pass
        assert opened.task is not None
        await opened.task

    run(work)


def test_a_head_request_has_no_end_to_wait_for() -> None:
    """The same headers, and no events."""

    async def work() -> None:
        answer = await Operator(shielded()).ask("HEAD", "/live")
        assert answer.status_code == 200
        assert answer.headers["content-type"].startswith("text/event-stream")

    run(work)


PREVIEWS = [
    ("mode=emergency", {"mode": "emergency", "capacity": 4, "guest_seats": 0, "guest_limit": "30/minute"}),
    ("mode=emergency&capacity=8&guest_share=0.5", {"capacity": 8, "guest_seats": 4, "guest_share": 0.5}),
    ("mode=emergency&capacity=0&for_seconds=60&reason=x", {"capacity": None, "guest_seats": None}),
    ("mode=normal", {"mode": "normal", "capacity": 10, "guest_seats": 10, "guest_limit": "5/day", "closed": []}),
]


@pytest.mark.parametrize("token", [ADMIN, VIEW])
@pytest.mark.parametrize(("query", "told"), PREVIEWS)
def test_a_change_is_previewed(token: str, query: str, told: dict[str, Any]) -> None:
    """As configured where the query names nothing else; looking is enough for it, and nothing is changed."""
    closed = [("chat", "/chat", "closed"), ("q", "/q", "members")]
    rules = json.dumps([{"name": name, "path": path, "emergency": access} for name, path, access in closed])

    async def work() -> None:
        app = shielded(live_paths="/live", capacity=10, emergency_capacity=4, rules=rules)
        answer = (await Operator(app, token).get(f"/mode/preview?{query}")).json()
        assert {name: answer[name] for name in told} == told
        if answer["mode"] == "emergency":
            assert (answer["closed"], answer["members_only"]) == (["chat"], ["q"])
        assert (await Operator(app).get("/status")).json()["version"] == 0

    run(work)


@pytest.mark.parametrize(
    ("settings", "any_refused"), [({}, True), ({"dry_run": True}, False), ({"emergency_ip_limit": "off"}, False)]
)
def test_a_preview_says_how_many_requests_would_be_refused_at_most(settings: dict[str, Any], any_refused: bool) -> None:
    """All that guests are let in with now, if anything is stricter for them; none in a dry run."""

    async def work() -> None:
        app = shielded(ip_limit="100/minute", emergency_guests_limit="off", **settings)
        await Operator(app).get("/status")
        assert app._worker is not None
        recent = app._worker.control.recent
        begun = recent.now()
        recent._kept.clear()
        recent._kept.append(replace(begun, at_s=begun.at_s - 10))
        for number in range(20):
            assert (await Operator(app, None, f"203.0.113.{number}").anywhere("/")).status_code == 200
        answer = (await Operator(app).get("/mode/preview?mode=emergency")).json()
        assert answer["refused_at_most"] <= 2.0
        assert (answer["refused_at_most"] > 0) is any_refused
        assert answer["guests_limit"] == "off"

    run(work)


@pytest.mark.parametrize(
    "query",
    ["", "mode=panic", "mode=normal&capacity=5", "mode=emergency&capacity=-1", "mode=emergency&guest_share=2",
     "mode=emergency&capacity=1&capacity=2", "mode=emergency&colour=red"],
)  # fmt: skip
def test_what_could_not_be_changed_cannot_be_previewed(query: str) -> None:
    """By the same rules as PUT /mode."""

    async def work() -> None:
        assert (await Operator(shielded()).get(f"/mode/preview?{query}")).status_code == 422

    run(work)


def test_the_lists_are_masked_for_the_view_token_as_well() -> None:
    """What the page hides is not beside it in full."""

    async def work() -> None:
        app = shielded()
        await Operator(app).put("/deny/198.51.100.0/24", {"for_seconds": 60, "reason": "with 2001:db8:1::2"})
        for path in ("/deny", "/audit"):
            whole, cut = [(await Operator(app, token).get(path)).text for token in (ADMIN, VIEW)]
            assert "198.51.100.0/24" in whole
            assert "198.51.100" not in cut
            assert "198.51.x.x/24" in cut
            assert "2001:db8:1" not in cut

    run(work)


def test_while_the_store_is_away_the_lists_are_those_last_known(monkeypatch: pytest.MonkeyPatch) -> None:
    """And it is said that they are old; everything else goes on."""

    async def away(*_: object) -> None:
        raise StoreUnavailable("away")

    async def work() -> None:
        app = shielded()
        await Operator(app).put("/deny/198.51.100.0/24", {"for_seconds": 60})
        async with page(app) as opened:
            state = await opened.state_when(lambda state: state["denied"])
            assert state["lists"] == "current"
            monkeypatch.setattr(Control, "audit", away)
            state = await opened.state_when(lambda state: state["lists"] == "stale")
            assert [entry["cidr"] for entry in state["denied"]] == ["198.51.100.0/24"]
            assert len(state["audit"]) == state["denied_count"] == 1
            monkeypatch.undo()
            await opened.state_when(lambda state: state["lists"] == "current")

    run(work)


def test_workers_that_do_not_follow_are_named() -> None:
    """As many as report; one that shares the seats and does not report is silent."""

    async def work() -> None:
        app = shielded()
        async with page(app) as opened:
            await opened.next_state()
            worker = app._worker
            assert worker is not None
            store, now_s = worker.control._store, worker.control.now_s()
            nobody = Audience()
            for name, version in (("old", None), ("late", 0)):
                load = WorkerLoad(name, "web-2", 7, now_s, 0, 0, 4, nobody, nobody, nobody, 0, version)
                await store.report_load(load)
            await store.seats(Report("mute", nobody, nobody), UNLIMITED)
            for name in ("old", "late"):
                await store.seats(Report(name, nobody, nobody), UNLIMITED)
            await Operator(app).put("/mode", FLOOD)
            worker.entrance.seats.refresh_soon()
            wanted = {"version": 1, "follow": 2, "behind": ["web-2, process 7"], "silent": 1}
            await opened.state_when(lambda state: state["obedience"] == wanted)

    run(work)
