"""Metrics of `shieldmw serve`: any worker tells of all, and no counter falls, even if a worker is killed."""

from __future__ import annotations

import http.client
import os
import re
import signal
from collections import Counter
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

from e2e.clients import TIMEOUT_S
from e2e.test_serve_admin import listening
from servers import HOST, HttpServer, asgi_server, wait_until
from servers.processes import STOP_TIMEOUT_S

ADMIN, VIEW = "an-admin-token-of-some-length", "a-view-token-of-some-length"
ALLOWED = 6000
SETTINGS = {
    "SHIELD_ADMIN_TOKEN": ADMIN,
    "SHIELD_VIEW_TOKEN": VIEW,
    "SHIELD_IP_LIMIT": f"{ALLOWED}/day",
    "SHIELD_REDIS_TIMEOUT_MS": "5000",
    "SHIELD_OVERLOAD": "off",
}

WORKERS, REQUESTS, SCRAPES = 4, 10_000, 50

# The requests of one connection: few enough that many connections are spread over all workers.
OF_A_CONNECTION = 50


class Sample(NamedTuple):
    """One series: its name and labels."""

    name: str
    labels: tuple[tuple[str, str], ...]


Values = Mapping[Sample, float]


def scrape(server: HttpServer) -> Values:
    """All values, from any worker: each scrape has a connection of its own."""
    answer = httpx.get(
        f"{server.base_url}/-/shield/metrics", headers={"authorization": f"Bearer {VIEW}"}, timeout=TIMEOUT_S
    )
    assert answer.status_code == 200
    return values_of(answer.text)


def values_of(text: str) -> Values:
    """All values of a page."""
    return {
        Sample(sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def counters(values: Values) -> Values:
    """Those that may only grow."""
    ends = ("_total", "_count", "_sum", "_bucket")
    return {sample: value for sample, value in values.items() if sample.name.endswith(ends)}


def total(values: Values, name: str, **labels: str) -> float:
    """The sum over all series with these labels."""
    return sum(
        value
        for sample, value in values.items()
        if sample.name == name and dict(sample.labels).items() >= labels.items()
    )


def workers_in(values: Values) -> set[str]:
    """The workers that are told of."""
    return {dict(sample.labels)["worker"] for sample in values if "worker" in dict(sample.labels)}


def answers(server: HttpServer, connections: int) -> Counter[int]:
    """The statuses of many requests, over so many connections."""

    def some(_: int) -> Counter[int]:
        connection = http.client.HTTPConnection(HOST, server.port, timeout=TIMEOUT_S)
        found: Counter[int] = Counter()
        for _ in range(OF_A_CONNECTION):
            connection.request("GET", "/hello")
            answer = connection.getresponse()
            answer.read()
            found[answer.status] += 1
        connection.close()
        return found

    with ThreadPoolExecutor(8) as pool:
        return sum(pool.map(some, range(connections)), Counter())


def scraped_meanwhile(server: HttpServer, connections: int, scrapes: int) -> tuple[Counter[int], list[Values]]:
    """The same, and what was scraped while they were answered."""
    with ThreadPoolExecutor(1) as pool:
        answered = pool.submit(answers, server, connections)
        found = [scrape(server) for _ in range(scrapes)]
        return answered.result(), found


def started(server: HttpServer) -> list[int]:
    """The process ids of all workers so far."""
    return [int(found) for found in re.findall(r"\[INFO\].*Spawning worker-\d with PID: (\d+)", server.log())]


def falls(scrapes: list[Values]) -> Iterator[str]:
    """Every counter that was smaller in one scrape than in the one before."""
    for before, after in pairwise(scrapes):
        for sample, value in counters(before).items():
            if after.get(sample, 0) < value:
                yield f"{sample}: {value} -> {after.get(sample)}"


@pytest.mark.timeout(240)
def test_sums_are_exact_and_no_counter_falls_though_a_worker_is_killed(tmp_path: Path) -> None:
    """It is killed right after its last answer, with no time to write anything; the next one goes on in its place."""
    with asgi_server("shieldmw", "apps:app", env=SETTINGS, cwd=tmp_path, workers=WORKERS) as server:
        half = REQUESTS // OF_A_CONNECTION // 2
        first, scrapes = scraped_meanwhile(server, half, SCRAPES // 2)
        pids = started(server)
        assert len(pids) == WORKERS
        os.kill(pids[1], signal.SIGKILL)
        scrapes.append(scrape(server))
        wait_until(lambda: len(started(server)) == WORKERS + 1, STOP_TIMEOUT_S, "another worker", server.log)
        second, more = scraped_meanwhile(server, half, SCRAPES // 2)
        scrapes += [*more, scrape(server)]

    answered = first + second
    assert answered[200] + answered[429] == REQUESTS
    assert 0 < answered[200] <= ALLOWED  # fewer if the killed worker held prefetched units
    assert workers_in(scrapes[0]) == workers_in(scrapes[-1]) == {str(number) for number in range(WORKERS)}
    decided = "shield_decisions_total"
    until_ready = total(scrapes[-1], decided, reason="exempt")
    assert total(scrapes[-1], decided) - until_ready == REQUESTS
    assert total(scrapes[-1], decided, outcome="allowed", reason="within_limits") == answered[200]
    assert total(scrapes[-1], decided, outcome="refused", reason="quota") == answered[429]
    assert list(falls(scrapes)) == []
    calls = total(scrapes[-1], "shield_store_calls_total", script="take", result="ok")
    assert 0 < calls == total(scrapes[-1], "shield_store_batch_size_count")
    asked = total(scrapes[-1], "shield_store_batch_size_sum")
    assert calls <= asked == total(scrapes[-1], "shield_decision_seconds_count", path="store") < REQUESTS


def test_the_listener_for_operators_tells_of_all_workers(tmp_path: Path) -> None:
    """Though it is none itself: it has no values of its own."""
    with listening("tcp", tmp_path, workers=2, env={"SHIELD_REDIS_TIMEOUT_MS": "5000"}) as found:
        assert httpx.get(f"{found.server.base_url}/hello", timeout=TIMEOUT_S).status_code == 200
        answer = found.operator.get("/-/shield/metrics")
        assert answer.status_code == 200
        values = values_of(answer.text)
        assert workers_in(values) == {"0", "1"}
        assert total(values, "shield_decisions_total", reason="unlimited") == 1
        assert total(values, "shield_mode", mode="normal") == 2


def test_under_other_servers_a_worker_tells_of_itself(tmp_path: Path) -> None:
    """Under the id of its process, so that the values of several are not taken for one's."""
    env = {**SETTINGS, "SHIELD_REDIS_URL": "memory://"}
    with asgi_server("uvicorn", "shielded_app:shielded", env=env, cwd=tmp_path) as server:
        assert answers(server, 1) == {200: OF_A_CONNECTION}
        values = scrape(server)
        (worker,) = workers_in(values)
        assert (Path("/proc") / worker).is_dir()
        assert total(values, "shield_decisions_total", outcome="allowed", reason="within_limits") == OF_A_CONNECTION
