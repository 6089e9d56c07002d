# SPDX-License-Identifier: Apache-2.0
"""``auto``: which dimensions are opened, what the model says of shapes that it cannot take, and the way without it."""

from __future__ import annotations

import numpy as np
import pytest

from ovms_mp.model.input_settings import BatchSize, InputSettings, InputShape, Layout
from tests.support.prepared import Case, Outcome, prepare_all

SHAPE = InputSettings(shapes=(InputShape("", None),))
BATCH = InputSettings(batch_size=BatchSize(None))

OPENED: dict[str, tuple[Case, dict[str, str]]] = {
    "mlp": (Case(model="mlp", settings=SHAPE), {"x": "f32 [?,8]"}),
    "convolution and global pool": (Case(model="global_pool", settings=SHAPE), {"x": "f32 [?,3,?,?]"}),
    "batch only": (Case(model="global_pool", settings=BATCH), {"x": "f32 [?,3,8,8]"}),
    "convolution and flatten": (Case(model="flatten", settings=SHAPE), {"x": "f32 [?,3,8,8]"}),
    # OpenVINO's reshape would make two samples of an image of two rows.
    "convolution of one row and flatten": (Case(model="flatten_row", settings=SHAPE), {"x": "f32 [?,3,1,8]"}),
    "two inputs that are added": (
        Case(model="two_added", settings=SHAPE),
        {"a": "f32 [?,?]", "b": "f32 [?,?]"},
    ),
    "ids and mask": (
        Case(model="bert_like", settings=SHAPE),
        {"ids": "i64 [?,?]", "mask": "f32 [?,?]"},
    ),
    "batch of ids and mask": (
        Case(model="bert_like", settings=BATCH),
        {"ids": "i64 [?,16]", "mask": "f32 [?,16]"},
    ),
    "two of three inputs": (
        Case(model="with_fixed_partner", settings=SHAPE),
        {"a": "f32 [?,4]", "b": "f32 [?,4]", "c": "f32 [2,4]"},
    ),
    "one input by name, the other fixed": (
        Case(
            model="two_added",
            settings=InputSettings(shapes=(InputShape("a", None), InputShape("b", ((1, 1), (4, 4))))),
        ),
        {"a": "f32 [?,4]", "b": "f32 [1,4]"},
    ),
    "samples would be glued together": (Case(model="glued", settings=BATCH), {"x": "f32 [1,4]"}),
    "samples would be mixed": (Case(model="mixed", settings=SHAPE), {"x": "f32 [1,3,?]"}),
    "samples in the second place": (Case(model="time_major", settings=BATCH), {"x": "f32 [?,3,4]"}),
    "batch in the second place": (
        Case(model="plain2", settings=InputSettings(batch_size=BatchSize(None), layouts=(Layout("", "CN"),))),
        {"x": "f32 [2,?]"},
    ),
    "number of dimensions would change": (Case(model="squeezed", settings=SHAPE), {"x": "f32 [1,4]"}),
    "batch is baked in": (Case(model="baked_batch", settings=SHAPE), {"x": "f32 [?,3,8,8]"}),
    "multiples of four": (Case(model="unet", settings=SHAPE), {"x": "f32 [?,?,?,?]"}),
    "detections of all samples": (
        Case(model="detections", settings=BATCH),
        {"boxes": "f32 [?,20]", "scores": "f32 [?,10]"},
    ),
    "a list of detections": (Case(model="listed", settings=BATCH), {"x": "f32 [?,4,5,7]"}),
    "a list of detections, any shape": (Case(model="listed", settings=SHAPE), {"x": "f32 [?,?,?,7]"}),
    "a list of detections from two inputs": (
        Case(model="listed_pair", settings=BATCH),
        {"image": "f32 [?,4,5,7]", "factor": "f32 [?,1]"},
    ),
    "no list of detections": (Case(model="listed_six", settings=BATCH), {"x": "f32 [1,4,5,6]"}),
    "detections after suppression": (
        Case(model="suppressed", settings=BATCH),
        {"boxes": "f32 [?,20,4]", "scores": "f32 [?,2,20]"},
    ),
    "scalar": (Case(model="scalar", settings=SHAPE), {"x": "f32 []"}),
    "one tensor in and out": (Case(model="identity", settings=BATCH), {"x": "f32 [?,3,4,5]"}),
    "clients' layout": (
        Case(
            model="global_pool",
            settings=InputSettings(shapes=SHAPE.shapes, layouts=(Layout("", "NHWC", "NCHW"),)),
        ),
        {"x": "f32 [?,?,?,3]"},
    ),
    "dynamic already": (Case(model="plain4_dynamic", settings=BATCH), {"x": "f32 [?,3,?,?]"}),
}

