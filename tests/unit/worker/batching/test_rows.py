# SPDX-License-Identifier: Apache-2.0
"""What a model's graph says about requests that run together."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import openvino as ov
import openvino.opset13 as ops
import openvino.opset15 as opset15
import pytest

from ovms_mp.worker.batching.eligibility import with_batch
from ovms_mp.worker.batching.row_rules import RULES
from ovms_mp.worker.batching.rows import NotBatched, doubt_of

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

BATCH = 2
RANDOM = np.random.default_rng(1)


def weights(*shape: int) -> ov.Node:
    return ops.constant(RANDOM.standard_normal(shape).astype(np.float32))


def numbers(*values: int) -> ov.Node:
    return ops.constant(np.array(values, np.int64))


def places() -> ov.Node:
    """Of the samples in their batch."""
    return ops.convert(ops.range(np.int64(0), np.int64(BATCH), np.int64(1), "i64"), "f32")


def doubt(
    make: Callable[..., ov.Node], *shapes: Sequence[int], kind: type = np.float32, batch: int = BATCH
) -> str:
    """Of a model whose inputs have these shapes for one request."""
    parameters = [ops.parameter([batch * shape[0], *shape[1:]], kind) for shape in shapes]
    model = ov.Model([ops.result(make(*parameters))], parameters, "model")
    try:
        lone = with_batch(model, tuple(tuple(shape) for shape in shapes), 1)
    except NotBatched:  # One of those that no request alone could pass.
        return doubt_of(model, None, batch, RULES)
    return doubt_of(with_batch(lone, tuple(tuple(shape) for shape in shapes), batch), lone, batch, RULES)


def attention(x: ov.Node) -> ov.Node:
    """Of two heads, as front ends write it."""
    parts = []
    for _ in range(3):
        heads = ops.reshape(ops.matmul(x, weights(8, 8), False, False), numbers(0, 0, 2, 4), True)
        parts.append(ops.transpose(heads, numbers(0, 2, 1, 3)))
    scores = ops.softmax(ops.divide(ops.matmul(parts[0], parts[1], False, True), np.float32(2)), 3)
    mixed = ops.transpose(ops.matmul(scores, parts[2], False, False), numbers(0, 2, 1, 3))
    added = ops.add(x, ops.reshape(mixed, numbers(0, 0, 8), True))
    normal = ops.mvn(added, numbers(2), True, 1e-5, "inside_sqrt")
    return ops.gelu(ops.multiply(normal, weights(8)), "erf")


def positions(x: ov.Node) -> ov.Node:
    """Embeddings of tokens and of their places, the latter spread over the batch."""
    shape = ops.shape_of(x)
    length = ops.gather(shape, numbers(1), ops.constant(0))
    places = ops.unsqueeze(
        ops.range(
            ops.constant(np.int64(0)), ops.squeeze(length, numbers(0)), ops.constant(np.int64(1)), "i64"
        ),
        numbers(0),
    )
    spread = ops.broadcast(places, shape)
    tokens = ops.gather(weights(30, 8), x, ops.constant(0))
    return ops.add(tokens, ops.gather(weights(16, 8), spread, ops.constant(0)))


def convolutions(x: ov.Node) -> ov.Node:
    node = ops.convolution(x, weights(8, 3, 3, 3), [1, 1], [1, 1], [1, 1], [1, 1])
    node = ops.relu(ops.add(node, weights(1, 8, 1, 1)))
    node = ops.max_pool(node, [2, 2], [1, 1], [0, 0], [0, 0], [2, 2]).output(0)
    node = ops.reshape(ops.reduce_mean(node, numbers(2, 3), True), numbers(-1, 8), False)
    return ops.softmax(ops.matmul(node, weights(8, 5), False, False), 1)


@pytest.mark.parametrize(
    ("make", "shape"),
    [
        (attention, (1, 4, 8)),
        (convolutions, (1, 3, 8, 8)),
        (
            lambda x: ops.reshape(
                ops.matmul(ops.reshape(x, numbers(-1, 8), False), weights(8, 3), False, False),
                numbers(-1, 4, 3),
                False,
            ),
            (1, 4, 8),
        ),
        (lambda x: ops.concat([x, ops.relu(x)], 1), (1, 8)),
        (lambda x: ops.split(x, ops.constant(1), 2).output(1), (1, 8)),
        (lambda x: ops.slice(x, numbers(1), numbers(3), numbers(1), numbers(1)), (1, 8)),
        (
            lambda x: ops.strided_slice(
                x, numbers(0, 0), numbers(0, 1), numbers(1, 1), [1, 0], [1, 0], [], [0, 1]
            ),
            (1, 4, 8),
        ),
        (lambda x: ops.topk(x, ops.constant(2), 1, "max", "value").output(0), (1, 8)),
        (lambda x: ops.cum_sum(x, ops.constant(1)), (1, 8)),
        (lambda x: ops.tile(x, numbers(1, 3)), (1, 8)),
        (lambda x: ops.pad(x, numbers(0, 1), numbers(0, 1), "constant"), (1, 8)),
        (lambda x: ops.reduce_max(x, numbers(-1), False), (1, 4, 8)),
        (lambda x: ops.transpose(ops.relu(ops.transpose(x, numbers(1, 0, 2))), numbers(1, 0, 2)), (1, 4, 8)),
        (lambda x: ops.prelu(x, weights(4)), (1, 4, 8)),
        (lambda x: ops.add(x, ops.broadcast(ops.constant(np.float32(2)), ops.shape_of(x))), (3, 8)),
    ],
)
def test_samples_that_stay_apart(make: Callable[..., ov.Node], shape: tuple[int, ...]) -> None:
    assert doubt(make, shape) == ""


def test_tokens_and_their_places() -> None:
    assert doubt(positions, (1, 6), kind=np.int64) == ""


def test_a_model_of_two_inputs() -> None:
    make = lambda x, mask: ops.select(ops.greater(mask, np.float32(0)), x, ops.constant(np.float32(0)))  # noqa: E731
    assert doubt(make, (1, 4, 8), (1, 1, 8)) == ""


@pytest.mark.parametrize(
    ("make", "shape", "culprit"),
    [
        (lambda x: ops.softmax(x, 0), (1, 8), "Softmax"),
        (lambda x: ops.softmax(x, -2), (1, 8), "Softmax"),
        (lambda x: ops.cum_sum(x, ops.constant(0)), (1, 8), "CumSum"),
        (lambda x: ops.subtract(x, ops.reduce_mean(x, numbers(0), True)), (1, 8), "ReduceMean"),
        (lambda x: ops.divide(x, ops.reduce_max(x, numbers(0, 1), True)), (1, 8), "ReduceMax"),
        (lambda x: ops.matmul(ops.matmul(x, x, False, True), x, False, False), (1, 8), "MatMul"),
        (lambda x: ops.concat([x, x], 0), (1, 8), "Concat"),
        (lambda x: ops.gather(x, numbers(1, 0), ops.constant(0)), (1, 8), "Gather"),
        (lambda x: ops.topk(x, ops.constant(2), 0, "max", "value").output(0), (1, 8), "TopK"),
        (lambda x: ops.softmax(ops.reshape(x, numbers(1, -1), False), 1), (1, 8), "Softmax"),
        (lambda x: ops.mvn(x, numbers(0, 1), True, 1e-5, "inside_sqrt"), (1, 8), "MVN"),
        # The sequence is the second dimension of this input, and the first one after it.
        (
            lambda x: ops.reduce_sum(ops.transpose(x, numbers(1, 0, 2)), numbers(1), True),
            (1, 4, 8),
            "ReduceSum",
        ),
    ],
)
def test_samples_that_look_at_each_other(
    make: Callable[..., ov.Node], shape: tuple[int, ...], culprit: str
) -> None:
    with pytest.raises(NotBatched, match=f"requests would look at each other.*{culprit}"):
        doubt(make, shape)


@pytest.mark.parametrize(
    ("make", "shape"),
    [
        # Reversed: each gets another one's answer.
        (lambda x: ops.slice(x, numbers(-1), numbers(-100), numbers(-1), numbers(0)), (1, 8)),
        # One may get what is of its place in the batch.
        (lambda x: ops.add(x, weights(BATCH, 1)), (1, 8)),
        (lambda x: ops.multiply(x, ops.unsqueeze(places(), numbers(1))), (1, 8)),
        # A shape in which a sample begins in the middle of a row.
        (lambda x: ops.reshape(x, numbers(3, 4), False), (1, 6)),
        # Samples that do not follow one another in the answer.
        (lambda x: ops.transpose(x, numbers(1, 0)), (1, 8)),
        (lambda x: ops.reverse_sequence(x, numbers(4, 4), 0, 1), (1, 8)),
        (lambda x: ops.roll(x, numbers(1), numbers(0)), (1, 8)),
        (lambda x: ops.grid_sample(x, weights(BATCH, 4, 4, 2), {}), (1, 1, 4, 4)),
    ],
)
def test_what_is_not_known_to_keep_them_apart(make: Callable[..., ov.Node], shape: tuple[int, ...]) -> None:
    assert doubt(make, shape).startswith("requests may look at each other in operation")


def test_an_operation_that_nobody_knows_hides_none_that_mixes_samples() -> None:
    """Whoever asks for batches by name takes the first one's risk, and not the second one's."""

    def make(x: ov.Node) -> ov.Node:
        rolled = ops.roll(x, numbers(1), numbers(1))
        return ops.subtract(rolled, ops.reduce_mean(rolled, numbers(0), True))

    assert "'Roll" in doubt(lambda x: ops.roll(x, numbers(1), numbers(1)), (1, 8))
    with pytest.raises(NotBatched, match="ReduceMean"):
        doubt(make, (1, 8))


def test_slopes_that_would_be_those_of_samples() -> None:
    assert doubt(
        lambda x: ops.transpose(ops.prelu(ops.transpose(x, numbers(1, 0)), weights(BATCH)), numbers(1, 0)),
        (1, 8),
    )


def test_a_branch_that_depends_on_all_samples_is_not_taken_for_apart() -> None:
    x = ops.parameter([BATCH, 8], np.float32)
    condition = ops.greater(
        ops.reduce_max(ops.reduce_max(x, numbers(1), False), numbers(0), False), np.float32(9)
    )
    with pytest.raises(NotBatched, match="ReduceMax"):
        doubt_of(
            ov.Model([ops.result(ops.select(condition, ops.negative(x), x))], [x], "model"),
            None,
            BATCH,
            RULES,
        )


def size(x: ov.Node, axis: int) -> ov.Node:
    return ops.convert(ops.gather(ops.shape_of(x), numbers(axis), ops.constant(0)), "f32")


def strided_size(x: ov.Node, axis: int) -> ov.Node:
    """The same as TensorFlow's front end writes it."""
    found = ops.strided_slice(
        ops.convert(ops.shape_of(x), "i32"), numbers(axis), numbers(axis + 1), numbers(1), [0], [0], [], [1]
    )
    return ops.convert(found, "f32")


