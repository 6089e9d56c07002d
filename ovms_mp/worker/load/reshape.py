# SPDX-License-Identifier: Apache-2.0
"""Shapes of a version: what the configuration sets, and copies of its model with other ones."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeAlias

import openvino as ov

from ovms_mp.errors import ModelLoadFailed, ShapeMismatch
from ovms_mp.worker.engine.engine import engine_text

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from ovms_mp.model.input_settings import Bound, InputSettings
    from ovms_mp.worker.load.tensor_names import TensorNames

Place: TypeAlias = tuple[int, int]
"""Index of an input, and axis."""


def apply_shapes(
    model: ov.Model, settings: InputSettings, names: TensorNames, layouts: tuple[str, ...]
) -> tuple[str, ...]:
    """Reshape a model to what the configuration sets, but for ``auto``; notices for the log.

    Raises:
        ModelLoadFailed: A setting names no input, or the model cannot take its shape.
    """
    notices: list[str] = []
    wanted: dict[int, ov.PartialShape] = {}
    texts: list[str] = []
    if settings.shapes:
        if settings.batch_size is not None:
            notices.append("batch_size is ignored, as shape is given")
        for shape in settings.shapes:
            if shape.bounds is None:
                auto_places(shape.name, names)  # Refuses a wrong name.
                continue
            for place in names.places("shape", shape.name):
                wanted[place] = _partial_shape(shape.bounds)
                texts.append(f"shape of {names.clients[place]!r}: {wanted[place]}")
    elif settings.batch_size is not None and settings.batch_size.bounds is not None:
        wanted = _batch_shapes(model, settings.batch_size.bounds, layouts)
        texts.append(f"batch_size {_dimension(settings.batch_size.bounds)}")
    own = {place: model.inputs[place].get_partial_shape() for place in wanted}
    if own != wanted:
        try:
            model.reshape(wanted)
        except RuntimeError as error:
            own_text = ", ".join(f"{names.clients[place]!r} {shape}" for place, shape in own.items())
            raise ModelLoadFailed(
                f"Model could not be reshaped with requested shape: {'; '.join(texts)} (its own: {own_text}): "
                f"{engine_text(error)}"
            ) from None
    return tuple(notices)


def batch_places(model: ov.Model, layouts: tuple[str, ...]) -> frozenset[Place]:
    """Where each input has its dimension N; inputs without one are passed over."""
    found: set[Place] = set()
    for place, layout in enumerate(layouts):
        rank, parsed = rank_of(model, place), ov.Layout(layout)
        if rank and parsed.has_name("N"):
            axis = parsed.get_index_by_name("N")
            found.add((place, axis if axis >= 0 else rank + axis))
    return frozenset(found)


def auto_places(name: str, names: TensorNames) -> tuple[int, ...]:
    """The inputs that ``auto`` is for."""
    return names.places("shape", name) if name else tuple(range(len(names.clients)))


def rank_of(model: ov.Model, place: int) -> int:
    """Number of dimensions of an input; 0 also where it is dynamic."""
    rank = model.inputs[place].get_partial_shape().rank
    return 0 if rank.is_dynamic else int(rank.get_length())


def no_batch(layouts: tuple[str, ...]) -> ModelLoadFailed:
    """What to say where a batch is set and no input has one."""
    return ModelLoadFailed(
        f"batch_size is given, but no input has a dimension N (layouts: {', '.join(layouts)}); say where it is "
        "by layout, or give shape instead"
    )


def reshaped(
    model: ov.Model, limits: ov.Model, names: TensorNames, shapes: Sequence[Sequence[int]]
) -> ov.Model:
    """A copy of a model with these static shapes.

    Args:
        model: What is copied.
        limits: The same model with the shapes that clients may send.
        names: Names of its inputs.
        shapes: One for each input.

    Raises:
        ShapeMismatch: The model cannot take them; with the engine's reason.
    """
    text = ", ".join(f"{name!r} {list(shape)}" for name, shape in zip(names.clients, shapes, strict=False))
    prefix = f"Model could not be reshaped with requested shape: {text}"
    if len(shapes) != len(model.inputs):
        raise ShapeMismatch(f"{prefix}: {len(shapes)} shapes for {len(model.inputs)} inputs")
    wanted = [ov.PartialShape(list(shape)) for shape in shapes]
    for name, port, shape in zip(names.clients, limits.inputs, wanted, strict=True):
        if not port.get_partial_shape().compatible(shape):
            raise ShapeMismatch(f"{prefix}: {name!r} may be {port.get_partial_shape()}")
    copy = model.clone()
    try:
        copy.reshape(dict(enumerate(wanted)))
    except RuntimeError as error:
        raise ShapeMismatch(f"{prefix}: {engine_text(error)}") from None
    for port, own in zip(copy.outputs, limits.outputs, strict=True):
        if (
            own.get_partial_shape().rank.is_static
            and port.get_partial_shape().rank != own.get_partial_shape().rank
        ):
            raise ShapeMismatch(
                f"{prefix}: an output would be {port.get_partial_shape()}, which has another rank"
            )
    return copy


def _dimension(bounds: Bound) -> ov.Dimension:
    low, high = bounds
    return ov.Dimension(low) if low == high else ov.Dimension(low, high)


def _partial_shape(bounds: Iterable[Bound]) -> ov.PartialShape:
    return ov.PartialShape([_dimension(bound) for bound in bounds])


def _batch_shapes(model: ov.Model, bounds: Bound, layouts: tuple[str, ...]) -> dict[int, ov.PartialShape]:
    places = batch_places(model, layouts)
    if not places:
        raise no_batch(layouts)
    wanted: dict[int, ov.PartialShape] = {}
    for place, axis in places:
        wanted[place] = ov.PartialShape(model.inputs[place].get_partial_shape())
        wanted[place][axis] = _dimension(bounds)
    return wanted
