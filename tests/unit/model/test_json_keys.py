# SPDX-License-Identifier: Apache-2.0
"""Repeated keys of one object."""

from __future__ import annotations

import json

import pytest

from ovms_mp.model.json_keys import repeated_keys


@pytest.mark.parametrize(
    ("text", "repeated"),
    [
        ("{}", ()),
        ('{"a": 1, "b": 1}', ()),
        ('{"a": 1, "b": 2, "a": 3, "a": 4}', ("a",)),
        ('{"b": 1, "a": 2, "a": 3, "b": 4}', ("b", "a")),
        ('{"": 1, "": null}', ("",)),
    ],
)
def test_keys_that_are_written_more_than_once(text: str, repeated: tuple[str, ...]) -> None:
    assert json.loads(text, object_pairs_hook=repeated_keys) == repeated
