"""The admin routes as operators and attackers see them: in process, through the whole shield."""

from __future__ import annotations

import asyncio
import json
import os
import socket
from collections.abc import AsyncIterator
from typing import Any
from urllib.parse import unquote

import httpx
import pytest
from starlette.applications import Starlette
from starlette.types import Message, Receive, Scope, Send

from admin.app import ADMIN, HOME, VIEW, WRONG, Operator, app_below, run, shielded
from doors.asgi.harness import http_scope
from shieldmw import ShieldMiddleware
from shieldmw.admin.load import WorkerLoadItem
from shieldmw.admin.routes import OPERATIONS
from shieldmw.core.concurrency import FIRST
from shieldmw.core.load import WorkerLoad
from shieldmw.core.seats import Audience

ROUTES = [
    ("GET", "/status"),
    ("PUT", "/mode"),
    ("GET", "/limits"),
    ("PUT", "/limits"),
    ("GET", "/audit"),
    ("GET", "/top"),
    ("GET", "/deny"),
    ("GET", "/deny.txt"),
    ("GET", "/deny/203.0.113.0/24"),
    ("PUT", "/deny/203.0.113.0/24"),
    ("DELETE", "/deny/203.0.113.0/24"),
    ("POST", "/reset"),
    ("GET", "/metrics"),
    ("GET", "/openapi.json"),
    ("GET", "/no-such-route"),
]
EMERGENCY = {"mode": "emergency", "for_seconds": 60, "reason": "flood"}


def is_problem(answer: httpx.Response, status: int) -> dict[str, Any]:
    """The problem details of an answer that must be one."""
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.headers["cache-control"] == "no-store"
    assert answer.headers["x-content-type-options"] == "nosniff"
    told: dict[str, Any] = answer.json()
    assert told["status"] == status
    assert told["title"]
    assert told["detail"]
    return told


# --- who


@pytest.mark.parametrize(("method", "path"), ROUTES)
def test_no_route_answers_without_the_right_token(method: str, path: str) -> None:
    """No token and a wrong one are 401 everywhere, the view token changes nothing, other sites get nothing."""

    async def work() -> None:
        app = shielded()
        for token in (None, WRONG):
            answer = await Operator(app, token).ask(method, path)
            is_problem(answer, 401)
            assert answer.headers["www-authenticate"] == "Bearer"
        looked = await Operator(app, VIEW).ask(method, path)
        assert looked.status_code != 401
        assert (looked.status_code == 403) == (method != "GET")
        is_problem(await Operator(app, ADMIN, sec_fetch_site="cross-site").ask(method, path), 403)

    run(work)


def test_without_an_admin_token_there_are_no_admin_routes() -> None:
    """The app has the path to itself, and a view token alone opens nothing."""

    async def work() -> None:
        app = shielded(admin_token=None)
        answer = await Operator(app).get("/status")
        assert answer.text == "the app at /-/shield/status"

    run(work)


def test_the_operator_comes_in_whatever_the_gate_says() -> None:
    """A used-up bucket, an emergency, a deny list with the operator on it: the door is before all of them."""

    async def work() -> None:
        app = shielded(ip_limit="1/day", deny_ips=f"{HOME}/32")
        operator = Operator(app)
        assert (await operator.anywhere("/")).status_code == 429
        assert (await operator.put("/mode", EMERGENCY)).status_code == 200
        denied = await operator.put(f"/deny/{HOME}", {"for_seconds": 60, "force": True})
        assert denied.status_code == 200
        assert (await operator.get("/status")).json()["mode"] == "emergency"
        assert (await operator.ask("DELETE", f"/deny/{HOME}")).status_code == 204

    run(work)


def test_brute_force_is_locked_out_and_the_operator_elsewhere_is_not() -> None:
    """From one address: soon only 429, but for the right token; from another all is as ever, in an emergency too."""

    async def work() -> None:
        app = shielded()
        operator, guesser = Operator(app, address="192.0.2.1"), Operator(app, WRONG)
        assert (await operator.put("/mode", EMERGENCY)).status_code == 200
        statuses = [(await guesser.get("/status")).status_code for _ in range(10)]
        assert statuses == [401] * 3 + [429] * 7
        locked = await guesser.get("/status")
        is_problem(locked, 429)
        assert int(locked.headers["retry-after"]) >= 1
        assert (await Operator(app).get("/status")).status_code == 200
        assert (await operator.get("/status")).status_code == 200

    run(work)


