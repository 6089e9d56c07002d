# SPDX-License-Identifier: Apache-2.0
"""The shipped model, as OpenVINO reads it, on digits that its training never saw."""

from __future__ import annotations

import json
import subprocess
import sys

_LEAST_ACCURACY = 0.97

# A process of its own: OpenVINO's threads stay in whichever process has compiled a model.
_PROGRAM = """
import json
import openvino as ov
from ovms_mp.demo.command import SURE_DIGIT
from ovms_mp.demo.digits import load_held_out, model_directory

images, labels = load_held_out()
model = ov.Core().read_model(model_directory() / "1" / "model.xml")
found = ov.Core().compile_model(model, "CPU")({"image": images})["probabilities"].argmax(axis=1)
print(json.dumps({
    "inputs": {port.any_name: [str(port.partial_shape), str(port.element_type)] for port in model.inputs},
    "outputs": {port.any_name: [str(port.partial_shape), str(port.element_type)] for port in model.outputs},
    "accuracy": float((found == labels).mean()),
    "reads_the_sure_digit": bool(found[SURE_DIGIT] == labels[SURE_DIGIT]),
}))
"""


def test_shipped_model_reads_unseen_digits() -> None:
    answer = subprocess.run(
        [sys.executable, "-c", _PROGRAM], capture_output=True, text=True, check=True, timeout=120
    )
    found = json.loads(answer.stdout)

    assert found["inputs"] == {"image": ["[?,8,8]", "<Type: 'float32'>"]}
    assert found["outputs"] == {"probabilities": ["[?,10]", "<Type: 'float32'>"]}
    assert found["accuracy"] >= _LEAST_ACCURACY
    # `ovms_mp demo --once` fails when this digit is read wrongly.
    assert found["reads_the_sure_digit"]


def test_demo_needs_neither_scikit_learn_nor_openvino() -> None:
    """A process of its own, because another test of this session may have imported either."""
    program = (
        "import sys, ovms_mp.demo.command, ovms_mp.demo.train;"
        "print(*sorted({'sklearn', 'openvino', 'tensorflow'} & set(sys.modules)))"
    )
    answer = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=60
    )
    assert answer.stdout.strip() == ""
