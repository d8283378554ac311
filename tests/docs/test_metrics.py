"""docs/operations.md says what each metric means."""

from __future__ import annotations

import re

from docs.documents import section
from servers import REPOSITORY
from shieldmw.core.metrics import FLEET_METRICS, METRICS

OPERATIONS = (REPOSITORY / "docs" / "operations.md").read_text("utf-8")


def test_the_table_has_every_metric_with_its_labels() -> None:
    """And none that does not exist."""
    rows = [
        re.split(r" \| ", line.replace("| |", "|  |"))
        for line in section(OPERATIONS, "Metrics").splitlines()
        if line.startswith("| `shield_")
    ]
    documented = {
        name: set(re.findall(r"`(\w+)`", re.sub(r"\([^)]*\)|; no `worker`|no `worker`", "", labels)))
        for names, labels, _ in rows
        for name in re.findall(r"`(shield_\w+)`", names)
    }
    assert documented == {metric.name: set(metric.labels) for metric in (*METRICS, *FLEET_METRICS)}
