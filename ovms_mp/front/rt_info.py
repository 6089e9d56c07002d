# SPDX-License-Identifier: Apache-2.0
"""What a version's file says of the model, as the routing snapshot carries it: JSON, read when somebody asks."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import TypeAlias

import msgspec

RtInfo: TypeAlias = "Mapping[str, str | RtInfo]"

_MOST_REMEMBERED = 64
_MODEL_INFO, _LABELS = "model_info", "labels"
_NOTHING: RtInfo = {}


@functools.lru_cache(_MOST_REMEMBERED)
def parse_rt_info(text: str) -> RtInfo:
    """The information, e.g. ``{"model_info": {"labels": "cat dog"}}``; empty where there is none. Not to be changed."""
    return msgspec.json.decode(text, type=dict[str, object]) if text else _NOTHING


@functools.lru_cache(_MOST_REMEMBERED)
def parse_labels(text: str) -> tuple[str, ...]:
    """The names of a classifier's classes, by index; empty where the model does not say them.

    openvino-model-api separates them by spaces, and has ``_`` for the spaces in them.
    """
    model_info = parse_rt_info(text).get(_MODEL_INFO)
    labels = model_info.get(_LABELS) if isinstance(model_info, Mapping) else None
    return tuple(labels.split()) if isinstance(labels, str) else ()
