# SPDX-License-Identifier: Apache-2.0
"""``auto``: which dimensions of a model clients may choose.

No model says so; it is found by shape inference on copies, in three steps.

1. Dimensions of equal size at the same axis of several inputs are tried together (the batch; the sequence length that
   ``input_ids`` and ``attention_mask`` share), at one more and at twice their size. Where that fails, they are tried
   without one of them, and what is no batch also one by one.
2. A model that infers a shape does not always mean it, so its outputs are looked at. They must keep their number of
   dimensions. A batch must come out as what it is: as a dimension of its size, or as a factor of the first one; a
   constant ``[1, -1]`` or ``[3, -1]`` in a Reshape glues samples together or mixes them. (Lists of detections grow as
   they like, since each detection names its sample: the outputs of models with an operation that makes such lists, and
   those of OpenVINO's form for them, ``[1, 1, N, 7]``, whatever has made them.) Where only twice the size passes, as in
   a U-Net, the dimension must be recognizable in the outputs: a Reshape to ``[3, -1]`` takes any multiple of 3.
3. All that passed become dynamic together; if the model refuses that, the last ones stay as they are.

OpenVINO's ``reshape`` mends constants in the model where it can (SmartReshape). For a batch that is welcome: it frees
one that was baked in. For the rest it is not: it makes a classifier behind a Flatten take an image of twice the height
as two samples. So a batch is tried with ``reshape``, the rest with plain inference.

A dimension that is open then may still be linked to others, or take multiples only. The run fails in that case, and
:func:`ovms_mp.worker.load.reshape.reshaped` says why.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from typing import TYPE_CHECKING

import openvino as ov

from ovms_mp.errors import ModelLoadFailed
from ovms_mp.worker.load.reshape import auto_places, batch_places, no_batch, rank_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from ovms_mp.model.input_settings import InputSettings
    from ovms_mp.worker.load.reshape import Place
    from ovms_mp.worker.load.tensor_names import TensorNames

_COUNTS_DETECTIONS = frozenset(
    {
        "DetectionOutput",
        "ExperimentalDetectronDetectionOutput",
        "MatrixNms",
        "MulticlassNms",
        "NMSRotated",
        "NonMaxSuppression",
        "Proposal",
    }
)


def auto_candidates(
    model: ov.Model, settings: InputSettings, names: TensorNames, layouts: tuple[str, ...]
) -> frozenset[Place]:
    """Static dimensions that the configuration leaves to the clients.

    Raises:
        ModelLoadFailed: The batch is left to them, and an input has none.
    """
    found: set[Place] = set()
    if settings.shapes:
        for shape in settings.shapes:
            if shape.bounds is None:
                for place in auto_places(shape.name, names):
                    found |= {(place, axis) for axis in range(rank_of(model, place))}
    elif settings.batch_size is not None and settings.batch_size.bounds is None:
        for place, client in enumerate(names.clients):
            if not model.inputs[place].get_partial_shape().rank.is_dynamic and rank_of(model, place) == 0:
                raise ModelLoadFailed(
                    f"Batching set to AUTO but model contains scalar tensor {client!r}; give shape instead"
                )
        found = set(batch_places(model, layouts))
        if not found:
            raise no_batch(layouts)
    return frozenset(
        (place, axis) for place, axis in found if model.inputs[place].get_partial_shape()[axis].is_static
    )


def variable_places(
    model: ov.Model, candidates: frozenset[Place], batch: frozenset[Place]
) -> frozenset[Place]:
    """Those of the candidates that the model can take in another size; see the module's text.

    PERF: 0.03 s for ResNet-50 (391 nodes), 0.05 s for a BERT of 12 layers (525).
    """
    inference = _ShapeInference(model, batch)
    groups: dict[tuple[int, int], set[Place]] = defaultdict(set)
    for place, axis in candidates:
        groups[axis, inference.sizes[place][axis]].add((place, axis))
    accepted: list[_Fit] = []
    for key in sorted(groups):
        accepted += inference.fits(frozenset(groups[key]))
    while accepted and not inference.work_together(accepted):
        accepted.pop()
    return frozenset().union(*(fit.places for fit in accepted))


def with_open_places(model: ov.Model, places: frozenset[Place]) -> ov.Model:
    """A copy of a model that takes any size at these places; the model must be one that can."""
    copy = model.clone()
    shapes = opened_shapes((port.get_partial_shape() for port in model.inputs), places)
    copy.reshape(dict(enumerate(shapes)))
    return copy


@dataclass(frozen=True, slots=True)
class _Fit:
    """Places that can all have another size, and one that they were seen to have."""

    places: frozenset[Place]
    size: int


class _ShapeInference:
    """Shape inference for one set of sizes after the other."""

    def __init__(self, model: ov.Model, batch: frozenset[Place]) -> None:
        """Copy the model, which shares its weights with the copies."""
        self._mended, self._plain = model.clone(), model.clone()
        self._batch = batch
        self._own = [port.get_partial_shape() for port in model.inputs]
        self._own_outputs = [port.get_partial_shape() for port in model.outputs]
        self._is_detector = any(node.get_type_name() in _COUNTS_DETECTIONS for node in model.get_ops())
        self.sizes = [_sizes(shape) for shape in self._own]
        """Each input's shape; -1 where it is dynamic."""

    def fits(self, group: frozenset[Place]) -> list[_Fit]:
        """Those of a group that can have another size: all, all but one, or some each by itself."""
        if fit := self._fit(group):
            return [fit]
        if len(group) > 2:
            for member in sorted(group):
                if fit := self._fit(group - {member}):
                    return [fit]
        if group & self._batch or len(group) == 1:
            return []
        return [fit for member in sorted(group) if (fit := self._fit(frozenset({member})))]

    def work_together(self, accepted: list[_Fit]) -> bool:
        """Whether what fits one by one fits together, with its sizes and as dynamic dimensions."""
        places = frozenset().union(*(fit.places for fit in accepted))
        for wanted in (self._shapes(accepted), opened_shapes(self._own, places)):
            outputs = self._infer_mended(wanted)
            if outputs is None or not self._keep_ranks(outputs):
                return False
        return True

    def _fit(self, group: frozenset[Place]) -> _Fit | None:
        place, axis = next(iter(group))
        size = self.sizes[place][axis]
        is_batch = bool(group & self._batch)
        for other in dict.fromkeys((size + 1, 2 * size)) if size else ():
            fit = _Fit(group, other)
            wanted = self._shapes([fit])
            outputs = self._infer_mended(wanted) if is_batch else self._infer_plainly(wanted)
            if outputs is None or not self._keep_ranks(outputs):
                continue
            if is_batch:
                return fit if self._keep_samples_apart(outputs, size) else None
            if other == size + 1 or self._keep_axis(outputs, place, axis):
                return fit
        return None

    def _shapes(self, fits: list[_Fit]) -> list[ov.PartialShape]:
        wanted = [ov.PartialShape(shape) for shape in self._own]
        for fit in fits:
            for place, axis in fit.places:
                wanted[place][axis] = ov.Dimension(fit.size)
        return wanted

    def _infer_mended(self, wanted: list[ov.PartialShape]) -> list[ov.PartialShape] | None:
        try:
            self._mended.reshape(dict(enumerate(wanted)))
        except RuntimeError:
            return None
        return [port.get_partial_shape() for port in self._mended.outputs]

    def _infer_plainly(self, wanted: list[ov.PartialShape]) -> list[ov.PartialShape] | None:
        for parameter, shape in zip(self._plain.get_parameters(), wanted, strict=True):
            parameter.set_partial_shape(shape)
        try:
            self._plain.validate_nodes_and_infer_types()
        except RuntimeError:
            return None
        return [port.get_partial_shape() for port in self._plain.outputs]

    def _keep_ranks(self, outputs: list[ov.PartialShape]) -> bool:
        return all(
            own.rank.is_dynamic or (new.rank.is_static and len(new) == len(own))
            for own, new in zip(self._own_outputs, outputs, strict=True)
        )

    def _keep_samples_apart(self, outputs: list[ov.PartialShape], size: int) -> bool:
        return self._is_detector or all(
            axis == 0 or own[axis] == size or _is_detection_list(own, axis)
            for own, axis in self._grown(outputs)
        )

    def _keep_axis(self, outputs: list[ov.PartialShape], place: int, axis: int) -> bool:
        rank, size = len(self.sizes[place]), self.sizes[place][axis]
        return all(
            own[grown] == size or (grown == axis and len(own) == rank) for own, grown in self._grown(outputs)
        )

    def _grown(self, outputs: list[ov.PartialShape]) -> Iterator[tuple[tuple[int, ...], int]]:
        """Dimensions of outputs that have changed: the output's shape before, and the axis."""
        for own, new in zip(map(_sizes, self._own_outputs), map(_sizes, outputs), strict=True):
            for axis, (before, after) in enumerate(zip(own, new, strict=False)):
                if before != after:
                    yield own, axis


def _is_detection_list(own: tuple[int, ...], axis: int) -> bool:
    """Whether a dimension of an output counts detections of (sample, label, confidence and four coordinates)."""
    return axis == 2 and len(own) == 4 and own[:2] == (1, 1) and own[3] == 7


def _sizes(shape: ov.PartialShape) -> tuple[int, ...]:
    if shape.rank.is_dynamic:
        return ()
    return tuple(dimension.get_length() if dimension.is_static else -1 for dimension in shape)


def opened_shapes(shapes: Iterable[ov.PartialShape], places: frozenset[Place]) -> list[ov.PartialShape]:
    """These shapes, with any size at the places.

    NOTE: not "any but 0". BATCH makes infer requests with tensors of size 0 first, and fails where 0 is out of range.
    """
    wanted = [ov.PartialShape(shape) for shape in shapes]
    for place, axis in places:
        wanted[place][axis] = ov.Dimension()
    return wanted
