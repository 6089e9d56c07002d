# SPDX-License-Identifier: Apache-2.0
"""Random graphs of whose samples :mod:`ovms_mp.worker.batching.rows` says that they stay apart: do they, on the CPU?

Each is run alone and among others that are no numbers or huge; what it gets must be the same but for rounding. A rule
that is wrong about an operation shows here. The full run: ``--graphs 10000``.
"""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any

import numpy as np
import openvino as ov
import openvino.opset10 as opset10
import openvino.opset12 as opset12
import openvino.opset13 as ops
import openvino.opset15 as opset15

from ovms_mp.child.specs import EngineSpec
from ovms_mp.worker.batching.eligibility import check_outputs, opened, with_batch
from ovms_mp.worker.batching.row_rules import RULES
from ovms_mp.worker.batching.rows import NotBatched, doubt_of
from ovms_mp.worker.engine.engine import create_core

if TYPE_CHECKING:
    import pytest

    from ovms_mp.model.dtypes import AnyArray
    from ovms_mp.worker.load.variants import Shapes

BATCH = 3
POISONS = (np.nan, 3e4, -3e4)
MOST_ELEMENTS = 2048
GRAPHS_EACH = 5
"""So many times fewer than of the graphs that ``--graphs`` counts elsewhere."""


class Misfit(Exception):
    """An operation does not go with the tensor that was drawn for it."""


class Sketch:
    """A graph under construction, for one sample."""

    def __init__(self, seed: int) -> None:
        self.random = np.random.default_rng(seed)
        self.story: list[str] = []
        own = self.pick((1, 1, 1, 2))
        shapes = [
            [own, *(self.number(1, 5) for _ in range(self.number(1, 4)))] for _ in range(self.number(1, 3))
        ]
        if self.chance(0.5):
            shapes = [shapes[0]] * len(shapes)
        self.inputs = [
            ops.parameter(shape, np.float32, name=f"in{index}") for index, shape in enumerate(shapes)
        ]
        self.tensors: list[Any] = [node.output(0) for node in self.inputs]
        self.story += [str(shape) for shape in shapes]

    def chance(self, probability: float) -> bool:
        return bool(self.random.random() < probability)

    def pick(self, things: Any) -> Any:
        return things[int(self.random.integers(len(things)))]

    def number(self, low: int, high: int) -> int:
        return int(self.random.integers(low, high))

    def axis(self, x: Any) -> int:
        """Mostly not the first one, as samples are there at the beginning."""
        rank = len(dims(x))
        return self.number(1, rank) if rank > 1 and self.chance(0.8) else self.number(0, rank)

    def weights(self, *shape: int) -> Any:
        return ops.constant(self.random.standard_normal(shape).astype(np.float32))

    def grow(self) -> None:
        """Add an operation, if it fits."""
        make = self.pick(OPERATIONS)
        # Mostly the newest one, so that graphs are deep.
        x = self.tensors[-1] if self.chance(0.7) else self.pick(self.tensors)
        try:
            made = make(self, x)
        except (Misfit, RuntimeError, ValueError, TypeError):
            return
        outputs = [made] if isinstance(made, ov.Output) else list(made.outputs())
        fits = [port for port in outputs if port.get_element_type() == ov.Type.f32]
        # The CPU device answers anything for what has no elements.
        if not fits or any(not 0 < int(np.prod(dims(port))) <= MOST_ELEMENTS for port in fits):
            return
        self.story.append(f"{make.__name__}{dims(x)}")
        self.tensors.append(self.pick(fits))

    def model(self) -> ov.Model:
        for _ in range(self.number(2, 10)):
            self.grow()
        results = [ops.result(self.tensors[-1]), ops.result(self.pick(self.tensors))]
        return ov.Model(results, self.inputs, "graph")


def dims(port: Any) -> list[int]:
    shape = port.get_partial_shape()
    if shape.is_dynamic:
        raise Misfit
    return [size.get_length() for size in shape]


def need(*conditions: bool) -> None:
    if not all(conditions):
        raise Misfit


def ints(*values: int) -> Any:
    return ops.constant(np.array(values, np.int64))


def one_of_each(sketch: Sketch, x: Any) -> Any:
    return sketch.pick((ops.relu, ops.tanh, ops.sigmoid, ops.abs, ops.negative, ops.softplus))(x)


