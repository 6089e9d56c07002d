# SPDX-License-Identifier: Apache-2.0
"""Paths below ``/v2/models/``."""

from __future__ import annotations

import pytest

from ovms_mp.front.kserve.targets import target_of


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("/v2/models/m", ("m", "", "")),
        ("/v2/models/m/", ("m", "", "")),
        ("/v2/models/m/infer", ("m", "", "infer")),
        ("/v2/models/m/versions/3", ("m", "3", "")),
        ("/v2/models/m/versions/3/infer", ("m", "3", "infer")),
        ("/v2/models/m/versions/x%20y/ready", ("m", "x y", "ready")),
        ("/v2/models/org/name/infer", ("org/name", "", "infer")),
        ("/v2/models/org%2Fname/versions/1/stats", ("org/name", "1", "stats")),
        ("/v2/models/m/trace/setting", ("m", "", "trace/setting")),
        ("/v2/models/a%2Finfer", ("a/infer", "", "")),
        ("/v2/models/infer/infer", ("infer", "", "infer")),
        ("/v2/models/m/versions/1/versions/2", ("m/versions/1", "2", "")),
        ("/v2/models/", ("", "", "")),
        ("/v2", ("", "", "")),
    ],
)
def test_a_path_is_taken_apart(path: str, expected: tuple[str, str, str]) -> None:
    assert target_of(path.encode()) == expected