# --- where

NOT_ADMIN = [
    "//-/shield/status",
    "/-//shield/status",
    "/-/shield/../x",
    "/-/shield/..",
    "/-/shield/../../-/shieldx",
    "/-/shield%2fstatus",
    "/-%2fshield/status",
    "/%2d/shield/status",
    "/-/shield%00/status",
    "/-/shield;x/status",
    "/-/SHIELD/status",
    "/-/shieldx",
    "/x/-/shield/status",
    "/./-/shield/status",
    "/-/shield/%2e%2e/x",
    "/-/shield\\status",
]


@pytest.mark.parametrize("path", NOT_ADMIN)
def test_a_path_that_only_looks_like_an_admin_route_is_the_apps(path: str) -> None:
    """Whatever some server would make of it: without the exact prefix the request goes its usual way."""

    async def work() -> None:
        answer = await raw(shielded(), path)
        assert answer["status"] == 200
        assert answer["body"].startswith(b"the app at ")

    run(work)


INSIDE = ["/-/shield//", "/-/shield//status", "/-/shield/./status", "/-/shield/x/../status", "/-/shield/%73tatus/"]


@pytest.mark.parametrize("path", INSIDE)
def test_odd_paths_below_the_prefix_need_the_token_like_all_others(path: str) -> None:
    """The app never sees them, and none of them is a second name of a route."""

    async def work() -> None:
        assert (await raw(shielded(), path))["status"] == 401
        assert (await raw(shielded(), path, ADMIN))["status"] == 404

    run(work)


async def raw(app: Any, target: str, token: str | None = None) -> dict[str, Any]:
    """Ask for a target as it is, as no well-behaved client would."""
    sent: list[Message] = []

    async def receive() -> Message:
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(message: Message) -> None:
        sent.append(message)

    scope = {
        "type": "http",
        "asgi": {"version": "3.0"},
        "http_version": "1.1",
        "method": "GET",
        "scheme": "http",
        "path": unquote(target),
        "raw_path": target.encode(),
        "root_path": "",
        "query_string": b"",
        "headers": [] if token is None else [(b"authorization", f"Bearer {token}".encode())],
        "client": (HOME, 4000),
        "server": ("192.0.2.1", 80),
        "state": {},
        "extensions": {},
    }
    await app(scope, receive, send)
    return {"status": sent[0]["status"], "body": b"".join(message.get("body", b"") for message in sent)}


def test_the_status_tells_how_each_workers_app_stands() -> None:
    """In milliseconds and a second, as people say it; what is shed is counted by class."""

    async def work() -> None:
        app = shielded()
        answer = (await Operator(app).get("/status")).json()["overload"]
        (worker,) = answer.pop("workers")
        assert answer == {"setting": "on", "counted": "fleet"}
        nobody = {"host": 0, "member": 0, "guest": 0}
        assert len(worker.pop("worker")) == 16
        assert (worker.pop("pid"), worker.pop("host")) == (os.getpid(), socket.gethostname())
        in_flight = {"turn_ms": 0.0, "in_flight": 0, "in_flight_limit": FIRST, "mode_version": 0}
        assert worker == {**in_flight, "waiting": nobody, "shed": nobody, "shed_per_second": nobody}

    run(work)


def test_numbers_of_a_load_are_those_of_its_report() -> None:
    """The rate is that of the last seconds, also where it is less than one a second."""
    counts = (Audience(1, 2, 17), Audience(0, 5, 2844), Audience(0, 1, 2480))
    load = WorkerLoad("w", "web-1", 42, 0, 11_260, 5, 128, *counts, 2000, 7)
    assert WorkerLoadItem.of(load).model_dump() == {
        **{"worker": "w", "host": "web-1", "pid": 42, "turn_ms": 11.3, "in_flight": 5, "in_flight_limit": 128},
        "waiting": {"host": 1, "member": 2, "guest": 17},
        "shed": {"host": 0, "member": 5, "guest": 2844},
        "shed_per_second": {"host": 0.0, "member": 0.5, "guest": 1240.0},
        "mode_version": 7,
    }


