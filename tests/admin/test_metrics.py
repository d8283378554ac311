"""GET /metrics: who may read it, what it says of a worker, and that nothing a client sent is in it."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from prometheus_client import Metric as Family
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families as parse_text

from admin.app import ADMIN, VIEW, WRONG, Operator, run, shielded
from shieldmw.core.metrics import FLEET_METRICS, METRICS

OPENMETRICS = "application/openmetrics-text"
HOSTILE = '"} evil{a="b"}\\\n# EOF\n<script>\x1b]0;\x07'


def names_in_openmetrics(text: str) -> set[str]:
    """The metrics of a page in that format, whose parser has no types."""
    parse: Callable[[str], Iterable[Family]] = parse_openmetrics
    return {family.name for family in parse(text)}


def test_the_view_token_suffices_and_no_token_does_not() -> None:
    """As the other routes that only tell."""

    async def work() -> None:
        app = shielded()
        for token, status in ((None, 401), (WRONG, 401), (VIEW, 200), (ADMIN, 200)):
            assert (await Operator(app, token).get("/metrics")).status_code == status
        assert (await Operator(app, ADMIN, sec_fetch_site="cross-site").get("/metrics")).status_code == 403
        for method in ("PUT", "POST", "DELETE"):
            assert (await Operator(app, ADMIN).ask(method, "/metrics")).status_code == 405

    run(work)


def test_both_formats_are_answered() -> None:
    """Every metric is there; nothing may be stored, and a HEAD has no body."""

    async def work() -> None:
        app = shielded()
        text = await Operator(app, VIEW).get("/metrics")
        assert text.headers["content-type"].startswith("text/plain; version=0.0.4; charset=utf-8")
        assert text.headers["cache-control"] == "no-store"
        assert text.headers["x-content-type-options"] == "nosniff"
        openmetrics = await Operator(app, VIEW, accept=OPENMETRICS).get("/metrics")
        assert openmetrics.headers["content-type"].startswith(OPENMETRICS)
        names = {metric.name.removesuffix("_total") for metric in (*METRICS, *FLEET_METRICS)}
        assert {family.name for family in parse_text(text.text)} == names
        assert names_in_openmetrics(openmetrics.text) == names
        head = await Operator(app, VIEW).ask("HEAD", "/metrics")
        assert (head.status_code, head.content) == (200, b"")

    run(work)


def test_nothing_that_a_client_sent_is_told() -> None:
    """No path, query, header, credential or address, however hostile: the labels come from a table."""

    async def work() -> None:
        app = shielded()
        stranger = Operator(app, None, "198.51.100.77", user_agent="evil-agent", accept="evil-accept")
        for path in ("/evil", "/%22%7D%0Aevil", f"/?evil={HOSTILE.encode().hex()}"):
            await stranger.anywhere(path)
        await Operator(app, None, "198.51.100.77", authorization="Bearer evil-token").anywhere("/evil")
        await Operator(app, "evil-token", "198.51.100.77").get("/metrics", params={"evil": HOSTILE})
        for accept in (OPENMETRICS, f"{OPENMETRICS};version=evil;escaping=evil"):
            answer = await Operator(app, VIEW, accept=accept).get("/metrics", params={"evil": HOSTILE})
            assert "evil" not in answer.text + str(answer.headers)
            assert "198.51.100" not in answer.text

    run(work)


def test_the_numbers_are_those_of_now() -> None:
    """Gauges and counters: this worker's, as of the scrape."""

    async def work() -> None:
        app = shielded(ip_limit="2/day", live_paths="/live", capacity=5)

        async def value(name: str, **labels: str) -> float:
            text = (await Operator(app, VIEW).get("/metrics")).text
            return sum(
                sample.value
                for family in parse_text(text)
                for sample in family.samples
                if sample.name == name and sample.labels.items() >= labels.items()
            )

        for _ in range(3):
            await Operator(app, None, "198.51.100.77").anywhere("/")
        assert await value("shield_decisions_total", outcome="allowed") == 2
        assert await value("shield_decisions_total", outcome="refused", reason="quota") == 1
        assert await value("shield_capacity") == 5
        assert await value("shield_store_up") == 1
        assert await value("shield_table_entries", table="memory_buckets") == 1
        assert await value("shield_mode", mode="normal") == 1
        assert await value("shield_mode_until_timestamp_seconds") == 0
        emergency = {"mode": "emergency", "for_seconds": 60, "reason": "flood"}
        switched = await Operator(app, ADMIN).put("/mode", emergency)
        assert switched.status_code == 200
        assert await value("shield_mode", mode="normal") == 0
        assert await value("shield_mode", mode="emergency") == 1
        assert await value("shield_mode_until_timestamp_seconds") > 1_700_000_000
        assert await value("shield_table_entries", table="deny_list") == 0
        await Operator(app, ADMIN).put("/deny/192.0.2.0/24", {"for_seconds": 60})
        assert await value("shield_table_entries", table="deny_list") == 1

    run(work)


def test_credentials_that_fail_are_counted_by_reason() -> None:
    """When they are first seen; the worker's own count goes on however often it is scraped."""

    async def work() -> None:
        app = shielded(jwt_secret="s" * 32)
        for token in ("no-jwt", "no-jwt", "another"):
            await Operator(app, token, "198.51.100.77").anywhere("/")
        for _ in range(2):
            text = (await Operator(app, VIEW).get("/metrics")).text
            found = {
                sample.labels["reason"]: sample.value
                for family in parse_text(text)
                for sample in family.samples
                if sample.name == "shield_credentials_refused_total" and sample.value
            }
            assert found == {"malformed": 2}

    run(work)
