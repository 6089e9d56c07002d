# SPDX-License-Identifier: Apache-2.0
"""What servers say of a model's inputs, in forms of all kinds."""

from __future__ import annotations

import pytest

from ovms_mp.bench.dialects import Api, Dialect
from ovms_mp.bench.endpoint import parse_endpoint
from ovms_mp.bench.failure import NoMeasurement


def dialect(url: str, api: Api) -> Dialect:
    return Dialect(parse_endpoint(url), api, "m", "", "")


@pytest.mark.parametrize(
    ("url", "api", "body"),
    [
        ("grpc://h", "tfs", b"\0\0\0\0\0"),
        ("grpc://h", "kserve", b"\0\0\0\0\1\xff"),
        ("http://h", "tfs", b'{"metadata": {"signature_def": {"signature_def": {}}}}'),
        ("http://h", "tfs", b'{"metadata": {"signature_def": []}}'),
        ("http://h", "tfs", b"[1]"),
        ("http://h", "kserve", b'{"inputs": [{"name": "x", "datatype": "NEW", "shape": []}]}'),
        ("http://h", "kserve", b"{}"),
    ],
)
def test_what_describes_no_model_is_said_to(url: str, api: Api, body: bytes) -> None:
    with pytest.raises(NoMeasurement, match="describes the model in an unknown form"):
        dialect(url, api).inputs(body)
