"""What a shield in process tells of its decisions, read as Prometheus reads it."""

from __future__ import annotations

from prometheus_client.parser import text_string_to_metric_families

from shieldmw import ShieldMiddleware
from shieldmw.gate.operator.control import Metered
from shieldmw.telemetry.prometheus import page

Decisions = dict[tuple[str, str, str], float]


def text_of(shield: ShieldMiddleware, accept: str = "") -> str:
    """The whole page, but for the fleet's numbers."""
    assert shield._worker is not None
    return page(Metered(shield._worker.control._workers(), None, None), accept)[1].decode()


def decisions(shield: ShieldMiddleware) -> Decisions:
    """How many there were of each outcome, reason and class, where there were any."""
    return {
        (sample.labels["outcome"], sample.labels["reason"], sample.labels["class"]): sample.value
        for family in text_string_to_metric_families(text_of(shield))
        for sample in family.samples
        if sample.name == "shield_decisions_total" and sample.value
    }
