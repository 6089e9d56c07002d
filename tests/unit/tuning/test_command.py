# SPDX-License-Identifier: Apache-2.0
"""What is wrong with a command line is said before anything is started."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import cast

import pytest

from ovms_mp.bench.failure import NoMeasurement
from ovms_mp.cli import main
from ovms_mp.tuning.candidates import Candidate
from ovms_mp.tuning.command import _searched
from ovms_mp.tuning.explain import findings_lines
from ovms_mp.tuning.target import parse_target
from ovms_mp.tuning.trials import Trials, most_loaded


@pytest.fixture
def model(tmp_path: Path) -> Path:
    (tmp_path / "m" / "1").mkdir(parents=True)
    (tmp_path / "m" / "1" / "model.onnx").write_bytes(b"not looked at")
    return tmp_path / "m"


@pytest.mark.parametrize(
    ("keys", "reason"),
    [
        ('{"nireq": -5}', "--keys.nireq: -5 is not valid"),
        ('{"nireqs": 5}', "--keys.nireqs is unknown"),
        ('{"shape": "(x)"}', "--keys.shape: "),
        ('{"name": "n"}', "name is said by"),
        ("[]", "accepted: a JSON object"),
    ],
)
def test_keys_that_no_configuration_may_have_are_refused_at_once(
    model: Path, keys: str, reason: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["tune", str(model), "--keys", keys]) == 2

    assert reason in capsys.readouterr().err


def test_a_directory_without_a_model_is_refused_at_once(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["tune", str(tmp_path)]) == 2

    assert "holds no version with a model" in capsys.readouterr().err


def test_a_link_that_leads_nowhere_has_no_size(model: Path) -> None:
    (model / "1" / "gone.bin").symlink_to(model / "nowhere")

    assert most_loaded(model, 1, "MemAvailable: 1000 kB") > 1


class Dying:
    """Measures a few settings, then its server has ended."""

    def __init__(self, runs: int) -> None:
        self.levels: dict[Candidate, list[object]] = {}
        self.failures: dict[Candidate, str] = {}
        self._runs = runs

    def prepare(self, candidates: Sequence[Candidate]) -> None:
        pass

    def measure(self, candidate: Candidate, seconds: float) -> float:
        self._runs -= 1
        if self._runs < 0:
            raise NoMeasurement("the server has ended")
        return 10.0


def test_what_was_found_before_a_server_ended_is_kept() -> None:
    target = parse_target("throughput", 2)
    found = _searched(target, cast("Trials", Dying(3)), {}, cores=2, budget_s=5.0, name="m", path="/m")

    assert (found.trouble, found.is_complete) == ("the server has ended", False)
    assert len([trial for trial in found.search.trials if trial.score]) == 3
    (told,) = [line for line in findings_lines(found) if line.startswith("Best for")]
    assert told.endswith("10.0/s (one run).")
    assert "There was no time to measure the best ones again" in "\n".join(findings_lines(found))
    with pytest.raises(NoMeasurement):
        _searched(target, cast("Trials", Dying(0)), {}, cores=2, budget_s=5.0, name="m", path="/m")


class Interrupted(Dying):
    """Ctrl-C comes with the first run."""

    def measure(self, candidate: Candidate, seconds: float) -> float:
        raise KeyboardInterrupt


def test_an_interrupt_before_anything_was_measured_blames_no_setting() -> None:
    target = parse_target("throughput", 2)
    found = _searched(target, cast("Trials", Interrupted(0)), {}, cores=2, budget_s=5.0, name="m", path="/m")

    assert findings_lines(found)[-1] == "Interrupted before a setting was measured; nothing can be advised."