RESHAPED: dict[str, tuple[Case, list[str]]] = {
    # Each answer's beginning: the outputs' shapes, or the refusal.
    "unet": (
        Case(model="unet", settings=SHAPE, reshape=(((1, 3, 12, 8),), ((1, 3, 10, 8),), ((1, 3),))),
        [
            "[1,9,12,8]",
            "ShapeMismatch: Model could not be reshaped with requested shape: 'x' [1, 3, 10, 8]: While validating node",
            "ShapeMismatch: Model could not be reshaped with requested shape: 'x' [1, 3]: 'x' may be [?,?,?,?]",
        ],
    ),
    "linked": (
        Case(model="two_added", settings=SHAPE, reshape=(((2, 5), (2, 5)), ((2, 5), (2, 6)), ((2, 5),))),
        [
            "[2,5]",
            "ShapeMismatch: Model could not be reshaped with requested shape: 'a' [2, 5], 'b' [2, 6]: While validating",
            "ShapeMismatch: Model could not be reshaped with requested shape: 'a' [2, 5]: 1 shapes for 2 inputs",
        ],
    ),
    "not opened": (
        Case(model="flatten", settings=SHAPE, reshape=(((4, 3, 8, 8),), ((1, 3, 16, 8),))),
        [
            "[4,2]",
            "ShapeMismatch: Model could not be reshaped with requested shape: 'x' [1, 3, 16, 8]: 'x' may be [?,3",
        ],
    ),
}

RUN = {
    "dynamic": Case(
        model="two_added", settings=SHAPE, runs=(((1, 4), (1, 4)), ((3, 5), (3, 5)), ((3, 5), (3, 6)))
    ),
    "multiples": Case(
        model="unet", settings=SHAPE, runs=(((1, 3, 8, 8),), ((2, 3, 12, 4),), ((1, 3, 10, 8),))
    ),
    "static only": Case(model="static_only", settings=SHAPE, runs=(((1, 4, 8, 8),), ((1, 4, 9, 10),))),
}
ALL = (
    {f"opened: {name}": row[0] for name, row in OPENED.items()}
    | {f"reshaped: {name}": row[0] for name, row in RESHAPED.items()}
    | {f"run: {name}": case for name, case in RUN.items()}
)


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Outcome]:
    return prepare_all(ALL, tmp_path_factory.mktemp("auto"))


@pytest.mark.parametrize("name", OPENED)
def test_dimensions_that_vary_are_opened_and_no_others(name: str, outcomes: dict[str, Outcome]) -> None:
    outcome = outcomes[f"opened: {name}"]

    assert outcome.error == ""
    assert outcome.inputs == OPENED[name][1]
    if outcome.own_shapes is not None:
        assert len(outcome.auto) == sum(text.count("?") for text in outcome.inputs.values())
    assert any(notice.startswith("auto: ") for notice in outcome.notices)


def test_own_shapes_are_those_before(outcomes: dict[str, Outcome]) -> None:
    assert outcomes["opened: ids and mask"].own_shapes == ((1, 16), (1, 16))
    assert outcomes["opened: clients' layout"].own_shapes == ((1, 8, 8, 3),)
    assert outcomes["opened: dynamic already"].own_shapes is None


@pytest.mark.parametrize("name", RESHAPED)
def test_copies_for_given_shapes(name: str, outcomes: dict[str, Outcome]) -> None:
    answers, expected = outcomes[f"reshaped: {name}"].refusals, RESHAPED[name][1]

    assert [answer[: len(text)] for answer, text in zip(answers, expected, strict=True)] == expected


def test_a_dynamic_model_runs_with_shapes_that_it_can_take(outcomes: dict[str, Outcome]) -> None:
    own, other, unlinked = outcomes["run: dynamic"].runs

    for run in (own, other):
        assert np.array_equal(np.add(run.given["a"], run.given["b"]), run.got["y"])
    assert np.shape(other.got["y"]) == (3, 5)
    assert unlinked.error


def test_multiples_run_and_others_fail(outcomes: dict[str, Outcome]) -> None:
    own, other, odd = outcomes["run: multiples"].runs

    assert np.shape(own.got["y"]) == (1, 9, 8, 8)
    assert np.shape(other.got["y"]) == (2, 9, 12, 4)
    assert "inconsistent" in odd.error


def test_what_cannot_be_compiled_dynamic_runs_as_copies(outcomes: dict[str, Outcome]) -> None:
    outcome = outcomes["run: static only"]

    assert outcome.compile_error.startswith("ModelLoadFailed: cannot compile for CPU: ")
    assert "dynamic shapes" in outcome.compile_error
    assert [np.shape(run.got["y"]) for run in outcome.runs] == [(1, 1, 2, 2)] * 2
    assert outcome.runs[0].got != outcome.runs[1].got
