# SPDX-License-Identifier: Apache-2.0
"""What a model's configuration changes about its inputs: batch, shapes, layouts, preprocessing. Pure values.

Read from OVMS's JSON and from flags by :mod:`ovms_mp.config.model_settings`, carried to the inference worker inside a
``LoadModel`` message, and applied there while the model is prepared for compiling. A ``name`` is the name that
clients use for a tensor (after ``mapping_config.json``). It is empty where the configuration names none: that means the
only input, but for a shape ``auto``, which then is for every input.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

Bound: TypeAlias = tuple[int, int]
"""Least and greatest size of a dimension, both included; a greatest of -1 has no limit."""


@dataclass(frozen=True, slots=True)
class BatchSize:
    """What dimension N of every input becomes; ``bounds`` is None for ``auto``."""

    bounds: Bound | None


@dataclass(frozen=True, slots=True)
class InputShape:
    """What an input's shape becomes, as clients see it; ``bounds`` is None for ``auto``.

    ``auto`` without a name means every input.
    """

    name: str
    bounds: tuple[Bound, ...] | None


@dataclass(frozen=True, slots=True)
class Layout:
    """A tensor's layout, e.g. ``NHWC``; with ``model`` also set, data is transposed from ``client`` to ``model``."""

    name: str
    client: str
    model: str = ""


@dataclass(frozen=True, slots=True)
class ChannelValues:
    """Numbers to subtract or divide by: one for all channels, or one a channel."""

    name: str
    values: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class Conversion:
    """Something that clients send in one form and the model takes in another: a color format or a precision."""

    name: str
    model: str
    client: str


@dataclass(frozen=True, slots=True, kw_only=True)
class InputSettings:
    """All of it; the default changes nothing."""

    batch_size: BatchSize | None = None
    shapes: tuple[InputShape, ...] = ()
    layouts: tuple[Layout, ...] = ()
    mean: tuple[ChannelValues, ...] = ()
    scale: tuple[ChannelValues, ...] = ()
    color_format: tuple[Conversion, ...] = ()
    precision: tuple[Conversion, ...] = ()

    @property
    def is_auto(self) -> bool:
        """Whether the shape of a request may decide what is compiled."""
        return (self.batch_size is not None and self.batch_size.bounds is None) or any(
            shape.bounds is None for shape in self.shapes
        )
