# SPDX-License-Identifier: Apache-2.0
"""What layouts say."""

from __future__ import annotations

import pytest

from ovms_mp.worker.load.preprocess import known_layout


@pytest.mark.parametrize(
    ("layout", "known"),
    [
        ("NHWC", "NHWC"),
        ("NCHW", "NCHW"),
        ("[N,C,H,W]", "NCHW"),
        ("[ N, H, W, C ]", "NHWC"),
        ("N...", ""),
        ("N?HW", ""),
        ("CHW", ""),
        ("", ""),
    ],
)
def test_what_is_known_of_a_layout(layout: str, known: str) -> None:
    assert known_layout(layout) == known
