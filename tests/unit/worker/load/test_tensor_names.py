# SPDX-License-Identifier: Apache-2.0
"""Each tensor gets a name of its own, the same ones every time."""

from __future__ import annotations

import pytest

from ovms_mp.worker.load.tensor_names import unique_names


@pytest.mark.parametrize(
    ("firsts", "all_names", "expected"),
    [
        (["a", "b"], ["a", "b"], ["a", "b"]),
        (["y", "y"], ["y", "y"], ["y", "y_1"]),
        (["y", "y", "y"], ["y", "y", "y"], ["y", "y_1", "y_2"]),
        # Another name of its own comes first, in the order of the alphabet.
        (["a", "a"], ["a c b", "a c b"], ["a", "b"]),
        (["a", "a", "a", "a"], ["a b c"] * 4, ["a", "b", "c", "a_1"]),
        # What another tensor is called is not taken from it, wherever that is.
        (["y", "y", "y_1"], ["y", "y", "y_1"], ["y", "y_2", "y_1"]),
        (["y_1", "y", "y"], ["y_1", "y", "y"], ["y_1", "y", "y_2"]),
        (["a", "a", "b"], ["a b", "a b", "b"], ["a", "a_1", "b"]),
        (["y", "y", "y_1", "y_1"], ["y", "y", "y_1", "y_1"], ["y", "y_2", "y_1", "y_1_1"]),
        (["", ""], ["", ""], ["", "_1"]),
    ],
)
def test_unique_names(firsts: list[str], all_names: list[str], expected: list[str]) -> None:
    found = unique_names(firsts, [frozenset(names.split(" ")) for names in all_names])

    assert found == expected
    assert len(set(found)) == len(found)
