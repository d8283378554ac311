"""GET /deny.txt as the fetcher of an edge sees it: in process, through the whole shield."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from admin.app import HOME, VIEW, Operator, run, shielded
from shieldmw.errors import StoreUnavailable
from shieldmw.store.memory import MemoryStore

DENIED = {"for_seconds": 600, "reason": "flood\n0.0.0.0/0"}


def cidrs(text: str) -> list[str]:
    """The networks of a list."""
    return [line for line in text.splitlines() if not line.startswith("#")]


def test_the_view_token_gets_whole_addresses() -> None:
    """The fleet's entries and SHIELD_DENY_IPS, as text that no browser takes for anything else."""

    async def work() -> None:
        app = shielded(deny_ips="192.0.2.7")
        assert (await Operator(app).put("/deny/198.51.100.7", DENIED)).status_code == 200
        answer = await Operator(app, VIEW).get("/deny.txt")
        assert cidrs(answer.text) == ["192.0.2.7/32", "198.51.100.7/32"]
        assert answer.headers["content-type"] == "text/plain; charset=utf-8"
        assert answer.headers["cache-control"] == "private, no-cache"
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert answer.headers["content-length"] == str(len(answer.content))

    run(work)


@pytest.mark.parametrize(
    ("shown", "status"),
    [("{}", 304), ("W/{}", 304), ('"x", {}', 304), ('W/"x" , W/{}', 304), ("*", 304), ('"x"', 200), ("", 200)],
)
def test_what_the_edge_has_is_not_sent_again(shown: str, status: int) -> None:
    """If-None-Match as RFC 9110 has it: a list, compared weakly."""

    async def work() -> None:
        operator = Operator(shielded(deny_ips="192.0.2.7"), VIEW)
        etag = (await operator.get("/deny.txt")).headers["etag"]
        again = await operator.get("/deny.txt", headers={"if-none-match": shown.replace("{}", etag)})
        assert (again.status_code, again.headers["etag"]) == (status, etag)
        assert again.headers["cache-control"] == "private, no-cache"
        assert bool(again.content) == (status == 200)

    run(work)


def test_a_change_makes_another_tag_at_once() -> None:
    """Denied, and lifted again: the edge is told with the next request."""

    async def work() -> None:
        app = shielded()
        operator, edge = Operator(app), Operator(app, VIEW)

        async def fetched(etag: str) -> Any:
            return await edge.get("/deny.txt", headers={"if-none-match": etag})

        empty = await fetched("")
        await operator.put("/deny/198.51.100.0/24", DENIED)
        one = await fetched(empty.headers["etag"])
        assert (one.status_code, cidrs(one.text)) == (200, ["198.51.100.0/24"])
        await operator.ask("DELETE", "/deny/198.51.100.0/24")
        none = await fetched(one.headers["etag"])
        assert (none.status_code, cidrs(none.text)) == (200, [])

    run(work)


def test_head_tells_the_length_and_the_tag() -> None:
    """The same fields as those of a GET."""

    async def work() -> None:
        operator = Operator(shielded(deny_ips="192.0.2.7"), VIEW)
        got, head = await operator.get("/deny.txt"), await operator.ask("HEAD", "/deny.txt")
        assert head.status_code == 200
        assert head.headers == got.headers

    run(work)


def test_there_is_no_list_while_the_store_is_away(monkeypatch: pytest.MonkeyPatch) -> None:
    """A worker that has just started knows nothing: an empty list would open the edge, so there is none."""

    async def away(*_: object) -> None:
        raise StoreUnavailable("away")

    async def work() -> None:
        monkeypatch.setattr(MemoryStore, "deny_list", away)
        answer = await Operator(shielded(deny_ips="192.0.2.7"), VIEW).get("/deny.txt")
        assert (answer.status_code, answer.headers["content-type"]) == (503, "application/problem+json")
        assert "192.0.2.7" not in answer.text

    run(work)


@pytest.mark.parametrize("method", ["PUT", "DELETE", "POST"])
def test_it_is_not_written_to(method: str) -> None:
    """It is no network: only looked at."""

    async def work() -> None:
        answer = await Operator(shielded()).ask(method, "/deny.txt", json=DENIED)
        assert (answer.status_code, set(answer.headers["allow"].split(", "))) == (405, {"GET", "HEAD"})

    run(work)


def test_many_edges_at_once_get_the_same() -> None:
    """Nobody gets a list half made."""

    async def work() -> None:
        app = shielded()
        operator = Operator(app, address=HOME)
        for number in range(50):
            await operator.put(f"/deny/10.{number}.0.0/16", DENIED)
        answers = await asyncio.gather(*(Operator(app, VIEW).get("/deny.txt") for _ in range(20)))
        assert {len(cidrs(answer.text)) for answer in answers} == {50}

    run(work)
