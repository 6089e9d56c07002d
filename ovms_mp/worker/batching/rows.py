# SPDX-License-Identifier: Apache-2.0
"""Whether what one request gets out of a batch can depend on the others in it: read from the model's graph.

A trial on made-up values cannot show that. A model that looks for the largest value of a batch, or goes another way
where one of its samples is unusual, answers them as ever until such a sample comes. So the batch is followed from the
inputs through every operation::

    x [B, T, D] --Reshape--> [B*T, D] --MatMul--> [B*T, E] --Reshape--> [B, T, E] --Softmax, axis 1--> apart
      axis 0                  axis 0, T after B                axis 0             --Softmax, axis 0--> NotBatched

What is known of a tensor is where its samples are (:class:`Placed`), or that it does not depend on them at all
(:class:`Free`): constants, and what is computed of shapes. A tensor of the second kind may differ from place to place,
so along the batch it must be one value only, or known to be the same everywhere. Nor may a value be computed of how
many samples there are, or a sample be of another shape than alone. Rules for operations are in
:mod:`ovms_mp.worker.batching.row_rules`; one that has none is a doubt.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    import openvino as ov

Shape: TypeAlias = tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Placed:
    """Samples lie one after another along ``axis``, each of them ``post`` long there."""

    axis: int
    post: int


@dataclass(frozen=True, slots=True)
class Free:
    """It does not depend on any input's values.

    Attributes:
        uniform: Axes along which it is the same everywhere.
        counts: Whether its values depend on how many samples there are.
        sizes: Of a shape, the places of those numbers that do; None for what is not known to be a shape.
    """

    uniform: frozenset[int] = frozenset()
    counts: bool = False
    sizes: frozenset[int] | None = None


State: TypeAlias = Placed | Free


class NotBatched(Exception):
    """A model is not batched; the text says why."""


class NotNow(NotBatched):
    """The same for what may be otherwise at the next load."""


class Doubt(Exception):
    """It cannot be told whether samples stay apart in an operation."""


class Mixes(Exception):
    """They do not."""


@dataclass(frozen=True, slots=True)
class Step:
    """An operation, as its rule sees it.

    Attributes:
        node: The operation.
        batch: How many samples there are.
        shapes: Of its inputs.
        states: Of its inputs; at least one of them is placed.
        outputs: Shapes of its outputs.
    """

    node: ov.Node
    batch: int
    shapes: tuple[Shape, ...]
    states: tuple[State, ...]
    outputs: tuple[Shape, ...]

    def constant(self, index: int) -> tuple[int, ...] | None:
        """The integers of an input that is a constant; None where it is no such one, or is not there."""
        if index >= len(self.shapes):
            return None
        node = self.node.input_value(index).get_node()
        if node.get_type_name() != "Constant":
            return None
        return tuple(int(value) for value in node.data.reshape(-1))

    def axes(self, index: int, rank: int) -> frozenset[int]:
        """The axes that a constant input names.

        Raises:
            Doubt: It is no constant.
        """
        found = self.constant(index)
        if found is None:
            raise Doubt
        return frozenset(axis % rank if rank else 0 for axis in found)

    def attribute(self, name: str, default: object) -> object:
        """One of the operation's attributes."""
        return self.node.get_attributes().get(name, default)

    def placed(self, index: int) -> Placed:
        """Where an input's samples are.

        Raises:
            Doubt: It has none.
        """
        state = self.states[index]
        if not isinstance(state, Placed):
            raise Doubt
        return state

    def all_free(self, indices: Sequence[int]) -> None:
        """Raise unless these inputs do not depend on samples.

        Raises:
            Doubt: One of them does.
        """
        if any(isinstance(self.states[index], Placed) for index in indices if index < len(self.states)):
            raise Doubt


Rule: TypeAlias = "Callable[[Step], tuple[State, ...]]"


@dataclass(frozen=True, slots=True)
class Rules:
    """What operations do, by their types.

    Attributes:
        placed: To samples.
        free: To what does not depend on any; the other operations leave nothing that is the same everywhere.
        targets: Their inputs that say only which shape comes out of samples, so that comparing that is enough.
    """

    placed: Mapping[str, Rule]
    free: Mapping[str, Rule]
    targets: Mapping[str, tuple[int, ...]]