def with_constant(sketch: Sketch, x: Any) -> Any:
    shape = [size if sketch.chance(0.5) else 1 for size in dims(x)]
    shape = shape[sketch.number(0, len(shape) + 1) :]
    return sketch.pick((ops.add, ops.multiply, ops.subtract, ops.maximum))(x, sketch.weights(*shape))


def with_another(sketch: Sketch, x: Any) -> Any:
    other = sketch.pick(sketch.tensors)
    need(len(dims(other)) <= len(dims(x)))
    return sketch.pick((ops.add, ops.multiply, ops.squared_difference))(x, other)


def reshape(sketch: Sketch, x: Any) -> Any:
    shape = dims(x)
    need(len(shape) > 0)
    count = int(np.prod(shape))
    divisor = sketch.pick([number for number in range(1, count + 1) if count % number == 0])
    last = shape[-1]
    options = [
        [-1, *shape[2:]],
        [-1, divisor],
        [divisor, -1],
        [0, -1],
        [1, -1],
        [-1, 1, *shape[1:]],
        [1, -1, *shape[1:]],
        [*shape[:-1], -1, 1],
        [-1, count // shape[0] // last if last and shape[0] * last <= count else 1, last],
    ]
    if len(shape) > 2:
        options += [[0, 0, -1], [0, -1, shape[-1]], [-1, shape[1], *shape[2:]]]
    return ops.reshape(x, ints(*sketch.pick(options)), True)


def reshape_by_sizes(sketch: Sketch, x: Any) -> Any:
    need(len(dims(x)) > 1)
    sizes = ops.shape_of(x)
    order = sketch.pick(
        (sizes, ops.gather(sizes, ints(*sketch.random.permutation(len(dims(x)))), ops.constant(0)))
    )
    return ops.reshape(sketch.pick(sketch.tensors), order, False)


def like_another(sketch: Sketch, x: Any) -> Any:
    return ops.reshape(x, ops.shape_of(sketch.pick(sketch.tensors)), False)


def transpose(sketch: Sketch, x: Any) -> Any:
    return ops.transpose(x, ints(*sketch.random.permutation(len(dims(x)))))


def unsqueeze(sketch: Sketch, x: Any) -> Any:
    return ops.unsqueeze(x, ints(sketch.number(0, len(dims(x)) + 1)))


def squeeze(sketch: Sketch, x: Any) -> Any:
    if sketch.chance(0.3):
        return opset15.squeeze(x)
    need(1 in dims(x))
    return ops.squeeze(x, ints(sketch.pick([axis for axis, size in enumerate(dims(x)) if size == 1])))


def along(sketch: Sketch, x: Any) -> Any:
    axis = sketch.axis(x)
    return sketch.pick(
        (
            lambda: ops.softmax(x, axis),
            lambda: ops.log_softmax(x, axis),
            lambda: ops.cum_sum(x, ops.constant(axis), sketch.chance(0.5), sketch.chance(0.5)),
            lambda: ops.mvn(x, ints(axis), True, 1e-5, "inside_sqrt"),
            lambda: ops.normalize_l2(x, ints(axis), 1e-5, "add"),
            lambda: ops.topk(
                x, ops.constant(1 + sketch.number(0, dims(x)[axis])), axis, "max", "value"
            ).output(0),
        )
    )()


def reduce(sketch: Sketch, x: Any) -> Any:
    axes = sorted({sketch.axis(x) for _ in range(sketch.number(1, 3))})
    kind = sketch.pick((ops.reduce_sum, ops.reduce_max, ops.reduce_mean, ops.reduce_l2))
    return kind(x, ints(*axes), sketch.chance(0.5))


def concat(sketch: Sketch, x: Any) -> Any:
    return ops.concat([x, sketch.pick(sketch.tensors)], sketch.axis(x))


def concat_constant(sketch: Sketch, x: Any) -> Any:
    axis = sketch.axis(x)
    parts = [x, sketch.weights(*dims(x)[:axis], 2, *dims(x)[axis + 1 :])]
    return ops.concat(parts[:: sketch.pick((1, -1))], axis)


def split(sketch: Sketch, x: Any) -> Any:
    axis = sketch.axis(x)
    size = dims(x)[axis]
    if sketch.chance(0.5):
        return ops.split(
            x, ops.constant(axis), sketch.pick([n for n in (1, 2, 3, size) if n and size % n == 0])
        )
    return ops.variadic_split(x, ops.constant(axis), ints(1, -1))


def slices(sketch: Sketch, x: Any) -> Any:
    axis = sketch.axis(x)
    begin, end = sketch.pick(((0, 1 << 40), (1, 1 << 40), (0, -1), (-1, -(1 << 40)), (0, 1)))
    step = -1 if begin == -1 else sketch.pick((1, 1, 2))
    return ops.slice(x, ints(begin), ints(end), ints(step), ints(axis))


def strided(sketch: Sketch, x: Any) -> Any:
    rank = len(dims(x))
    pick = sketch.number(0, rank)
    begin = [sketch.number(0, 2) if axis == pick else 0 for axis in range(rank)]
    masks = [0 if axis == pick else 1 for axis in range(rank)]
    shrink = [sketch.number(0, 2) if axis == pick else 0 for axis in range(rank)]
    strides = [sketch.pick((1, 1, -1)) if axis == pick else 1 for axis in range(rank)]
    return ops.strided_slice(
        x, ints(*begin), ints(*([1 << 30] * rank)), ints(*strides), masks, masks, [0] * rank, shrink
    )


def gather(sketch: Sketch, x: Any) -> Any:
    axis = sketch.axis(x)
    shape = [sketch.number(1, 3) for _ in range(sketch.number(0, 3))]
    places = sketch.random.integers(-dims(x)[axis], dims(x)[axis], shape)
    return ops.gather(x, ops.constant(places.astype(np.int64)), ops.constant(axis))


def embed(sketch: Sketch, x: Any) -> Any:
    places = ops.convert(
        ops.clamp(ops.select(ops.is_finite(x), x, ops.constant(np.float32(0))), 0.0, 3.0), "i32"
    )
    return ops.gather(sketch.weights(4, 3), places, ops.constant(sketch.number(0, 2)))


def gather_elements(sketch: Sketch, x: Any) -> Any:
    axis = sketch.axis(x)
    safe = ops.select(ops.is_finite(x), x, ops.constant(np.float32(0)))
    return ops.gather_elements(x, ops.convert(ops.clamp(safe, 0.0, dims(x)[axis] - 1.0), "i32"), axis)


def matmul(sketch: Sketch, x: Any) -> Any:
    need(len(dims(x)) > 1)
    a, b = sketch.chance(0.5), sketch.chance(0.5)
    inner = dims(x)[-2 if a else -1]
    lead = sketch.pick(([], [], [1], dims(x)[:-2]))
    return ops.matmul(x, sketch.weights(*lead, *((3, inner) if b else (inner, 3))), a, b)


def matmul_left(sketch: Sketch, x: Any) -> Any:
    need(len(dims(x)) > 1)
    b = sketch.chance(0.5)
    return ops.matmul(sketch.weights(2, dims(x)[-1 if b else -2]), x, False, b)


def product(sketch: Sketch, x: Any) -> Any:
    need(len(dims(x)) > 1)
    return ops.matmul(
        x, sketch.pick((x, sketch.pick(sketch.tensors))), sketch.chance(0.5), sketch.chance(0.5)
    )


def convolve(sketch: Sketch, x: Any) -> Any:
    shape = dims(x)
    need(len(shape) in (3, 4))
    spatial = len(shape) - 2
    ones, zeros = [1] * spatial, [0] * spatial
    kernel = [1 + 2 * sketch.number(0, 2)] * spatial
    pads = [size // 2 for size in kernel]
    if sketch.chance(0.3):
        return ops.group_convolution(x, sketch.weights(shape[1], 1, 1, *kernel), ones, pads, pads, ones)
    if sketch.chance(0.3):
        return sketch.pick(
            (
                lambda: ops.max_pool(x, ones, ones, zeros, zeros, ones).output(0),
                lambda: ops.avg_pool(x, ones, pads, pads, kernel, False),
            )
        )()
    return ops.convolution(x, sketch.weights(2, shape[1], *kernel), ones, pads, pads, ones)


def spread(sketch: Sketch, x: Any) -> Any:
    shape = dims(x)
    axis = sketch.axis(x)
    if sketch.chance(0.4):
        return ops.tile(x, ints(*[2 if place == axis else 1 for place in range(len(shape))]))
    sizes = ops.shape_of(x)
    if sketch.chance(0.5):
        return ops.broadcast(x, ops.concat([ints(2), sizes], 0))
    need(shape[axis] == 1)
    parts = [
        ints(3) if place == axis else ops.gather(sizes, ints(place), ops.constant(0))
        for place in range(len(shape))
    ]
    return ops.broadcast(x, ops.concat(parts, 0), broadcast_spec=sketch.pick(("NUMPY", "BIDIRECTIONAL")))


def of_sizes(sketch: Sketch, x: Any) -> Any:
    axis = sketch.axis(x)
    length = ops.gather(ops.shape_of(x), ints(axis), ops.constant(0))
    if sketch.chance(0.5):
        return ops.multiply(x, ops.convert(length, "f32"))
    zero, one = ops.constant(np.int64(0)), ops.constant(np.int64(1))
    places = ops.convert(ops.range(zero, ops.squeeze(length, ints(0)), one, "i64"), "f32")
    shape = [-1 if place == axis else 1 for place in range(len(dims(x)))]
    if axis == len(shape) - 1 and sketch.chance(0.5):
        return ops.add(x, places)
    return ops.add(x, ops.reshape(places, ints(*shape), False))


def spread_constant(sketch: Sketch, x: Any) -> Any:
    shape = [size if sketch.chance(0.3) else 1 for size in dims(x)]
    return ops.add(x, ops.broadcast(sketch.weights(*shape), ops.shape_of(x)))


def pad(sketch: Sketch, x: Any) -> Any:
    axis = sketch.axis(x)
    begins = [sketch.number(0, 2) if place == axis else 0 for place in range(len(dims(x)))]
    return ops.pad(x, ints(*begins), ints(*begins), sketch.pick(("constant", "edge", "reflect", "symmetric")))


def prelu(sketch: Sketch, x: Any) -> Any:
    return ops.prelu(x, sketch.weights(sketch.pick([1, *dims(x)])))


def normal(sketch: Sketch, x: Any) -> Any:
    shape = dims(x)
    need(len(shape) > 1)
    channels = sketch.weights(shape[1])
    one = ops.abs(channels)
    if sketch.chance(0.5):
        return ops.batch_norm_inference(x, channels, channels, channels, ops.add(one, np.float32(1)), 1e-3)
    need(len(shape) > 2)
    return opset12.group_normalization(x, channels, channels, sketch.pick((1, shape[1])), 1e-3)


def recurrent(sketch: Sketch, x: Any) -> Any:
    shape = dims(x)
    need(len(shape) == 3)
    gates, hidden = sketch.pick((("LSTM", 2), ("GRU", 2), ("RNN", 2)))
    sizes = ops.shape_of(x)
    batch = ops.gather(sizes, ints(0), ops.constant(0))
    state = ops.broadcast(
        sketch.weights(1, 1, sketch.pick((1, hidden))), ops.concat([batch, ints(1, hidden)], 0)
    )
    lengths = ops.broadcast(ops.gather(sizes, ints(1), ops.constant(0)), batch)
    if sketch.chance(0.3):
        state = sketch.pick(sketch.tensors)
    count = {"LSTM": 4, "GRU": 3, "RNN": 1}[gates] * hidden
    w, r, b = sketch.weights(1, count, shape[2]), sketch.weights(1, count, hidden), sketch.weights(1, count)
    if gates == "LSTM":
        return ops.lstm_sequence(x, state, state, lengths, w, r, b, hidden, "forward")
    if gates == "GRU":
        return ops.gru_sequence(x, state, lengths, w, r, b, hidden, "forward")
    return ops.rnn_sequence(x, state, lengths, w, r, b, hidden, "forward")


def interpolate(sketch: Sketch, x: Any) -> Any:
    shape = dims(x)
    need(len(shape) in (3, 4))
    axis = sketch.axis(x)
    scale = ops.constant(np.array([2], np.float32))
    return opset10.interpolate(x, ints(2 * shape[axis]), scale, "nearest", "sizes", axes=ints(axis))


def attention(sketch: Sketch, x: Any) -> Any:
    need(len(dims(x)) in (3, 4))
    key = sketch.pick((x, sketch.pick(sketch.tensors)))
    if sketch.chance(0.5):
        return ops.scaled_dot_product_attention(x, key, key, causal=sketch.chance(0.5))
    mask = sketch.weights(dims(x)[-2], dims(key)[-2])
    return ops.scaled_dot_product_attention(x, key, key, mask)


def shuffle(sketch: Sketch, x: Any) -> Any:
    axis = sketch.axis(x)
    return sketch.pick(
        (
            lambda: ops.shuffle_channels(x, axis, 2 if dims(x)[axis] % 2 == 0 else 1),
            lambda: ops.depth_to_space(x, "blocks_first", 2),
            lambda: ops.space_to_depth(x, "blocks_first", 2),
            lambda: ops.reverse_sequence(x, ops.constant(np.full(dims(x)[0], 2, np.int64)), 0, axis),
            lambda: ops.roll(x, ints(1), ints(axis)),
        )
    )()


def choose(sketch: Sketch, x: Any) -> Any:
    other = sketch.pick(sketch.tensors)
    condition = ops.greater(sketch.pick((x, other)), ops.constant(np.float32(0)))
    return ops.select(condition, x, sketch.pick((other, ops.constant(np.float32(2)))))


def quantize(sketch: Sketch, x: Any) -> Any:
    shape = [1] * len(dims(x))
    axis = sketch.axis(x)
    shape[axis] = dims(x)[axis]
    low = ops.negative(ops.abs(sketch.weights(*shape)))
    return ops.fake_quantize(x, low, ops.constant(np.float32(2)), low, ops.constant(np.float32(2)), 255)


OPERATIONS = (
    *(one_of_each, with_constant, with_another, reshape, reshape, reshape_by_sizes, like_another, transpose),
    *(
        transpose,
        unsqueeze,
        squeeze,
        along,
        reduce,
        concat,
        concat_constant,
        split,
        slices,
        strided,
        gather,
        embed,
    ),
    *(
        gather_elements,
        matmul,
        matmul_left,
        product,
        convolve,
        convolve,
        spread,
        of_sizes,
        spread_constant,
        pad,
    ),
    *(prelu, normal, recurrent, interpolate, attention, shuffle, choose, quantize),
)


def own_shapes(model: ov.Model) -> Shapes:
    return tuple(tuple(port.get_shape()) for port in model.inputs)


def difference(core: ov.Core, model: ov.Model, random: np.random.Generator) -> str:
    """How what a sample gets among others differs from what it gets alone; empty if it does not."""
    properties = {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": 1}
    try:
        one, many = (
            core.compile_model(each, "CPU", properties) for each in (model, opened(model, own_shapes(model)))
        )
    except RuntimeError:
        return ""  # The device has no such operation.
    given = [random.standard_normal((BATCH, *port.get_shape())).astype(np.float32) for port in model.inputs]
    right = [list(one([rows[sample] for rows in given]).values()) for sample in range(BATCH)]
    for sample in range(BATCH):
        for poison in POISONS:
            poisoned = [rows.copy() for rows in given]
            for rows in poisoned:
                rows[[other for other in range(BATCH) if other != sample]] = poison
            found = many([rows.reshape(-1, *rows.shape[2:]) for rows in poisoned]).values()
            for index, (mine, all_of_them) in enumerate(zip(right[sample], found, strict=True)):
                rows = np.split(all_of_them, BATCH)[sample]
                if rows.shape != mine.shape or not is_close(rows, mine):
                    return f"output {index}, sample {sample}, others {poison}: {rows.ravel()[:4]}, {mine.ravel()[:4]}"
    return ""


def is_close(one: AnyArray, other: AnyArray) -> bool:
    return bool(np.allclose(one, other, rtol=1e-3, atol=1e-3, equal_nan=True))


def test_samples_that_are_said_to_stay_apart_do(request: pytest.FixtureRequest) -> None:
    core = create_core(EngineSpec())
    found: list[str] = []
    verdicts: Counter[str] = Counter()
    for seed in range(request.config.getoption("--graphs") // GRAPHS_EACH):
        sketch = Sketch(seed)
        model = sketch.model()
        try:
            check_outputs(model, own_shapes(model))
            batched = with_batch(model, own_shapes(model), BATCH)
            reason = doubt_of(batched, with_batch(batched, own_shapes(model), 1), BATCH, RULES)
        except NotBatched:
            verdicts["mixed"] += 1
            continue
        verdicts["doubt" if reason else "apart"] += 1
        if not reason and (text := difference(core, model, sketch.random)):
            found.append(f"seed {seed} ({'; '.join(sketch.story)}): {text}")

    assert not found, f"{len(found)} differences:\n" + "\n".join(found[:10])
    assert verdicts["apart"] > sum(verdicts.values()) / 10, verdicts