def test_an_app_route_under_the_prefix_is_shadowed() -> None:
    """The operator's door cannot be taken over by the app, nor asked for through its router."""

    async def work() -> None:
        app = shielded(app_below("/-/shield"))
        for path in ("/status", "/anything", ""):
            assert "the app" not in (await Operator(app, None).get(path)).text
        assert (await Operator(app).get("/status")).json()["mode"] == "normal"

    run(work)


def test_the_admin_routes_are_below_the_root_path_of_a_mounted_app() -> None:
    """Behind a prefix that the server strips or keeps the same routes answer, and say so in their document."""

    async def work() -> None:
        transport = httpx.ASGITransport(shielded(), client=(HOME, 4000), root_path="/api")
        async with httpx.AsyncClient(transport=transport, base_url="http://shield.test") as client:
            shown = {"authorization": f"Bearer {ADMIN}"}
            assert (await client.get("/api/-/shield/status", headers=shown)).status_code == 200
            document = await client.get("/api/-/shield/openapi.json", headers=shown)
            assert document.json()["servers"] == [{"url": "/api/-/shield"}]

    run(work)


def test_a_websocket_on_the_prefix_is_closed() -> None:
    """Neither the app nor the admin routes have one there."""

    async def work() -> None:
        sent: list[Message] = []

        async def send(message: Message) -> None:
            sent.append(message)

        async def receive() -> Message:
            return {"type": "websocket.connect"}

        scope = {
            "type": "websocket",
            "path": "/-/shield/status",
            "headers": [],
            "client": (HOME, 1),
            "query_string": b"",
        }
        await shielded()(scope, receive, send)
        assert [message["type"] for message in sent] == ["websocket.close"]

    run(work)


@pytest.mark.parametrize(
    ("path", "allow"),
    [("/status", {"GET", "HEAD"}), ("/mode", {"PUT"}), ("/deny/::1", {"GET", "HEAD", "PUT", "DELETE"})],
)
def test_other_methods_are_told_which_there_are(path: str, allow: set[str]) -> None:
    """405, with all methods of the path in Allow."""

    async def work() -> None:
        answer = await Operator(shielded()).ask("PATCH", path)
        is_problem(answer, 405)
        assert set(answer.headers["allow"].split(", ")) == allow

    run(work)


# --- bodies

JSON_HEADER = {"content-type": "application/json"}
BODIES: list[tuple[str, bytes, dict[str, str], int]] = [
    ("no body", b"", JSON_HEADER, 400),
    ("no JSON", b"{mode: normal}", JSON_HEADER, 400),
    ("cut short", b'{"mode": "nor', JSON_HEADER, 400),
    ("no UTF-8", b'{"mode": "normal", "reason": "\xff"}', JSON_HEADER, 400),
    ("half a surrogate", b'{"mode": "normal", "reason": "\\ud800"}', JSON_HEADER, 400),
    ("deep", b"[" * 8000, JSON_HEADER, 400),
    ("a huge number", b'{"mode": "emergency", "capacity": 1' + b"0" * 9000 + b"}", JSON_HEADER, 400),
    ("not a number", b'{"mode": "emergency", "guest_share": NaN}', JSON_HEADER, 422),
    ("a list", b"[]", JSON_HEADER, 422),
    ("null", b"null", JSON_HEADER, 422),
    ("a form", b"mode=normal", {"content-type": "application/x-www-form-urlencoded"}, 415),
    ("text", b'{"mode": "normal"}', {"content-type": "text/plain"}, 415),
    ("no type", b'{"mode": "normal"}', {}, 415),
    ("compressed", b"x", {**JSON_HEADER, "content-encoding": "gzip"}, 415),
    ("too large", b'{"mode": "normal"}' + b" " * 16_384, JSON_HEADER, 413),
]


