# SPDX-License-Identifier: Apache-2.0
"""Which models may be batched at all: what excludes the others, in words for people."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import openvino as ov

from ovms_mp.model.devices import meta_device
from ovms_mp.model.dtypes import DType, element_count
from ovms_mp.worker.batching.form import MOST_SCRATCH_BYTES
from ovms_mp.worker.batching.row_rules import RULES
from ovms_mp.worker.batching.rows import NotBatched, doubt_of
from ovms_mp.worker.engine.engine import engine_text

if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import TypeAlias

    from ovms_mp.model.tensors import TensorSpec
    from ovms_mp.worker.load.loaded import LoadedVersion
    from ovms_mp.worker.load.prepare import Prepared
    from ovms_mp.worker.load.variants import Shapes

    Sizes: TypeAlias = tuple[int, ...]

LONGEST_AUTO_RUN_S: Final = 0.01
_LENGTHS = (1, 5, 16, 64)
"""What dimensions that may vary are tried at. An engine may choose another kernel, with another order of additions."""


def refuse_by_load(loaded: LoadedVersion, device: str, *, is_auto: bool) -> None:
    """Raise for what a load has shown already, before the model is looked at.

    Raises:
        NotBatched: With the reason.
    """
    if meta_device(device):
        raise NotBatched(f"target_device {device} decides by itself how requests run")
    if loaded.shapes is not None:
        raise NotBatched("it is compiled for each shape")
    if loaded.compiled.has_states:
        raise NotBatched("it has states")
    for spec in (*loaded.compiled.inputs, *loaded.compiled.outputs):
        if spec.dtype is DType.BYTES:
            raise NotBatched(f"tensor {spec.name!r} has strings")
    if is_auto and loaded.run_time_s is None:
        raise NotBatched("it could not be tried at load")
    if is_auto and loaded.run_time_s is not None and loaded.run_time_s > LONGEST_AUTO_RUN_S:
        raise NotBatched(
            f"a run takes {1000 * loaded.run_time_s:.0f} ms by itself, and more than "
            f'{1000 * LONGEST_AUTO_RUN_S:.0f} ms are not tried unless "max" is given'
        )


def units_of(prepared: Prepared, loaded: LoadedVersion) -> Shapes:
    """Shapes of the inputs of a task that may be one of several; -1 for dimensions that may differ.

    Raises:
        NotBatched: There are none.
    """
    inputs = loaded.compiled.inputs
    for place, spec in enumerate(inputs):
        if (place, 0) not in prepared.batched:
            raise NotBatched(f"the layout of input {spec.name!r} does not begin with N")
    batches = {spec.bounds[0] for spec in inputs}
    if len(batches) > 1:
        raise NotBatched("its inputs have different batch dimensions")
    low, high = batches.pop()
    if low != high and low > 1:
        raise NotBatched(f"its batch is {low} at least")
    batch = low if low == high else 1
    if not batch:
        raise NotBatched("its batch is 0")
    return tuple((batch, *spec.dims[1:]) for spec in inputs)


def most_of(inputs: tuple[TensorSpec, ...]) -> int | None:
    """How many tasks the version's own compiled model takes at once; 0 if one only, None where nothing bounds it."""
    low, high = inputs[0].bounds[0]
    if low == high:
        return 0
    return None if high == -1 else high


def trial_shapes(inputs: tuple[TensorSpec, ...], units: Shapes) -> tuple[Shapes, ...]:
    """Shapes of a task to try batches on: the only ones, or short and longer ones, the longest last.

    Raises:
        NotBatched: An input has no elements.
    """
    found: list[Shapes] = []
    for length in _LENGTHS:
        shapes = tuple(
            tuple(
                _within(length, spec.bounds[axis]) if size == -1 else size for axis, size in enumerate(unit)
            )
            for spec, unit in zip(inputs, units, strict=True)
        )
        if shapes not in found:
            found.append(shapes)
    if not all(element_count(shape) for shapes in found for shape in shapes):
        raise NotBatched("an input has no elements")
    return tuple(found)


def sizes_that_fit(
    sizes: Sequence[int], inputs: tuple[TensorSpec, ...], shapes: Shapes, output_nbytes: int
) -> Sizes:
    """Those at which neither the inputs of a batch nor its outputs take too much memory.

    Args:
        sizes: To choose from.
        inputs: Of the version.
        shapes: Of a task's inputs.
        output_nbytes: Of a task.

    Raises:
        NotBatched: All take too much.
    """
    input_nbytes = sum(spec.dtype.nbytes(shape) for spec, shape in zip(inputs, shapes, strict=True))
    most = MOST_SCRATCH_BYTES // max(input_nbytes, output_nbytes, 1)
    fitting = tuple(size for size in sizes if size <= most)
    if not fitting:
        raise NotBatched(f"a batch of {sizes[0]} would be larger than {MOST_SCRATCH_BYTES >> 20} MiB")
    return fitting


