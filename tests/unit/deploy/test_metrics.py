# SPDX-License-Identifier: Apache-2.0
"""Dashboard, alert rules and the page about metrics name what there is; Prometheus's own tool accepts the rules."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from ovms_mp.model.metric_names import ALL_METRICS
from ovms_mp.model.own_metrics import OWN

DEPLOY = Path(__file__).resolve().parents[3] / "deploy"
RULES, DASHBOARD = DEPLOY / "grafana/alerts.yml", DEPLOY / "grafana/dashboard.json"
NAME = re.compile(r"\b(?:ovms|process)_[a-z0-9_]+")
NO_METRICS = {"ovms_mp"}
"""A job, a tag."""


def test_own_names_are_as_prometheus_wants_them() -> None:
    for name, metric in OWN.items():
        assert name.endswith("_total") == (metric.kind == "counter"), name
        assert metric.help.endswith("."), name


@pytest.mark.parametrize("path", [RULES, DASHBOARD], ids=["rules", "dashboard"])
def test_what_is_named_exists(path: Path) -> None:
    histograms = {name for name, metric in OWN.items() if metric.kind == "histogram"}
    histograms |= {name for name in ALL_METRICS if name.endswith("_us")}
    known = set(ALL_METRICS) - histograms
    known |= {name + ending for name in histograms for ending in ("_bucket", "_sum", "_count")}
    named = set(NAME.findall(path.read_text())) - NO_METRICS

    assert named
    assert named <= known


def test_the_rules_are_right() -> None:
    if (promtool := shutil.which("promtool")) is None:
        pytest.skip("promtool is not installed")
    done = subprocess.run([promtool, "check", "rules", RULES], capture_output=True, text=True, timeout=30)
    assert done.returncode == 0, done.stdout + done.stderr