@pytest.mark.parametrize(("name", "body", "headers", "status"), BODIES, ids=[each[0] for each in BODIES])
def test_a_malformed_body_changes_nothing(name: str, body: bytes, headers: dict[str, str], status: int) -> None:
    """Each is refused with what is wrong, and version and audit stay as they were."""

    async def work() -> None:
        operator = Operator(shielded())
        is_problem(await operator.ask("PUT", "/mode", content=body, headers=headers), status)
        assert (await operator.get("/status")).json()["version"] == 0
        assert (await operator.get("/audit")).json()["entries"] == []

    run(work)


def test_a_body_without_a_length_is_refused_once_it_is_too_long() -> None:
    """What has come until then is not kept, and what comes then is read for nothing."""

    async def work() -> None:
        async def endless() -> AsyncIterator[bytes]:
            for _ in range(100):
                yield b" " * 1024

        answer = await Operator(shielded()).ask("PUT", "/mode", content=endless(), headers=JSON_HEADER)
        is_problem(answer, 413)

    run(work)


FIELDS: list[tuple[dict[str, Any], set[str]]] = [
    ({}, {"mode"}),
    ({"mode": "panic"}, {"mode"}),
    (
        {"mode": "emergency", "for_seconds": 0, "capacity": -1, "guest_share": 2},
        {"for_seconds", "capacity", "guest_share"},
    ),
    (
        {"mode": "emergency", "for_seconds": "60", "capacity": 1.5, "guest_share": "0"},
        {"for_seconds", "capacity", "guest_share"},
    ),
    ({"mode": "emergency", "for_seconds": True, "capacity": False}, {"for_seconds", "capacity"}),
    ({"mode": "emergency", "for_seconds": 604_801}, {"for_seconds"}),
    ({"mode": "emergency", "for": 60, "Capacity": 1}, {"for", "Capacity"}),
    (
        {"mode": "normal", "for_seconds": 60, "capacity": 1, "guest_share": 0},
        {"for_seconds", "capacity", "guest_share"},
    ),
    ({"mode": "emergency", "reason": "x" * 201}, {"reason"}),
    ({"mode": "emergency", "reason": "\u001b[2J\u202e"}, {"reason"}),
    ({"mode": "emergency", "reason": 7}, {"reason"}),
]


@pytest.mark.parametrize(("body", "fields"), FIELDS)
def test_bad_input_is_told_field_by_field_and_changes_nothing(body: dict[str, Any], fields: set[str]) -> None:
    """Types are not guessed, names are not guessed, and all mistakes are told at once."""

    async def work() -> None:
        operator = Operator(shielded())
        told = is_problem(await operator.put("/mode", body), 422)
        assert {error["field"] for error in told["errors"]} == fields
        assert all(error["message"] for error in told["errors"])
        assert (await operator.get("/status")).json()["version"] == 0
        assert (await operator.get("/audit")).json()["entries"] == []

    run(work)


# --- the mode


def test_a_switch_is_told_with_all_that_was_asked_and_audited() -> None:
    """The answer is the new status; the audit says who, what, from, to, why and when."""

    async def work() -> None:
        operator = Operator(shielded(capacity=100), shield_actor="kim")
        body = {**EMERGENCY, "capacity": 50, "guest_share": 0.5, "reason": " flood\n on\u00a0/live "}
        answer = await operator.put("/mode", body)
        now = answer.json()
        assert (answer.status_code, answer.headers["etag"]) == (200, '"1"')
        assert (now["mode"], now["version"], now["actor"]) == ("emergency", 1, "admin (kim)")
        assert (now["capacity"], now["guest_seats"], now["guest_share"]) == (50, 25, 0.5)
        assert now["reason"] == "flood on /live"
        assert now["until"] == pytest.approx(now["since"] + 60)
        back = await operator.put("/mode", {"mode": "normal", "for_seconds": None})
        assert (back.json()["mode"], back.json()["until"]) == ("normal", None)
        (last, first) = (await operator.get("/audit")).json()["entries"]
        assert (first["who"], first["what"], first["from"], first["to"]) == (
            "admin (kim)",
            "mode",
            "normal",
            "emergency, for 60 s, capacity 50, guest share 50 %",
        )
        assert first["why"] == "flood on /live"
        assert (last["from"], last["to"]) == ("emergency", "normal")
        assert first["when_utc"].endswith("Z")
        assert len((await operator.get("/audit?count=1")).json()["entries"]) == 1

    run(work)


