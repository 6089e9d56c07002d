# SPDX-License-Identifier: Apache-2.0
"""Makes a model for each unit of measure, and a configuration file with all of them but the last.

A model multiplies and adds; what is shown here is how many models are served, not what they compute.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import openvino as ov
import openvino.opset15 as ops

UNITS = {
    "feet": ("metres", 0.3048, 0.0),
    "miles": ("kilometres", 1.609344, 0.0),
    "fahrenheit": ("celsius", 5 / 9, -32 * 5 / 9),
    "gallons": ("litres", 3.785411784, 0.0),
}
LATER = "gallons"
"""Is added while the server runs."""


def converter(unit: str) -> ov.Model:
    """An input with the unit's name [-1] -> an output with that of the metric one [-1]."""
    metric, factor, offset = UNITS[unit]
    given = ops.parameter([-1], np.float32, name=unit)
    given.output(0).set_names({unit})
    result = ops.result(ops.add(ops.multiply(given, np.float32(factor)), np.float32(offset)))
    result.output(0).set_names({metric})
    return ov.Model([result], [given], unit)


def main() -> None:
    """Write models and configuration to the current directory."""
    for unit in UNITS:
        version = Path("models", unit, "1")
        version.mkdir(parents=True, exist_ok=True)
        ov.save_model(converter(unit), version / "model.xml", compress_to_fp16=False)
    entries = [{"config": {"name": unit, "base_path": f"models/{unit}"}} for unit in UNITS if unit != LATER]
    Path("config.json").write_text(json.dumps({"model_config_list": entries}, indent=1) + "\n")


if __name__ == "__main__":
    main()
