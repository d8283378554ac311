"""The metrics as text for Prometheus. Imported with the first scrape only, since its library takes a while."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

from prometheus_client import CollectorRegistry
from prometheus_client import Metric as Family
from prometheus_client.exposition import choose_encoder
from prometheus_client.registry import Collector

from shieldmw.core.bounds import LONGEST_ACCEPT
from shieldmw.core.metrics import FLEET_DECISIONS, FLEET_DEMAND, FLEET_SEATS, FLEET_WORKERS, METRICS, Kind, Metric, cell
from shieldmw.core.seats import Fleet
from shieldmw.gate.metrics.slots import WorkerValues
from shieldmw.gate.operator.control import Metered

_OPENMETRICS = "application/openmetrics-text"


def page(metered: Metered, accept: str) -> tuple[str, bytes]:
    """The content type and the text: OpenMetrics if ``accept`` names it, otherwise the older format."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(_Metrics(metered))
    # The library would read the version and the escaping that a client asks for: more than is needed of outside text.
    wants_openmetrics = _OPENMETRICS in accept[:LONGEST_ACCEPT].lower()
    render, content_type = choose_encoder(_OPENMETRICS if wants_openmetrics else "")
    return content_type, render(registry)


class _Metrics(Collector):
    """The metrics at one time."""

    def __init__(self, metered: Metered) -> None:
        self._workers = metered.workers
        self._fleet = metered.fleet
        self._decided = metered.decided

    def collect(self) -> Iterator[Family]:
        """Each metric with the values of all workers."""
        for metric in METRICS:
            family = _family(metric)
            for worker in self._workers:
                if worker.is_running or metric.kind is not Kind.GAUGE:
                    _add(family, metric, worker)
            yield family
        if self._fleet is not None:
            yield from _of_fleet(self._fleet)
        if self._decided is not None:
            family = _family(FLEET_DECISIONS)
            for values, number in zip(FLEET_DECISIONS.series, self._decided, strict=True):
                labels = dict(zip(FLEET_DECISIONS.labels, values, strict=True))
                family.add_sample(FLEET_DECISIONS.name, labels, number)
            yield family


def _family(metric: Metric) -> Family:
    return Family(metric.name.removesuffix("_total"), metric.help, metric.kind)


def _add(family: Family, metric: Metric, worker: WorkerValues) -> None:
    """Add the values of one worker."""
    for values in metric.series:
        labels = dict(zip(metric.labels, values, strict=True)) | {"worker": worker.worker}
        at = cell(metric, *values)
        if metric.kind is Kind.HISTOGRAM:
            _add_histogram(family, metric, labels, worker.cells[at : at + metric.width])
        else:
            family.add_sample(metric.name, labels, worker.cells[at])


def _add_histogram(family: Family, metric: Metric, labels: dict[str, str], cells: Sequence[float]) -> None:
    *buckets, total = cells
    count = 0.0
    for bound, in_bucket in zip((*metric.bounds, math.inf), buckets, strict=True):
        count += in_bucket
        ends = "+Inf" if bound == math.inf else repr(float(bound))
        family.add_sample(f"{metric.name}_bucket", labels | {"le": ends}, count)
    family.add_sample(f"{metric.name}_count", labels, count)
    family.add_sample(f"{metric.name}_sum", labels, total)


def _of_fleet(fleet: Fleet) -> Iterator[Family]:
    for metric, audience in ((FLEET_SEATS, fleet.present), (FLEET_DEMAND, fleet.demand)):
        family = _family(metric)
        numbers = (audience.hosts, audience.members, audience.guests)
        for values, number in zip(metric.series, numbers, strict=True):
            family.add_sample(metric.name, dict(zip(metric.labels, values, strict=True)), number)
        yield family
    family = _family(FLEET_WORKERS)
    family.add_sample(FLEET_WORKERS.name, {}, fleet.workers)
    yield family