def test_no_secret_is_in_any_answer() -> None:
    """Settings are shown, tokens and keys are not."""

    async def work() -> None:
        secret = "a-jwt-secret-that-must-not-be-seen-here"
        operator = Operator(shielded(jwt_secret=secret))
        for path in ("/status", "/audit", "/openapi.json"):
            text = (await operator.get(path)).text
            assert not any(hidden in text for hidden in (ADMIN, VIEW, secret))

    run(work)


@pytest.mark.parametrize("version", ["1", '"1"', "*"])
def test_the_version_that_is_in_force_lets_a_change_through(version: str) -> None:
    """Bare, quoted, or any."""

    async def work() -> None:
        operator = Operator(shielded())
        await operator.put("/mode", EMERGENCY)
        assert (await operator.get("/status")).headers["etag"] == '"1"'
        assert (await operator.put("/mode", {"mode": "normal"}, if_match=version)).status_code == 200

    run(work)


@pytest.mark.parametrize("version", ["0", '"2"', "-1", "", "one", 'W/"1"', '"1", "2"', "9" * 400, "١"])
def test_another_version_stops_a_change_and_shows_what_is_in_force(version: str) -> None:
    """412 with the current status in it; what is no version is no match either."""

    async def work() -> None:
        operator = Operator(shielded(), shield_actor="kim")
        await operator.put("/mode", EMERGENCY)
        body = json.dumps({"mode": "normal"})
        headers = [("if-match", version.encode()), ("content-type", b"application/json")]
        told = is_problem(await operator.ask("PUT", "/mode", content=body, headers=headers), 412)
        assert (told["current"]["mode"], told["current"]["actor"]) == ("emergency", "admin (kim)")
        assert (await operator.get("/status")).json()["version"] == 1

    run(work)


def test_of_two_operators_at_once_one_wins_and_the_other_is_told_who() -> None:
    """If-Match decides; the audit has the change that was made and nothing of the one that was not."""

    async def work() -> None:
        app = shielded()
        kim, jo = Operator(app, shield_actor="kim"), Operator(app, address="192.0.2.1", shield_actor="jo")
        both = await asyncio.gather(
            kim.put("/mode", EMERGENCY, if_match="0"), jo.put("/mode", {**EMERGENCY, "capacity": 5}, if_match="0")
        )
        won, lost = sorted(both, key=lambda answer: answer.status_code)
        assert won.status_code == 200
        assert is_problem(lost, 412)["current"]["actor"] == won.json()["actor"]
        (entry,) = (await kim.get("/audit")).json()["entries"]
        assert entry["who"] == won.json()["actor"]

    run(work)


@pytest.mark.parametrize("actor", ["", "x" * 65, "kim\tjo", "kïm", "\x7f"])
def test_a_name_that_cannot_be_printed_is_refused(actor: str) -> None:
    """It goes to the audit, to logs and to terminals."""

    async def work() -> None:
        operator = Operator(shielded())
        headers = [("shield-actor", actor.encode()), ("content-type", b"application/json")]
        is_problem(await operator.ask("PUT", "/mode", content=b'{"mode": "normal"}', headers=headers), 422)
        assert (await operator.get("/audit")).json()["entries"] == []

    run(work)


# --- the deny list


def test_a_network_is_denied_and_let_go() -> None:
    """PUT denies, GET shows, DELETE lets go; what is not there is 404."""

    async def work() -> None:
        app = shielded()
        operator = Operator(app)
        is_problem(await operator.get("/deny/198.51.100.0/24"), 404)
        put = await operator.put("/deny/198.51.100.0%2F24", {"for_seconds": 60, "reason": "flood"})
        assert (put.status_code, put.json()["cidr"]) == (200, "198.51.100.0/24")
        assert (await Operator(app, None, "198.51.100.7").anywhere("/")).status_code == 429
        assert (await operator.get("/deny/198.51.100.0/24")).json()["reason"] == "flood"
        assert [entry["cidr"] for entry in (await operator.get("/deny")).json()["entries"]] == ["198.51.100.0/24"]
        gone = await operator.ask("DELETE", "/deny/198.51.100.0/24")
        assert (gone.status_code, gone.content) == (204, b"")
        is_problem(await operator.ask("DELETE", "/deny/198.51.100.0/24"), 404)
        assert (await Operator(app, None, "198.51.100.7").anywhere("/")).status_code == 200

    run(work)


