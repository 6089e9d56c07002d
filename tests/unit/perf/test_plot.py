# SPDX-License-Identifier: Apache-2.0
"""The README's plot and its figures are those of the record."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from perf import CHECKOUT
from perf.report.plot import HEADING, PLOT, RECORD, draw, main, read_rows

HEAD = f"{HEADING}\n\n| workload | reference | ovms_mp | other | measured |\n|---|---|---|---|---|\n"


def test_the_committed_plot_is_the_record_s() -> None:
    assert main(["--check"]) == 0


def test_drift_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("perf.report.plot.PLOT", tmp_path / "rates.svg")
    assert main(["--check"]) == 1
    assert "python -m perf plot" in capfd.readouterr().err
    assert main([]) == 0
    assert main(["--check"]) == 0
    assert (tmp_path / "rates.svg").read_text() == PLOT.read_text()


def test_bars_are_as_long_as_their_ratios() -> None:
    rows = read_rows(f"{HEAD}| a & b | echo 100/s | 50/s | 200/s | now |\n| c | echo 10/s | 5/s | | now |\n")

    widths = [float(text) for text in re.findall(r'<rect [^>]*width="([0-9.]+)"', draw(rows))][-3:]

    assert widths[1] == 4 * widths[0]
    assert widths[2] == widths[0]


@pytest.mark.parametrize(
    "record",
    [
        "",
        HEAD,
        f"{HEAD}| a | b | c | d |",
        f"{HEAD}| a | echo | 5/s | | now |",
        f"{HEAD}| a | echo 5/s | | | x |",
    ],
)
def test_a_record_without_figures_is_refused(record: str) -> None:
    with pytest.raises(ValueError, match=r"table|cells|rate"):
        read_rows(record)


def test_the_figures_in_the_readme_are_the_record_s() -> None:
    readme = (CHECKOUT / "README.md").read_text()
    tiny, _, resnet = read_rows(RECORD.read_text())

    assert f"{round(tiny.rates_per_s[0], -2):,.0f} small gRPC requests a second" in readme
    assert f"{tiny.rates_per_s[0] / tiny.reference_per_s:.1f} times" in readme
    assert f"{resnet.rates_per_s[0] / resnet.reference_per_s:.2f} times" in readme
