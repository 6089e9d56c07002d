# SPDX-License-Identifier: Apache-2.0
"""Where samples are after operations that move elements: rules for :mod:`ovms_mp.worker.batching.rows`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ovms_mp.model.dtypes import element_count
from ovms_mp.worker.batching.rows import Doubt, Free, Mixes, Placed

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ovms_mp.worker.batching.rows import Shape, State, Step


def reshaped(step: Step) -> tuple[State, ...]:
    """Another shape for the same elements in the same order."""
    step.all_free(range(1, len(step.shapes)))
    state, shape, out = step.placed(0), step.shapes[0], step.outputs[0]
    inner = state.post * element_count(shape[state.axis + 1 :])
    if not inner:
        raise Doubt  # Nothing says where samples are that have no elements.
    stride = 1
    for axis in range(len(out) - 1, -1, -1):
        end = stride * out[axis]
        if stride <= inner and inner * step.batch <= end:
            if inner % stride or end % (inner * step.batch):
                raise Doubt
            return (Placed(axis, inner // stride),)
        stride = end
    raise Doubt


def transposed(step: Step) -> tuple[State, ...]:
    """Transpose, by a constant order."""
    state, rank = step.placed(0), len(step.shapes[0])
    order = step.constant(1)
    if order is None:
        raise Doubt
    order = order or tuple(reversed(range(rank)))
    return (Placed(order.index(state.axis), state.post),)


def concatenated(step: Step) -> tuple[State, ...]:
    """Concat: of parts that have their samples in the same places."""
    out = step.outputs[0]
    axis = int(str(step.attribute("axis", 0))) % len(out)
    found = {state for state in step.states if isinstance(state, Placed)}
    state = found.pop()
    if found:
        raise Doubt
    if state.axis == axis:
        raise Mixes
    for other, shape in zip(step.states, step.shapes, strict=True):
        if isinstance(other, Free) and shape[state.axis] != 1 and state.axis not in other.uniform:
            raise Doubt
    return (state,)


def spread(step: Step) -> tuple[State, ...]:
    """Broadcast and Tile: what is there once is there several times."""
    if len(step.shapes) > 2 or step.attribute("mode", "numpy") not in ("numpy", "bidirectional"):
        raise Doubt
    step.all_free(range(1, len(step.shapes)))
    shape, out, state = step.shapes[0], step.outputs[0], step.states[0]
    offset = len(out) - len(shape)
    if isinstance(state, Free):
        is_same = (axis < offset or shape[axis - offset] == 1 for axis in range(len(out)))
        known = {axis + offset for axis in state.uniform}
        uniform = frozenset(axis for axis, same in enumerate(is_same) if same or axis in known)
        return (Free(uniform, state.counts),)
    if out[state.axis + offset] != shape[state.axis]:
        raise Doubt
    return (Placed(state.axis + offset, state.post),)


def sliced(step: Step) -> tuple[State, ...]:
    """Slice: all of the samples, in their order."""
    state, rank = step.placed(0), len(step.shapes[0])
    step.all_free(range(1, len(step.shapes)))
    starts, steps = step.constant(1), step.constant(3)
    if starts is None or steps is None:
        raise Doubt
    axes = step.constant(4) if len(step.shapes) > 4 else tuple(range(len(starts)))
    if axes is None:
        raise Doubt
    strides = {axis % rank: stride for axis, stride in zip(axes, steps, strict=True)}
    if strides.get(state.axis, 1) != 1 or step.outputs[0][state.axis] != step.shapes[0][state.axis]:
        raise Doubt
    return (state,)


def strided(step: Step) -> tuple[State, ...]:
    """StridedSlice: the same, without new dimensions."""
    state = step.placed(0)
    step.all_free(range(1, len(step.shapes)))
    masks = {name: mask_of(step, name) for name in ("new_axis_mask", "shrink_axis_mask", "ellipsis_mask")}
    if any(masks["new_axis_mask"]) or any(masks["ellipsis_mask"]):
        raise Doubt
    shrunk = {axis for axis, bit in enumerate(masks["shrink_axis_mask"]) if bit}
    strides = step.constant(3) if len(step.shapes) > 3 else ()
    if state.axis in shrunk or strides is None or (*strides, *[1] * 8)[state.axis] != 1:
        raise Doubt
    axis = state.axis - sum(1 for other in shrunk if other < state.axis)
    if step.outputs[0][axis] != step.shapes[0][state.axis]:
        raise Doubt
    return (Placed(axis, state.post),)


def mask_of(step: Step, name: str) -> tuple[int, ...]:
    """A mask of StridedSlice, or paddings of Interpolate."""
    found = step.attribute(name, ())
    if not isinstance(found, (list, tuple)):
        raise Doubt
    return tuple(found)


def gathered(step: Step) -> tuple[State, ...]:
    """Gather: rows of a table by samples of indices, or the same elements of every sample."""
    data, indices = step.states[0], step.states[1]
    rank, batch_dims = len(step.shapes[0]), int(str(step.attribute("batch_dims", 0)))
    where = step.constant(2)
    if where is None or len(where) != 1 or batch_dims:
        raise Doubt
    axis = where[0] % rank
    if isinstance(indices, Free):
        if isinstance(data, Free):
            uniform = frozenset(axis + place for place in uniform_axes(indices, step.shapes[1]))
            places = step.constant(1)
            if data.sizes is None or places is None:
                return (Free(uniform, data.counts or indices.counts),)
            return (_sizes_at(data.sizes, [place % step.shapes[0][0] for place in places], uniform),)
        if data.axis == axis:
            raise Mixes
        more = len(step.shapes[1]) - 1 if axis < data.axis else 0
        return (Placed(data.axis + more, data.post),)
    if isinstance(data, Placed):
        raise Doubt
    return (Placed(axis + indices.axis, indices.post),)


def cut(step: Step) -> tuple[State, ...]:
    """Slice and StridedSlice of a shape: which of its numbers come out."""
    state, count = step.states[0], step.shapes[0][0]
    if not isinstance(state, Free) or state.sizes is None:
        raise Doubt
    bounds = [step.constant(index) for index in (1, 2, 3) if index < len(step.shapes)]
    begin, end, stride = (None if bound is None else bound[0] for bound in (*bounds, (1,))[:3])
    if begin is None or end is None or stride is None:
        raise Doubt
    masks = {name: mask_of(step, f"{name}_mask")[:1] for name in ("begin", "end", "new_axis", "ellipsis")}
    if any((*masks["new_axis"], *masks["ellipsis"])):
        raise Doubt
    first, last = (None if any(masks[name]) else bound for name, bound in (("begin", begin), ("end", end)))
    if not step.outputs[0]:
        return (_sizes_at(state.sizes, [(first or 0) % count]),)
    places = range(count)[slice(first, last, stride)]
    if len(places) != step.outputs[0][0]:
        raise Doubt
    return (_sizes_at(state.sizes, places),)


def _sizes_at(sizes: frozenset[int], places: Sequence[int], uniform: frozenset[int] = frozenset()) -> Free:
    """Numbers of a shape."""
    found = frozenset(new for new, place in enumerate(places) if place in sizes)
    return Free(uniform, bool(found), found)


def uniform_axes(state: Free, shape: Shape) -> set[int]:
    """Axes along which a tensor without samples is the same everywhere."""
    return {axis for axis, size in enumerate(shape) if size == 1} | state.uniform


def gathered_elements(step: Step) -> tuple[State, ...]:
    """GatherElements: by indices that are placed as the data are."""
    state, rank = step.placed(0), len(step.shapes[0])
    if step.states[1] != state or int(str(step.attribute("axis", 0))) % rank == state.axis:
        raise Doubt
    return (state,)


def one_hot(step: Step) -> tuple[State, ...]:
    """OneHot: one dimension more."""
    state, rank = step.placed(0), len(step.outputs[0])
    step.all_free(range(1, len(step.shapes)))
    axis = int(str(step.attribute("axis", -1))) % rank
    return (Placed(state.axis + (axis <= state.axis), state.post),)


def unsqueezed(step: Step) -> tuple[State, ...]:
    """Of what is free: which axes are the same everywhere."""
    state, rank = step.states[0], len(step.outputs[0])
    if not isinstance(state, Free):
        raise Doubt
    new = step.axes(1, rank)
    kept = [axis for axis in range(rank) if axis not in new]
    uniform = frozenset({*new, *(kept[axis] for axis in state.uniform)})
    return (Free(uniform, state.counts, state.sizes if rank == 1 else None),)


def padded(step: Step) -> tuple[State, ...]:
    """Pad: around the samples, by constants."""
    state, begins, ends = step.placed(0), step.constant(1), step.constant(2)
    step.all_free(range(1, len(step.shapes)))
    if begins is None or ends is None or begins[state.axis] or ends[state.axis]:
        raise Doubt
    return (state,)