@pytest.mark.parametrize(
    "cidr", ["nobody", "203.0.113.0/33", "203.0.113.7/24", "1.2.3", "::1/129", "..", "a/b/c", "%00"]
)
def test_what_is_no_network_is_refused(cidr: str) -> None:
    """By name, for every method."""

    async def work() -> None:
        operator = Operator(shielded())
        put = await operator.put(f"/deny/{cidr.replace('..', '1..1')}", {"for_seconds": 60})
        assert is_problem(put, 422)["errors"][0]["field"] == "cidr"
        assert (await operator.get("/audit")).json()["entries"] == []

    run(work)


@pytest.mark.parametrize("body", [{}, {"for_seconds": 0}, {"for_seconds": 2_592_001}, {"for_seconds": 60, "why": ""}])
def test_a_denial_has_an_end_within_thirty_days(body: dict[str, Any]) -> None:
    """None for ever, none by accident."""

    async def work() -> None:
        operator = Operator(shielded())
        is_problem(await operator.put("/deny/198.51.100.0/24", body), 422)
        assert (await operator.get("/deny")).json()["entries"] == []

    run(work)


def test_an_operator_is_kept_from_denying_the_own_address() -> None:
    """409 that names it, unless it is meant."""

    async def work() -> None:
        operator = Operator(shielded())
        assert HOME in is_problem(await operator.put("/deny/203.0.113.0/24", {"for_seconds": 60}), 409)["detail"]
        forced = await operator.put("/deny/203.0.113.0/24", {"for_seconds": 60, "force": True})
        assert forced.status_code == 200

    run(work)


# --- buckets


def test_a_reset_client_may_ask_again() -> None:
    """The answer names whose buckets are full, and the audit who made them so."""

    async def work() -> None:
        app = shielded(ip_limit="1/day")
        guest, operator = Operator(app, None, "192.0.2.7"), Operator(app, shield_actor="kim")
        assert [(await guest.anywhere("/")).status_code for _ in range(2)] == [200, 429]
        answer = await operator.ask("POST", "/reset", json={"client": "ip:192.0.2.7", "reason": "our office"})
        assert answer.json() == {"clients": ["ip:192.0.2.7/32"]}
        assert (await guest.anywhere("/")).status_code == 200
        (entry,) = (await operator.get("/audit")).json()["entries"]
        assert (entry["who"], entry["what"], entry["why"]) == ("admin (kim)", "reset ip:192.0.2.7/32", "our office")

    run(work)


@pytest.mark.parametrize("client", ["", "alice", "ip:nobody", "token:", "host:alice", "ip:203.0.113.0/24", 7, None])
def test_a_reset_of_nobody_is_refused(client: object) -> None:
    """With the field and how to write it."""

    async def work() -> None:
        operator = Operator(shielded())
        told = is_problem(await operator.ask("POST", "/reset", json={"client": client}), 422)
        assert told["errors"][0]["field"] == "client"
        assert (await operator.get("/audit")).json()["entries"] == []

    run(work)


@pytest.mark.parametrize("client", ["127.0.0.1", "alice", "token:a\tb"])
def test_a_reset_says_how_to_write_a_client(client: str) -> None:
    """A bare address is what anyone would try first."""

    async def work() -> None:
        told = is_problem(await Operator(shielded()).ask("POST", "/reset", json={"client": client}), 422)
        assert told["errors"] == [{"field": "client", "message": "write it like 'ip:203.0.113.7' or 'token:alice'"}]

    run(work)


# --- without the store


