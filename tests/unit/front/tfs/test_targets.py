# SPDX-License-Identifier: Apache-2.0
"""What paths below ``/v1/models/`` mean."""

from __future__ import annotations

import pytest

from ovms_mp.front.tfs.targets import Target, target_of


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("m:predict", Target("m", "", "", "predict")),
        ("m/versions/3:predict", Target("m", "3", "", "predict")),
        ("m/labels/stable:predict", Target("m", "", "stable", "predict")),
        ("org%2Fm:predict", Target("org/m", "", "", "predict")),
        ("org/m:predict", Target("org/m", "", "", "predict")),
        ("org/m/versions/3:predict", Target("org/m", "3", "", "predict")),
        ("a%2Fversions%2F3:predict", Target("a/versions/3", "", "", "predict")),
        ("a%2Fmetadata", Target("a/metadata", "", "", "")),
        ("versions/3:predict", Target("versions/3", "", "", "predict")),
        ("metadata", Target("metadata", "", "", "")),
        ("m/metadata:predict", Target("m/metadata", "", "", "predict")),
        ("m/metadata", Target("m", "", "", "metadata")),
        ("org/m/versions/3/metadata", Target("org/m", "3", "", "metadata")),
        ("m/labels/s/metadata", Target("m", "", "s", "metadata")),
        ("a%20b%C3%A9", Target("a bé", "", "", "")),
        ("a%252Fb:predict", Target("a%2Fb", "", "", "predict")),
        ("100%:predict", Target("100%", "", "", "predict")),
        ("m/versions/%33", Target("m", "3", "", "")),
        ("llama:7b:predict", Target("llama:7b", "", "", "predict")),
        ("m%3Apredict", Target("m:predict", "", "", "")),
        ("llama:7b/versions/1/metadata", Target("llama:7b", "1", "", "metadata")),
        ("", Target("", "", "", "")),
        (":predict", Target("", "", "", "predict")),
    ],
)
def test_a_path_is_taken_apart(path: str, expected: Target) -> None:
    assert target_of(f"/v1/models/{path}".encode(), True) == expected
    assert target_of(f"/v1/models/{path}".encode(), False) == expected


def test_other_words_behind_a_colon_are_calls_of_a_post_only() -> None:
    assert target_of(b"/v1/models/llama:7b", True) == Target("llama", "", "", "7b")
    assert target_of(b"/v1/models/llama:7b", False) == Target("llama:7b", "", "", "")


@pytest.mark.parametrize("path", [b"/v1%2Fmodels/m", b"/v1/model%73/m", b"*"])
def test_another_prefix_names_no_model(path: bytes) -> None:
    assert target_of(path, False).name == ""
