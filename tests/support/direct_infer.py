# SPDX-License-Identifier: Apache-2.0
"""OpenVINO called directly: the oracle for what the server must answer. A process of its own."""

from __future__ import annotations

import sys

import numpy as np
import openvino as ov


def main() -> None:
    """Run the model of argument 1 on the arrays of argument 2 and write its outputs to argument 3 (both npz)."""
    model_path, inputs_path, outputs_path = sys.argv[1:4]
    compiled = ov.Core().compile_model(model_path, "CPU")
    with np.load(inputs_path, allow_pickle=False) as archive:
        inputs = {key: archive[key] for key in archive.files}
    results = compiled(inputs)
    np.savez(outputs_path, **{port.get_any_name(): results[port] for port in compiled.outputs})


if __name__ == "__main__":
    main()