def test_while_the_store_is_away_looking_works_and_changes_say_that_nothing_changed() -> None:
    """503 for what needs the store, 200 for the status; tokens and lockout are checked as ever."""

    async def work() -> None:
        app = shielded(redis_url="redis://127.0.0.1:1/0", redis_timeout_ms=2000)
        operator = Operator(app)
        status = (await operator.get("/status")).json()
        assert (status["mode"], status["store"]) == ("normal", "away")
        for method, path, body in [
            ("PUT", "/mode", EMERGENCY),
            ("PUT", "/deny/198.51.100.0/24", {"for_seconds": 60}),
            ("POST", "/reset", {"client": "token:alice"}),
        ]:
            assert "Nothing was changed" in is_problem(await operator.ask(method, path, json=body), 503)["detail"]
        is_problem(await operator.get("/audit"), 503)
        assert (await operator.get("/top")).json()["workers"] == 1
        guesser = Operator(app, WRONG, "192.0.2.1")
        assert [(await guesser.get("/status")).status_code for _ in range(4)] == [401, 401, 401, 429]

    run(work)


WRONG_BODIES = [
    (b'{"mode": "panic"}', "mode", "write 'normal' or 'emergency'"),
    (b'{"mode": "emergency", "for_seconds": 0}', "for_seconds", "write 1 or more"),
    (b'{"mode": "emergency", "for_seconds": "9"}', "for_seconds", "write a whole number"),
    (b'{"mode": "emergency", "capacity": 2000000000}', "capacity", "write 1000000000 or less"),
    (b'{"mode": "emergency", "guest_share": "half"}', "guest_share", "write a share from 0 to 1, such as 0.1"),
    (b'{"mode": "emergency", "reason": "%s"}' % (b"x" * 201), "reason", "write at most 200 characters"),
    (b'{"for_seconds": 9}', "mode", "is missing"),
    (b'{"mode": "emergency", "x": 1}', "x", "there is no such field"),
    (b"[]", "body", "write an object"),
]


@pytest.mark.parametrize(("body", "field", "message"), WRONG_BODIES, ids=[row[2] for row in WRONG_BODIES])
def test_what_is_wrong_with_a_body_is_said_in_our_words(body: bytes, field: str, message: str) -> None:
    """What would be right, as for settings, and none of the words of the library that validates."""

    async def story() -> None:
        answer = await Operator(shielded()).ask("PUT", "/mode", content=body, headers=JSON_HEADER)
        assert answer.status_code == 422
        assert answer.json()["errors"] == [{"field": field, "message": message}]

    run(story)


# --- the busiest


async def busy_app(**values: Any) -> ShieldMiddleware:
    """An app after some requests of two clients, of which one is over its limit."""
    app = shielded(ip_limit="5/day", **values)
    for address, path, count in (("203.0.113.7", "/feed", 3), ("198.51.100.9", "/login", 8)):
        client = Operator(app, None, address, user_agent="bot/1")
        for _ in range(count):
            await client.anywhere(path)
    return app


def test_the_busiest_are_told_with_what_was_refused() -> None:
    """Those with the most requests first; an operator's own requests are not among them."""

    async def work() -> None:
        operator = Operator(await busy_app())
        told = (await operator.get("/top")).json()
        assert (told["workers"], told["requests"], told["refused"]) == (1, 11, 3)
        assert [entry["name"] for entry in told["addresses"]] == ["198.51.100.9/32", "203.0.113.7/32"]
        assert told["paths"][0] == {
            **{"name": "/login", "requests": 8, "requests_at_most": 8, "refused": 3, "refused_at_most": 3}
        }
        assert [entry["name"] for entry in told["networks"]] == ["198.51.100.0/24", "203.0.113.0/24"]
        assert told["subjects"] == []
        assert {entry["name"] for entry in told["user_agents"]} <= {"bot/1"}
        (first,) = (await operator.get("/top?count=1")).json()["addresses"]
        assert (await operator.put(f"/deny/{first['name']}", {"for_seconds": 60})).status_code == 200

    run(work)


PLANTED = "198.51.100.77"


