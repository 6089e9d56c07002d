# SPDX-License-Identifier: Apache-2.0
"""What the proof says of models, among them some whose operations behave badly; all loaded by one process."""

from __future__ import annotations

import json
import re
import subprocess
import sys

import numpy as np
import pytest

from ovms_mp.front.strings import Strings
from ovms_mp.model.dtypes import NUMERIC_DTYPES, DType, Kind
from ovms_mp.model.tensors import TensorSpec
from ovms_mp.worker.load.proof import made_up


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    command = [sys.executable, "-m", "tests.support.proof_child", str(tmp_path_factory.mktemp("proof"))]
    done = subprocess.run(command, capture_output=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr.decode()[-4000:]
    answer: dict[str, str] = json.loads(done.stdout)
    return answer


@pytest.mark.parametrize(
    ("model", "path"),
    [
        ("computed", "bound"),
        ("two of one tensor", "bound"),
        ("reshape", "bound"),
        ("constant", "bound"),
        ("no elements", "bound"),
        ("dynamic in, static out", "bound"),
        ("dynamic", "copied"),
        ("dynamic, passes", "copied"),
        ("passes", "copied (when bound, output 'x' has other values)"),
        ("passes twice", "copied (when bound, output 'x' has other values)"),
        ("key beside sum", "copied (when bound, output 'key' has other values)"),
        ("smallest shapes do not fit", "copied inputs=copied (the trial's shapes cannot be run)"),
        ("random", "copied inputs=copied (its answers differ from run to run)"),
        ("partial", "cleared (when bound, output '"),
        (
            "dynamic, passes by a conversion",
            "copied inputs=copied (when copied, it writes where no output is)",
        ),
        (
            "choosy, and passes",
            "copied (tried on zeros only, as it cannot run on made-up values; when bound, ",
        ),
        ("wearing, several devices", "copied inputs=copied (its answers may come from several devices)"),
        ("choosy", "bound (tried on zeros only, as it cannot run on made-up values)"),
    ],
)
def test_outputs_are_bound_where_that_changes_nothing(
    outcomes: dict[str, str], model: str, path: str
) -> None:
    assert f"outputs={path}" in outcomes[model]
    assert re.search(r" trial_s=\d+\.\d{3}", outcomes[model])
    if "(" not in path:
        assert "(" not in outcomes[model]


@pytest.mark.parametrize("model", ["wearing", "wearing, one device of several"])
def test_a_model_that_answers_differently_even_when_copied_is_not_served(
    outcomes: dict[str, str], model: str
) -> None:
    assert outcomes[model].startswith("ModelLoadFailed: it answers differently each time")


def test_a_model_that_cannot_run_on_zeros_is_not_served(outcomes: dict[str, str]) -> None:
    assert outcomes["refusing"].startswith("ModelLoadFailed: trial inference failed: ")


@pytest.mark.parametrize("dtype", NUMERIC_DTYPES, ids=lambda dtype: dtype.name)
def test_made_up_values_are_small_and_differ_from_zeros(dtype: DType) -> None:
    spec = TensorSpec.of("x", dtype, ((2, 2), (50, 50)))
    zeros = made_up(spec, (2, 50), is_zero=True)
    values = made_up(spec, (2, 50), is_zero=False)

    assert len(zeros) == len(values) == 100 * dtype.itemsize
    assert not zeros.any()
    drawn = values.view(dtype.numpy).astype(np.float64)
    assert drawn.min() >= 0
    assert drawn.max() <= 1
    if dtype.kind is Kind.FLOAT:
        assert drawn.min() > 0
        assert drawn.max() < 1
    assert not np.array_equal(drawn[:50], drawn[1:51])
    assert len(made_up(TensorSpec.of("x", dtype, ()), (), is_zero=False)) == dtype.itemsize
    assert len(made_up(TensorSpec.of("x", dtype, ((0, 0),)), (0,), is_zero=False)) == 0


def test_made_up_strings_differ_in_octets_and_lengths() -> None:
    spec = TensorSpec.of("x", DType.BYTES, ((8, 8),))
    strings = [Strings.of_packed(made_up(spec, (8,), is_zero=is_zero).data, 8) for is_zero in (True, False)]
    assert {len(string) for string in strings[0]} == {0}
    assert len({bytes(string) for string in strings[1]}) > 3