def check_outputs(model: ov.Model, shapes: Shapes) -> int:
    """Hold the shapes of outputs against the batch; what the outputs of a task take, in bytes.

    Raises:
        NotBatched: One does not grow with the batch, by shape inference: with that, or with what the engine says.
    """
    once, twice = with_batch(model, shapes, 1), with_batch(model, shapes, 2)
    nbytes = 0
    for index, (one, two) in enumerate(zip(once.outputs, twice.outputs, strict=True)):
        single, double = one.get_partial_shape(), two.get_partial_shape()
        if single.is_dynamic or double.is_dynamic:
            raise NotBatched(f"the shape of output {index} depends on the data")
        if not len(single):
            raise NotBatched(f"output {index} has no batch dimension")
        expected = [2 * single[0].get_length(), *(size.get_length() for size in list(single)[1:])]
        if list(double.to_shape()) != expected:
            raise NotBatched(
                f"output {index} does not follow the batch: it is {single}, and {double} for two"
            )
        nbytes += element_count(single.to_shape()) * one.get_element_type().size
    return nbytes


def shapes_that_fit(
    model: ov.Model, inputs: tuple[TensorSpec, ...], candidates: Sequence[Shapes], sizes: Sizes
) -> tuple[tuple[Shapes, ...], Sizes]:
    """Those shapes of a task that the model can take in batches, and the sizes that all of them fit in.

    Shorter ones than it can take are left out, and so are longer ones than there is memory for.

    Raises:
        NotBatched: There are none, with the reason of the last one.
    """
    found: list[Shapes] = []
    reason = NotBatched("there are no shapes to try")
    for shapes in candidates:
        try:
            fitting = sizes_that_fit(sizes, inputs, shapes, check_outputs(model, shapes))
        except NotBatched as refusal:
            reason = refusal
            if found:
                break
            continue
        if found and fitting != sizes:
            break
        sizes = fitting
        found.append(shapes)
    if not found:
        raise reason
    return tuple(found), sizes


def check_rows(model: ov.Model, shapes: Shapes, sizes: Sizes, *, is_auto: bool) -> None:
    """Raise where requests would look at each other in a batch, and unless asked for by name where they may.

    Raises:
        NotBatched: With the operation.
    """
    for size in {sizes[0], sizes[-1]}:
        many = with_batch(model, shapes, size)
        # Of that one: OpenVINO replaces operations in a model whose shapes it changes.
        doubt = doubt_of(many, with_batch(many, shapes, 1), size, RULES)
        if doubt and is_auto:
            raise NotBatched(doubt)


def takes_any_number(model: ov.Model) -> bool:
    """Whether fractions remain fractions, so that none becomes an index; only where all operations have a rule."""
    for node in model.get_ops():
        kind = node.get_type_name()
        if kind not in RULES.placed and kind not in ("Parameter", "Result", "Constant", "ShapeOf"):
            return False
        may_become = kind == "Convert" and node.get_input_element_type(0).is_real()
        if may_become and not node.get_output_element_type(0).is_real():
            return False
    return True


def with_batch(model: ov.Model, shapes: Shapes, size: int) -> ov.Model:
    """A copy for so many tasks of these shapes.

    Raises:
        NotBatched: It cannot be.
    """
    copy = model.clone()
    wanted = {place: ov.PartialShape([shape[0] * size, *shape[1:]]) for place, shape in enumerate(shapes)}
    try:
        copy.reshape(wanted)
    except RuntimeError as error:
        raise NotBatched(f"its batch cannot be changed: {engine_text(error)}") from None
    return copy


def opened(model: ov.Model, units: Shapes) -> ov.Model:
    """A copy whose batch is open.

    Raises:
        NotBatched: It cannot be.
    """
    copy = model.clone()
    wanted = {}
    for place in range(len(units)):
        wanted[place] = ov.PartialShape(copy.inputs[place].get_partial_shape())
        wanted[place][0] = ov.Dimension()
    try:
        copy.reshape(wanted)
    except RuntimeError as error:
        raise NotBatched(f"its batch cannot be changed: {engine_text(error)}") from None
    return copy


def _within(length: int, bounds: tuple[int, int]) -> int:
    low, high = bounds
    return max(low, 1, length if high == -1 else min(length, high))