@pytest.mark.parametrize("of", [size, strided_size])
@pytest.mark.parametrize(("axis", "is_apart"), [(0, False), (1, True), (-1, True)])
def test_values_that_are_computed_of_a_size(
    of: Callable[[ov.Node, int], ov.Node], axis: int, is_apart: bool
) -> None:
    """Of how many samples there are, unlike of how long each of them is. No trial would find that in a rare branch."""
    if of is strided_size and axis < 0:
        axis = 2
    make = lambda x: ops.select(ops.greater(x, np.float32(9)), ops.divide(x, of(x, axis)), x)  # noqa: E731
    assert (doubt(make, (1, 4, 8)) == "") is is_apart


@pytest.mark.parametrize(
    ("make", "shape"),
    [
        # As many columns as there are samples.
        (
            lambda x: ops.reduce_sum(
                ops.broadcast(x, ops.concat([first_size(x), first_size(x)], 0)), numbers(1), True
            ),
            (1, 1),
        ),
        (
            lambda x: ops.reduce_sum(
                ops.tile(x, ops.concat([numbers(1), first_size(x)], 0)), numbers(1), True
            ),
            (1, 3),
        ),
        (
            lambda x: ops.reduce_sum(
                ops.slice(x, numbers(0), first_size(x), numbers(1), numbers(1)), numbers(1), True
            ),
            (1, 64),
        ),
        (
            lambda x: ops.slice(x, first_size(x), ops.add(first_size(x), numbers(3)), numbers(1), numbers(1)),
            (1, 64),
        ),
        (
            lambda x: ops.strided_slice(
                x,
                ops.concat([numbers(0), first_size(x)], 0),
                ops.concat([numbers(0), ops.add(first_size(x), numbers(3))], 0),
                numbers(1, 1),
                [1, 0],
                [1, 0],
            ),
            (1, 64),
        ),
        # Alone it has one dimension less.
        (lambda x: ops.unsqueeze(ops.softmax(opset15.squeeze(x), -1), numbers(1)), (1, 1, 8)),
    ],
)
def test_shapes_that_are_others_alone(make: Callable[..., ov.Node], shape: tuple[int, ...]) -> None:
    assert doubt(make, shape).startswith("requests may look at each other in operation")