async def planted_app() -> ShieldMiddleware:
    """An app with an address in all that operators and clients can write, and in its settings."""
    app = shielded(deny_ips=f"{PLANTED}/32", allow_ips=PLANTED, trusted_proxies=f"{PLANTED},10.0.0.0/8", capacity=9)
    operator = Operator(app, Shield_Actor="kim")
    reason = f"from {PLANTED}:443"
    changes: dict[str, dict[str, Any]] = {
        "/mode": {"mode": "emergency", "reason": reason},
        "/limits": {"settings": {"SHIELD_IP_LIMIT": "9/day"}, "reason": reason},
        f"/deny/{PLANTED}": {"for_seconds": 60, "reason": reason},
    }
    for path, body in changes.items():
        assert (await operator.put(path, body)).status_code == 200
    await operator.ask("POST", "/reset", json={"client": f"ip:{PLANTED}"})
    for _ in range(64):  # a user agent is counted in one request of sixteen
        await Operator(app, None, user_agent=f"bot at {PLANTED}").anywhere(f"/feed/{PLANTED}")
    return app


def test_no_answer_shows_the_view_token_a_whole_address() -> None:
    """Wherever it stands: a reason, a list, a path, the settings. ``/deny.txt`` is what edges need, so it is whole."""

    async def work() -> None:
        app = await planted_app()
        whole, shown = {}, {}
        for operation in OPERATIONS:
            if not operation.changes:
                path = operation.path.replace("{cidr}", PLANTED) + "?mode=normal" * ("preview" in operation.path)
                seen, looked = [await Operator(app, token).get(path) for token in (ADMIN, VIEW)]
                assert (seen.status_code, looked.status_code) == (200, 200), path
                whole[operation.path], shown[operation.path] = PLANTED in seen.text, PLANTED in looked.text
        with_addresses = {path for path, is_there in whole.items() if is_there}
        assert with_addresses == {"/status", "/limits", "/audit", "/top", "/deny", "/deny.txt", "/deny/{cidr}"}
        assert {path for path, is_there in shown.items() if is_there} == {"/deny.txt"}

    run(work)


def test_who_may_only_look_sees_clients_in_part() -> None:
    """Enough to tell them apart; paths are shown, but for addresses in them."""

    async def work() -> None:
        told = (await Operator(await busy_app(), VIEW).get("/top")).json()
        assert [entry["name"] for entry in told["addresses"]] == ["198.51.x.x/32", "203.0.x.x/32"]
        assert told["networks"][0]["name"] == "198.51.x.x/24"
        assert told["paths"][0]["name"] == "/login"

    run(work)


def test_a_listener_who_found_no_seat_is_one_request_and_one_refusal() -> None:
    """It was admitted by its limits first."""
    begun, over = asyncio.Event(), asyncio.Event()

    async def live(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"data: x\n\n", "more_body": True})
        begun.set()
        await over.wait()
        await send({"type": "http.response.body", "body": b""})

    async def work() -> None:
        app = shielded(live, live_paths="/live", capacity=1)
        first = asyncio.create_task(Operator(app, None, "203.0.113.7").anywhere("/live"))
        await begun.wait()
        refused = await Operator(app, None, "203.0.113.8").anywhere("/live")
        assert refused.status_code == 503
        (entry,) = (await Operator(app).get("/top")).json()["paths"]
        assert (entry["name"], entry["requests"], entry["refused"]) == ("/live", 2, 1)
        over.set()
        await first

    run(work)


@pytest.mark.parametrize("count", ["0", "51", "many", "", "1&count=2", "5&more=1"])
def test_a_wrong_count_of_the_busiest_is_told(count: str) -> None:
    """With what would be right."""

    async def work() -> None:
        is_problem(await Operator(shielded()).get(f"/top?count={count}"), 422)

    run(work)


def test_hostile_names_among_the_busiest_are_text() -> None:
    """JSON carries whatever a client wrote as its path."""

    async def work() -> None:
        app = shielded(Starlette())
        path = "/<script>\x1b[2J\udcff"
        scope = http_scope("/")
        scope["path"] = path
        await app(scope, _nothing, _dropped)
        told = await Operator(app).get("/top")
        assert told.status_code == 200
        assert [entry["name"] for entry in told.json()["paths"]] == ["/<script>\x1b[2J?"]

    run(work)


async def _nothing() -> Message:
    return {"type": "http.request", "body": b"", "more_body": False}


async def _dropped(message: Message) -> None:
    """Nobody reads the answer."""
