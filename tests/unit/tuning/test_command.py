# SPDX-License-Identifier: Apache-2.0
"""What is wrong with a command line is said before anything is started."""

from __future__ import annotations

from pathlib import Path

import pytest

from ovms_mp.cli import main
from ovms_mp.tuning.trials import most_loaded


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
