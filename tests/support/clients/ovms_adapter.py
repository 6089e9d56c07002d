# SPDX-License-Identifier: Apache-2.0
"""openvino-model-api's ``OVMSAdapter``."""

from __future__ import annotations

import numpy as np
from cases import Address, run
from model_api.adapters import OVMSAdapter

X = np.arange(10, dtype=np.float32).reshape(1, 10)


def case_infer(address: Address) -> None:
    """A model by its URL, with and without a version."""
    for path in ("versions", "versions/versions/3"):
        adapter = OVMSAdapter(f"{address.rest}/v2/models/{path}")
        assert adapter.get_input_layers()["x"].shape == [1, 10]
        assert adapter.get_output_layers()["y"].precision == "FP32"
        assert adapter.infer_sync({"x": X})["y"].tobytes() == (X + 2).tobytes()


def case_rt_info(address: Address) -> None:
    """What the model's file says of itself."""
    adapter = OVMSAdapter(f"{address.rest}/v2/models/labelled")
    assert adapter.get_rt_info(["model_info", "model_type"]).astype(str) == "Classification"
    assert adapter.get_rt_info(["model_info", "labels"]).astype(str) == "cat dog"


def case_not_there(address: Address) -> None:
    """An unknown model is said at once."""
    try:
        OVMSAdapter(f"{address.rest}/v2/models/nobody")
    except RuntimeError as error:
        assert "nobody" in str(error)
    else:
        raise AssertionError("no failure")


if __name__ == "__main__":
    run(__name__)