def doubt_of(model: ov.Model, lone: ov.Model | None, batch: int, rules: Rules) -> str:
    """Why samples of a batch may not stay apart, or may not be what they are alone; empty where they do and are.

    PERF: 80 ms for ResNet-50 (391 operations) on a busy machine.

    Args:
        model: With static shapes, whose inputs have so many samples along their first dimension.
        lone: The same, operation by operation, for one sample; None where shapes are not to be compared.
        batch: How many; at least 2.
        rules: For operations.

    Raises:
        NotBatched: They certainly do not.
    """
    states: dict[tuple[str, int], State] = {}
    doubt = ""
    nodes = model.get_ordered_ops()
    for node, alone in zip(nodes, lone.get_ordered_ops() if lone else nodes, strict=True):
        kind = node.get_type_name()
        if kind == "Parameter":
            states[node.get_name(), 0] = Placed(0, _shape(node.output(0))[0] // batch)
            continue
        try:
            found = _follow(node, alone, kind, batch, states, rules)
            if lone is not None:
                _check_shapes(node, alone, found, batch)
        except Mixes:
            raise NotBatched(f"requests would look at each other in {_title(node, kind)}") from None
        except Doubt:
            doubt = doubt or f"requests may look at each other in {_title(node, kind)}"
            # Behind it they may do so for certain.
            found = _grown(node, alone, batch)
            if not found:
                return doubt
        for index, state in enumerate(found):
            states[node.get_name(), index] = state
    return doubt


def is_apart(state: Placed, shape: Shape, batch: int) -> bool:
    """Whether the samples of a tensor follow one another, each in one piece."""
    return all(size == 1 for size in shape[: state.axis]) and shape[state.axis] == batch * state.post


def _follow(
    node: ov.Node,
    alone: ov.Node,
    kind: str,
    batch: int,
    states: Mapping[tuple[str, int], State],
    rules: Rules,
) -> Sequence[State]:
    """States of an operation's outputs.

    Raises:
        Doubt: They cannot be told.
        Mixes: Samples look at each other.
    """
    sources = node.input_values()
    given = tuple([states[source.get_node().get_name(), source.get_index()] for source in sources])
    is_free = not any(isinstance(state, Placed) for state in given)
    if kind == "Result":
        if not is_free and not is_apart(_placed(given[0]), _shape(sources[0]), batch):
            raise Doubt
        return given
    if kind == "ShapeOf":
        return [_sizes(sources[0].get_partial_shape(), alone.input_value(0).get_partial_shape())]
    rule = (rules.free if is_free else rules.placed).get(kind)
    outputs = node.outputs()
    unknown = Free(counts=any(state.counts for state in given if isinstance(state, Free)))
    if rule is None and is_free:
        return [unknown] * len(outputs)
    if rule is None or (not is_free and _looks_at_count(given, rules.targets.get(kind, ()))):
        raise Doubt
    try:
        return rule(Step(node, batch, tuple(map(_shape, sources)), given, tuple(map(_shape, outputs))))
    except (Doubt, RuntimeError, IndexError, TypeError, ValueError):
        # RuntimeError and so on: a shape that is not known, or a form of it that its rule does not expect.
        if is_free:
            return [unknown] * len(outputs)
        raise Doubt from None


def _sizes(shape: ov.PartialShape, alone: ov.PartialShape) -> Free:
    """A shape itself: which of its numbers are others than for one sample."""
    if shape.is_dynamic or alone.is_dynamic or len(shape) != len(alone):
        return Free(counts=True)
    pairs = zip(shape, alone, strict=True)
    sizes = frozenset(place for place, (size, own) in enumerate(pairs) if size != own)
    return Free(counts=bool(sizes), sizes=sizes)


def _looks_at_count(given: Sequence[State], targets: Sequence[int]) -> bool:
    """Whether values may depend on how many samples there are, and not only the shape of what comes out."""
    return any(
        isinstance(state, Free) and state.counts and index not in targets for index, state in enumerate(given)
    )


def _check_shapes(node: ov.Node, alone: ov.Node, states: Sequence[State], batch: int) -> None:
    """Raise where samples have another shape than they have alone.

    Raises:
        Doubt: They have, or cannot be compared.
    """
    if node.get_type_name() != alone.get_type_name():
        raise Doubt
    for state, one, other in zip(states, node.outputs(), alone.outputs(), strict=False):
        if isinstance(state, Placed):
            shape, expected = list(_shape(one)), list(_shape(other))
            if len(shape) != len(expected):
                raise Doubt
            expected[state.axis] *= batch
            if shape != expected:
                raise Doubt


def _grown(node: ov.Node, alone: ov.Node, batch: int) -> Sequence[State]:
    """Where samples seem to be, by the shapes of an operation's outputs; empty where these do not say it."""
    states: list[State] = []
    for one, other in zip(node.outputs(), alone.outputs(), strict=True):
        shape, own = one.get_partial_shape(), other.get_partial_shape()
        if shape.is_dynamic or own.is_dynamic or len(shape) != len(own):
            return ()
        grown = [axis for axis, size in enumerate(shape) if size != own[axis]]
        if len(grown) != 1 or shape[grown[0]].get_length() != batch * own[grown[0]].get_length():
            return ()
        states.append(Placed(grown[0], own[grown[0]].get_length()))
    return states


def _placed(state: State) -> Placed:
    if isinstance(state, Placed):
        return state
    raise Doubt


def _shape(output: ov.Output) -> Shape:
    return tuple(output.get_shape())


def _title(node: ov.Node, kind: str) -> str:
    name = node.get_friendly_name()
    return f"operation {name!r}" if kind in name else f"operation {name!r} ({kind})"
