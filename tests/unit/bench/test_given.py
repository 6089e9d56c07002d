# SPDX-License-Identifier: Apache-2.0
"""Whose value an ``--input`` is, and what bodies of requests have for an input."""

from __future__ import annotations

import numpy as np
import pytest

from ovms_mp.bench.given import split_input, values_of
from ovms_mp.errors import ConfigError


@pytest.mark.parametrize(
    ("text", "names", "found"),
    [
        ("x=[1]", ["x"], ("x", "[1]")),
        ("y=@a=b.npy", ["x", "y"], ("y", "@a=b.npy")),
        ("@a=b.npy", ["x"], ("x", "@a=b.npy")),
        ('["a=b"]', ["x"], ("x", '["a=b"]')),
        ('"a=b"', ["x"], ("x", '"a=b"')),
        ("5", ["x"], ("x", "5")),
        ("x=", ["x"], ("x", "")),
    ],
)
def test_a_name_may_be_left_out(text: str, names: list[str], found: tuple[str, str]) -> None:
    assert split_input(text, names) == found


def test_a_name_that_is_missing_or_wrong_is_named_with_those_that_there_are() -> None:
    with pytest.raises(ConfigError, match="give its name, as in NAME=VALUE; the model has x, y"):
        split_input("[1]", ["x", "y"])
    with pytest.raises(ConfigError, match="--input z: the model has no such input; it has x"):
        split_input("z=[1]", ["x"])


@pytest.mark.parametrize(
    ("document", "values"),
    [
        ([[1, 2]], [[1, 2]]),
        (5, 5),
        ({"instances": [[1], [2]]}, [[1], [2]]),
        ({"instances": [{"x": 1, "y": 2}, {"x": 3, "y": 4}], "signature_name": "s"}, [1, 3]),
        ({"inputs": [[1, 2]]}, [[1, 2]]),
        ({"inputs": {"x": [1], "y": [2]}}, [1]),
        ({"inputs": [{"name": "y", "data": [2]}, {"name": "x", "data": [1]}]}, [1]),
    ],
)
def test_bodies_of_requests_are_understood(document: object, values: object) -> None:
    assert values_of(document, "x") == (values, None)


def test_kserves_values_have_their_shape_beside_them() -> None:
    found = values_of({"inputs": [{"name": "x", "shape": [2, 2], "data": [1, 2, 3, 4]}]}, "x")

    assert found.reshaped(np.array(found.values)).tolist() == [[1, 2], [3, 4]]
    with pytest.raises(ValueError, match="cannot reshape"):
        found.reshaped(np.array([1, 2, 3]))


@pytest.mark.parametrize(
    "document", [{}, {"x": 1}, {"inputs": 5}, {"inputs": [{"name": "y", "data": [2]}]}, {"instances": 5}]
)
def test_what_is_no_request_stays_what_it_is(document: object) -> None:
    assert values_of(document, "x") == (document, None)


@pytest.mark.parametrize("shape", [None, "2", [-1], [1.5], [True]])
def test_a_shape_that_is_none_is_left_to_the_values(shape: object) -> None:
    assert values_of({"inputs": [{"name": "x", "shape": shape, "data": [[1]]}]}, "x") == ([[1]], None)
