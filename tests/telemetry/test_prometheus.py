"""The page for Prometheus, as its own parsers read it."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence

import pytest
from prometheus_client import Metric as Family
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families as parse_text

from shieldmw.core.metrics import (
    COUNT,
    DECISIONS,
    FLEET_DECISIONS,
    FLEET_METRICS,
    METRICS,
    SEATS,
    STORE_BATCH_SIZE,
    TABLE_ENTRIES,
    Metric,
    cell,
)
from shieldmw.core.seats import Audience, Fleet
from shieldmw.gate.metrics.counts import Counts
from shieldmw.gate.metrics.slots import WorkerValues
from shieldmw.gate.operator.control import Metered
from shieldmw.telemetry.prometheus import page

OPENMETRICS = "application/openmetrics-text"

# What Prometheus 3 and 2 send, and a browser.
SENT = (
    "application/openmetrics-text;version=1.0.0;escaping=allow-utf-8;q=0.6,application/openmetrics-text;version=0.0.1;"
    "q=0.5,text/plain;version=1.0.0;escaping=allow-utf-8;q=0.4,text/plain;version=0.0.4;q=0.3,*/*;q=0.2"
)
PLAIN = ("", "text/plain;version=0.0.4", "text/html,application/xhtml+xml,*/*;q=0.8", "application/json", "x" * 10_000)

Parse = Callable[[str], Iterable[Family]]
Read = dict[tuple[str, tuple[tuple[str, str], ...]], float]


def metered(*workers: WorkerValues, fleet: Fleet | None = None, decided: Sequence[int] | None = None) -> Metered:
    """What is told."""
    return Metered(workers, fleet, decided)


def values(worker: str, cells: Sequence[float] = (), *, is_running: bool = True) -> WorkerValues:
    """A worker's values: by default its number in each cell."""
    return WorkerValues(worker, cells or [float(worker)] * COUNT, is_running)


def read(text: str, parse: Parse = parse_text) -> Read:
    """The samples of a page."""
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in parse(text)
        for sample in family.samples
    }


def shown(told: Metered, accept: str = "", parse: Parse = parse_text) -> Read:
    """The samples of what is told."""
    return read(page(told, accept)[1].decode(), parse)


def at(metric: Metric, worker: str, *labels: str) -> tuple[str, tuple[tuple[str, str], ...]]:
    """One sample."""
    return metric.name, tuple(sorted([*zip(metric.labels, labels, strict=True), ("worker", worker)]))


@pytest.mark.parametrize("accept", PLAIN)
def test_text_unless_openmetrics_is_asked_for(accept: str) -> None:
    """The type says which of the two it is."""
    content_type, text = page(metered(values("0")), accept)
    assert content_type.startswith("text/plain; version=0.0.4")
    assert read(text.decode())
    assert b"# EOF" not in text


@pytest.mark.parametrize("accept", [SENT, OPENMETRICS, OPENMETRICS.upper(), f"text/plain, {OPENMETRICS};version=9"])
def test_openmetrics_if_it_is_asked_for(accept: str) -> None:
    """Whatever version: there is one."""
    content_type, text = page(metered(values("0")), accept)
    assert content_type == f"{OPENMETRICS}; version=1.0.0; charset=utf-8"
    assert text.endswith(b"# EOF\n")
    assert read(text.decode(), parse_openmetrics)


@pytest.mark.parametrize(("accept", "parse"), [("", parse_text), (OPENMETRICS, parse_openmetrics)])
def test_every_series_of_the_table_is_there(accept: str, parse: Parse) -> None:
    """Of each worker, with the type and help of the table; both formats say the same."""
    fleet = Fleet(2, Audience(1, 2, 3), Audience(4, 5, 6))
    told = metered(values("0"), values("3"), fleet=fleet, decided=range(9))
    families = {family.name: family for family in parse(page(told, accept)[1].decode())}
    for metric in (*METRICS, *FLEET_METRICS):
        family = families.pop(metric.name.removesuffix("_total"))
        assert (family.type, family.documentation) == (metric.kind.value, metric.help)
        workers = 1 if metric in FLEET_METRICS else 2
        samples = len(metric.bounds) + 3 if metric.bounds else 1
        assert len(family.samples) == workers * samples * len(metric.series)
    assert not families
    assert shown(told, accept, parse) == shown(told)


def test_a_worker_that_has_ended_tells_its_counters_and_no_gauges() -> None:
    """Its seats are gone; what it decided is not."""
    found = shown(metered(values("1", is_running=False)))
    assert found[at(DECISIONS, "1", "allowed", "within_limits", "guest")] == 1
    assert at(SEATS, "1", "guest") not in found
    assert found[STORE_BATCH_SIZE.name + "_count", (("worker", "1"),)] == 10


def test_a_histogram_adds_up() -> None:
    """Each bucket includes the smaller ones, and the last one everything."""
    counts = Counts("0")
    for size in (1, 2, 2, 300):
        counts.batch(size)
    found = shown(metered(values("0", counts.cells.tolist())))
    name = STORE_BATCH_SIZE.name
    ends = [*(repr(float(bound)) for bound in STORE_BATCH_SIZE.bounds), "+Inf"]
    buckets = [found[f"{name}_bucket", (("le", end), ("worker", "0"))] for end in ends]
    assert buckets == [1, 3, 3, 3, 3, 3, 3, 3, 3, 4]
    assert found[f"{name}_count", (("worker", "0"),)] == 4
    assert found[f"{name}_sum", (("worker", "0"),)] == 305


def test_numbers_are_told_as_they_are() -> None:
    """Large counts to the last digit, and no limit as infinity."""
    cells = [0.0] * COUNT
    cells[cell(DECISIONS, "allowed", "within_limits", "guest")] = 2.0**53 - 1
    cells[cell(TABLE_ENTRIES, "leases")] = math.inf
    found = shown(metered(values("0", cells)))
    assert found[at(DECISIONS, "0", "allowed", "within_limits", "guest")] == 2**53 - 1
    assert found[at(TABLE_ENTRIES, "0", "leases")] == math.inf


def test_the_fleets_numbers_are_told() -> None:
    """They are of no worker."""
    fleet = Fleet(7, Audience(1, 2, 3), Audience(4, 5, 6))
    found = {name: value for name, value in shown(metered(fleet=fleet)).items() if name[0].startswith("shield_fleet")}
    assert found == {
        ("shield_fleet_seats", (("class", "host"),)): 1,
        ("shield_fleet_seats", (("class", "member"),)): 2,
        ("shield_fleet_seats", (("class", "guest"),)): 3,
        ("shield_fleet_demand", (("class", "host"),)): 4,
        ("shield_fleet_demand", (("class", "member"),)): 5,
        ("shield_fleet_demand", (("class", "guest"),)): 6,
        ("shield_fleet_workers", ()): 7,
    }


def test_the_fleets_decisions_are_counters_of_no_worker() -> None:
    """Left out while the store does not tell them: a counter that falls would be taken for a restart."""
    found = shown(metered(decided=range(1, 10)))
    guests = (("class", "guest"), ("outcome", "refused"))
    assert {number for (name, _), number in found.items() if name == "shield_fleet_decisions_total"} == set(
        range(1, 10)
    )
    assert found["shield_fleet_decisions_total", guests] == 1 + FLEET_DECISIONS.series.index(("refused", "guest"))
    assert not [name for name, _ in shown(metered()) if name == "shield_fleet_decisions_total"]