def first_size(x: ov.Node) -> ov.Node:
    return ops.gather(ops.shape_of(x), numbers(0), ops.constant(0))


def test_a_shape_of_another_tensor_that_grows_with_the_batch() -> None:
    """A constant that was spread over the batch."""

    def make(x: ov.Node) -> ov.Node:
        ones = ops.broadcast(ops.constant(np.float32(1)), ops.shape_of(x))
        return ops.multiply(x, size(ones, 0))

    assert doubt(make, (1, 8))


def test_slopes_of_more_than_the_second_dimension() -> None:
    """OpenVINO spreads them over the last one, where samples are."""

    def make(x: ov.Node) -> ov.Node:
        moved = ops.prelu(ops.transpose(x, numbers(1, 2, 0)), weights(BATCH))
        return ops.transpose(moved, numbers(2, 0, 1))

    assert doubt(make, (1, 4, 8))


@pytest.mark.parametrize(
    ("shape", "is_apart"), [((1, 4, 1), True), ((), True), ((8,), False), ((1, 1, 8), False)]
)
def test_bounds_of_quantization(shape: tuple[int, ...], is_apart: bool) -> None:
    def make(x: ov.Node) -> ov.Node:
        high = ops.constant(np.full(shape, 2, np.float32))
        return ops.fake_quantize(x, ops.constant(np.float32(0)), high, ops.constant(np.float32(0)), high, 255)

    assert (doubt(make, (1, 4, 8)) == "") is is_apart


def test_tensors_without_elements() -> None:
    def make(x: ov.Node) -> ov.Node:
        nothing = ops.slice(x, numbers(3), numbers(3), numbers(1), numbers(1))
        return ops.concat([x, ops.reshape(nothing, numbers(0, 0, 2), True)], 1)

    assert "may look at each other" in doubt(lambda x: make(ops.reshape(x, numbers(0, 4, 2), True)), (1, 8))
