"""The OpenTelemetry recipe of docs/integration.md, with the real SDK: what its counters show is what happened."""

from __future__ import annotations

from typing import Any

from opentelemetry import metrics
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader, NumberDataPoint

from admin.app import Operator, run, shielded
from docs.documents import INTEGRATION, blocks, section
from shieldmw import Evicted, ListenerClass

(RECIPE,) = blocks(section(INTEGRATION, "Observers: events for your own code"), "python")


def counts(reader: InMemoryMetricReader) -> dict[str, list[tuple[float, dict[str, Any]]]]:
    """The values of all counters, with their attributes."""
    data = reader.get_metrics_data()
    assert data is not None
    found: dict[str, list[tuple[float, dict[str, Any]]]] = {}
    for resource in data.resource_metrics:
        for scope in resource.scope_metrics:
            for metric in scope.metrics:
                points = [point for point in metric.data.data_points if isinstance(point, NumberDataPoint)]
                found[metric.name] = [(point.value, dict(point.attributes or {})) for point in points]
    return found


def test_the_recipe_counts_refusals_evictions_and_changes_of_the_mode() -> None:
    """By attributes with few values: no address, subject or path is among them."""
    reader = InMemoryMetricReader()
    metrics.set_meter_provider(MeterProvider([reader]))
    names: dict[str, Any] = {}
    exec(compile(RECIPE, "docs/integration.md", "exec"), names)
    telemetry = names["Telemetry"]()

    async def story() -> None:
        app = shielded(observers=[telemetry], ip_limit="2/minute")
        operator = Operator(app)
        answers = [await operator.anywhere("/search") for _ in range(5)]
        assert [answer.status_code for answer in answers] == [200, 200, 429, 429, 429]
        assert (await operator.put("/mode", {"mode": "emergency"})).status_code == 200

    run(story)
    telemetry.evicted(Evicted(ListenerClass.GUEST, 4))
    assert counts(reader) == {
        "shield.refusals": [(3, {"outcome": "refused", "reason": "quota", "class": "guest"})],
        "shield.evictions": [(4, {"class": "guest"})],
        "shield.mode_changes": [(1, {"mode": "emergency"})],
    }
