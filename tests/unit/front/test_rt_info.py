# SPDX-License-Identifier: Apache-2.0
"""What fronts make of what a version's file says."""

from __future__ import annotations

import pytest

from ovms_mp.front.rt_info import parse_labels, parse_rt_info


def test_it_is_an_object() -> None:
    assert parse_rt_info('{"model_info":{"labels":"cat dog"}}') == {"model_info": {"labels": "cat dog"}}
    assert parse_rt_info("") == {}


@pytest.mark.parametrize(
    ("text", "labels"),
    [
        ('{"model_info":{"labels":"cat dog  polar_bear"}}', ("cat", "dog", "polar_bear")),
        ('{"model_info":{"labels":""}}', ()),
        ('{"model_info":{"labels":{"a":"b"}}}', ()),
        ('{"model_info":{}}', ()),
        ("", ()),
    ],
)
def test_labels(text: str, labels: tuple[str, ...]) -> None:
    assert parse_labels(text) == labels
