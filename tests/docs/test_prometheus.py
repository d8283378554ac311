"""examples/prometheus: the rules and the dashboard name metrics that exist, and promtool agrees with them."""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest

from servers import REPOSITORY, require
from shieldmw.core.metrics import FLEET_METRICS, METRICS, Kind

FOLDER = REPOSITORY / "examples" / "prometheus"
RULES = (FOLDER / "alerts.yml").read_text("utf-8")
CASES = (FOLDER / "alerts_test.yml").read_text("utf-8")
OPERATIONS = (REPOSITORY / "docs" / "operations.md").read_text("utf-8")
ALERTS = re.findall(r"- alert: (\w+)", RULES)

SERIES = {
    metric.name + end: {*metric.labels, "worker"}
    for metric in (*METRICS, *FLEET_METRICS)
    for end in (("_bucket", "_count", "_sum") if metric.kind is Kind.HISTOGRAM else ("",))
}


def expressions() -> list[str]:
    """Those of the dashboard."""
    dashboard: dict[str, Any] = json.loads((FOLDER / "dashboard.json").read_text("utf-8"))
    return [target["expr"] for panel in dashboard["panels"] for target in panel["targets"]]


def promtool(*arguments: str | Path) -> str:
    """What it says, which must be that all is well."""
    found = subprocess.run([require("promtool"), *arguments], capture_output=True, check=False, text=True, cwd=FOLDER)
    assert found.returncode == 0, found.stdout + found.stderr
    return found.stdout


@pytest.mark.parametrize("text", [RULES, CASES, *expressions()])
def test_every_metric_exists_with_its_labels(text: str) -> None:
    """A mistake in a name would make a rule that never fires."""
    used = re.findall(r"\b(shield_\w+)(?:\{([^}]*)\})?", text)
    assert used
    for name, selectors in used:
        assert name in SERIES
        assert {*re.findall(r"(\w+)\s*[=!]", selectors)} <= SERIES[name] | {"instance"}


def test_every_alert_says_how_bad_it_is_and_where_to_read_on() -> None:
    """Its part of the runbook exists, and the runbook has no others; each has a case in which it fires."""
    for part in RULES.split("- alert: ")[1:]:
        name = part.split()[0]
        assert re.search(r"severity: (critical|warning|info)\n", part), name
        assert re.search(r'summary: "\S', part), name
        assert f'runbook_url: "docs/operations.md#{name.lower()}"\n' in part
    assert re.findall(r"^### (Shield\w+)$", OPERATIONS, re.M) == ALERTS
    fires = re.findall(r"alertname: (\w+)\n +exp_alerts:\n", CASES)
    assert {*fires} == {*ALERTS}


def test_promtool_agrees(tmp_path: Path) -> None:
    """With the configuration, the rules, their cases, and each expression of the dashboard."""
    promtool("check", "config", "--syntax-only", "prometheus.yml")
    assert f"{len(ALERTS)} rules found" in promtool("check", "rules", "alerts.yml")
    promtool("test", "rules", "alerts_test.yml")
    rules = [{"record": f"panel:{number}", "expr": expr} for number, expr in enumerate(expressions())]
    file = tmp_path / "dashboard.yml"
    file.write_text(json.dumps({"groups": [{"name": "dashboard", "rules": rules}]}), "utf-8")  # JSON is YAML, too
    assert f"{len(rules)} rules found" in promtool("check", "rules", file)
