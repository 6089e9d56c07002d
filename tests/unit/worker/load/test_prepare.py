# SPDX-License-Identifier: Apache-2.0
"""From model file and settings to a model: names, shapes, layouts, preprocessing; numbers against NumPy.

All models are prepared by one process, see :mod:`tests.support.prepare_child`.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, TypeAlias

import numpy as np
import numpy.typing as npt
import pytest

from ovms_mp.model.input_settings import (
    BatchSize,
    ChannelValues,
    Conversion,
    InputSettings,
    InputShape,
    Layout,
)
from tests.support.prepared import Case, Outcome, Run, prepare_all

if TYPE_CHECKING:
    from collections.abc import Callable

Floats: TypeAlias = npt.NDArray[np.float32]


def layouts(*given: Layout, **others: tuple[ChannelValues, ...] | tuple[Conversion, ...]) -> InputSettings:
    return InputSettings(layouts=given, **others)  # type: ignore[arg-type]  # each keyword has its own type


def shaped(name: str, *dims: int) -> InputSettings:
    bounds = tuple((0, -1) if size == -1 else (size, size) for size in dims)
    return InputSettings(shapes=(InputShape(name, bounds),))


def conversion(model: str, client: str) -> tuple[Conversion, ...]:
    return (Conversion("", model, client),)


NHWC = Layout("", "NHWC", "NCHW")
RENAMED = json.dumps({"inputs": {"x": "image"}, "outputs": {"y": "answer"}})
TWICE = ChannelValues("", (2.0,))

METADATA: dict[str, tuple[Case, dict[str, str], dict[str, str]]] = {
    "nothing set": (Case(model="plain4"), {"x": "f32 [1,3,4,6]"}, {"y": "f32 [1,3,4,6]"}),
    "mapping": (
        Case(model="plain4", mapping=RENAMED),
        {"image": "f32 [1,3,4,6]"},
        {"answer": "f32 [1,3,4,6]"},
    ),
    "mapping of one tensor that is input and output": (
        Case(model="identity", mapping='{"inputs": {"x": "in"}, "outputs": {"x": "out"}}'),
        {"in": "f32 [1,3,4,5]"},
        {"out": "f32 [1,3,4,5]"},
    ),
    "shape by alias": (
        Case(model="plain4", mapping=RENAMED, settings=shaped("image", 2, 3, 8, 6)),
        {"image": "f32 [2,3,8,6]"},
        {"answer": "f32 [2,3,8,6]"},
    ),
    "anonymous shape": (
        Case(model="plain4", settings=shaped("", 5, 3, 4, 6)),
        {"x": "f32 [5,3,4,6]"},
        {"y": "f32 [5,3,4,6]"},
    ),
    "shape with any and range": (
        Case(
            model="plain4",
            settings=InputSettings(shapes=(InputShape("x", ((0, -1), (3, 3), (2, 8), (6, 6))),)),
        ),
        {"x": "f32 [?,3,2..8,6]"},
        {"y": "f32 [?,3,2..8,6]"},
    ),
    "shape gives a rank to what has none": (
        Case(model="any_rank", settings=shaped("x", 2, 3)),
        {"x": "f32 [2,3]"},
        {"y": "f32 [2,3]"},
    ),
    "one of two inputs": (
        Case(model="two_added", settings=shaped("b", 3, 4)),
        {"a": "f32 [1,4]", "b": "f32 [3,4]"},
        {"y": "f32 [3,4]"},
    ),
    "batch": (
        Case(model="plain4", settings=InputSettings(batch_size=BatchSize((8, 8)))),
        {"x": "f32 [8,3,4,6]"},
        {"y": "f32 [8,3,4,6]"},
    ),
    "batch of all inputs": (
        Case(model="two_added", settings=InputSettings(batch_size=BatchSize((2, 5)))),
        {"a": "f32 [2..5,4]", "b": "f32 [2..5,4]"},
        {"y": "f32 [2..5,4]"},
    ),
    "any batch": (
        Case(model="mlp", settings=InputSettings(batch_size=BatchSize((0, -1)))),
        {"x": "f32 [?,8]"},
        {"y": "f32 [?,3]"},
    ),
    "batch that is baked into the model": (
        Case(model="baked_batch", settings=InputSettings(batch_size=BatchSize((4, 4)))),
        {"x": "f32 [4,3,8,8]"},
        {"y": "f32 [4,2]"},
    ),
    "batch where the layout says": (
        Case(
            model="plain2",
            settings=InputSettings(batch_size=BatchSize((7, 7)), layouts=(Layout("x", "CN"),)),
        ),
        {"x": "f32 [2,7]"},
        {"y": "f32 [2,7]"},
    ),
    "batch where the clients' layout says": (
        Case(
            model="plain4",
            settings=InputSettings(batch_size=BatchSize((7, 7)), layouts=(Layout("", "HWCN", "NCHW"),)),
        ),
        {"x": "f32 [4,6,3,7]"},
        {"y": "f32 [7,3,4,6]"},
    ),
    "shape goes before batch": (
        Case(
            model="plain2",
            settings=InputSettings(batch_size=BatchSize((9, 9)), shapes=shaped("", 4, 3).shapes),
        ),
        {"x": "f32 [4,3]"},
        {"y": "f32 [4,3]"},
    ),
    "layout of the input": (
        Case(model="plain4", settings=layouts(NHWC)),
        {"x": "f32 [1,4,6,3]"},
        {"y": "f32 [1,3,4,6]"},
    ),
    "layout that only declares": (
        Case(model="plain4", settings=layouts(Layout("", "NHWC"))),
        {"x": "f32 [1,3,4,6]"},
        {"y": "f32 [1,3,4,6]"},
    ),
    "layout of an output": (
        Case(model="two_outputs", settings=layouts(Layout("z", "NHWC", "NCHW"))),
        {"x": "f32 [1,3,4,5]"},
        {"y": "f32 [1,3,4,5]", "z": "f32 [1,4,5,3]"},
    ),
    "shape is what clients see": (
        Case(
            model="plain4",
            settings=InputSettings(layouts=(NHWC,), shapes=shaped("", 2, 10, 12, 3).shapes),
        ),
        {"x": "f32 [2,10,12,3]"},
        {"y": "f32 [2,3,10,12]"},
    ),
    "layout of a dynamic model": (
        Case(model="plain4_dynamic", settings=layouts(NHWC)),
        {"x": "f32 [?,?,?,3]"},
        {"y": "f32 [?,3,?,?]"},
    ),
    "layout of what is input and output": (
        Case(model="identity", settings=layouts(NHWC)),
        {"x": "f32 [1,4,5,3]"},
        {"x": "f32 [1,3,4,5]"},
    ),
    "precision": (
        Case(model="plain4", settings=InputSettings(precision=conversion("fp32", "uint8"))),
        {"x": "u8 [1,3,4,6]"},
        {"y": "f32 [1,3,4,6]"},
    ),
    "planes": (
        Case(
            model="plain4",
            settings=layouts(
                NHWC, color_format=conversion("RGB", "NV12_2"), precision=conversion("fp32", "uint8")
            ),
        ),
        {"x/y": "u8 [1,4,6,1]", "x/uv": "u8 [1,2,3,2]"},
        {"y": "f32 [1,3,4,6]"},
    ),
}

ANONYMOUS = "Anonymous fixed {} is invalid for models with multiple inputs"
REFUSED: dict[str, tuple[Case, list[str]]] = {
    "real name in shape": (
        Case(model="plain4", mapping=RENAMED, settings=shaped("x", 1, 3, 4, 6)),
        ["Shape from config has real name. Use mapped name instead: 'x' is called 'image'"],
    ),
    "unknown name in shape": (
        Case(model="plain4", settings=shaped("z", 1, 3, 4, 6)),
        ["Shape from config not found in model: 'z'; its inputs are 'x'"],
    ),
    "unknown name in auto shape": (
        Case(model="plain4", settings=InputSettings(shapes=(InputShape("z", None),))),
        ["Shape from config not found in model: 'z'"],
    ),
    "anonymous shape, two inputs": (
        Case(model="two_added", settings=shaped("", 1, 4)),
        [ANONYMOUS.format("shape"), "'a', 'b'"],
    ),
    "shape that does not fit": (
        Case(model="mlp", settings=shaped("x", 1, 9)),
        [
            "Model could not be reshaped with requested shape: shape of 'x': [1,9]",
            "its own: 'x' [1,8]",
            "MatMul",
        ],
    ),
    "batch that does not fit": (
        Case(
            model="mixed", settings=InputSettings(batch_size=BatchSize((2, 2)), layouts=(Layout("", "CNH"),))
        ),
        ["Model could not be reshaped with requested shape: batch_size 2"],
    ),
    "batch without N": (
        Case(
            model="plain4",
            settings=InputSettings(batch_size=BatchSize((2, 2)), layouts=(Layout("", "CDHW"),)),
        ),
        ["batch_size is given, but no input has a dimension N", "CDHW", "layout"],
    ),
    "auto batch of a scalar": (
        Case(model="scalar", settings=InputSettings(batch_size=BatchSize(None))),
        ["Batching set to AUTO but model contains scalar tensor 'x'"],
    ),
    "real name in layout": (
        Case(model="plain4", mapping=RENAMED, settings=layouts(Layout("y", "NCHW"))),
        ["Layout from config has real name. Use mapped name instead: 'y' is called 'answer'"],
    ),
    "unknown name in layout": (
        Case(model="plain4", settings=layouts(Layout("z", "NCHW"))),
        ["Layout from config not found in model: 'z'"],
    ),
    "anonymous layout, two inputs": (
        Case(model="two_added", settings=layouts(Layout("", "NC"))),
        [ANONYMOUS.format("layout")],
    ),
    "anonymous mean, two inputs": (
        Case(model="two_added", settings=InputSettings(mean=(TWICE,))),
        [ANONYMOUS.format("mean")],
    ),
    "layout that is too long": (
        Case(model="plain4", settings=layouts(Layout("x", "NDHWC"))),
        ["Layout incompatible with given shape: layout NDHWC of 'x' has 5 dimensions", "[1,3,4,6] has 4"],
    ),
    "layout that is no permutation": (
        Case(model="plain4", settings=layouts(Layout("x", "NHWC", "NDHW"))),
        ["the model cannot be adapted to 'x': layout NHWC:NDHW"],
    ),
    "mean of two channels for three": (
        Case(model="plain4", settings=layouts(Layout("", "NCHW"), mean=(ChannelValues("", (1.0, 2.0)),))),
        ["the model cannot be adapted to 'x': layout NCHW, mean [1.0, 2.0]", "Channels = 3"],
    ),
    "mean of channels without a layout": (
        Case(model="plain4", settings=InputSettings(mean=(ChannelValues("", (1.0, 2.0, 3.0)),))),
        ["mean [1.0, 2.0, 3.0]", "doesn't have `channels` dimension"],
    ),
    "mean of integers": (
        Case(model="plain4_u8", settings=InputSettings(mean=(TWICE,))),
        ["mean [2.0]", "can be applied to 'float' inputs"],
    ),
    "color that cannot be made": (
        Case(model="plain4", settings=layouts(NHWC, color_format=conversion("RGB", "GRAY"))),
        ["color_format GRAY:RGB", "'GRAY' is not convertible to 'RGB'"],
    ),
    "unknown color": (
        Case(model="plain4", settings=layouts(NHWC, color_format=conversion("RGB", "HSV"))),
        ["color_format 'HSV' is unknown; accepted: RGB, BGR"],
    ),
    "unknown precision": (
        Case(model="plain4", settings=InputSettings(precision=conversion("fp32", "byte"))),
        ["precision 'byte' is unknown; accepted: fp64, fp32"],
    ),
    "dynamic rank": (
        Case(model="any_rank"),
        ["input 'x' has a dynamic number of dimensions; give its shape"],
    ),
    "no inputs": (Case(model="no_inputs"), ["the model has no inputs"]),
    "two tensors of one name": (
        Case(model="two_added", mapping='{"inputs": {"a": "b"}}'),
        ["mapping_config.json", "would both be called 'b'"],
    ),
}

NOTICED: dict[str, tuple[Case, str]] = {
    "mapping names no tensor": (
        Case(model="plain4", mapping='{"inputs": {"z": "w"}, "outputs": {"y": "v"}}'),
        "inputs['z'] names no input of the model",
    ),
    "mapping is no JSON": (Case(model="plain4", mapping="{"), "tensors keep their original names"),
    "batch beside shape": (
        Case(
            model="plain2",
            settings=InputSettings(batch_size=BatchSize((9, 9)), shapes=shaped("", 4, 3).shapes),
        ),
        "batch_size is ignored, as shape is given",
    ),
}


MEANS: Floats = np.array([1, 2, 3], np.float32)
SCALES: Floats = np.array([2, 4, 8], np.float32)


def expected_resnet(x: Floats) -> Floats:
    """``--layout NHWC:NCHW --color_format BGR:RGB --precision uint8:fp32 --mean [..] --scale [..]`` by NumPy."""
    rgb = x.astype(np.float32)[..., ::-1]
    normal: Floats = (rgb - MEANS) / SCALES
    return normal.transpose(0, 3, 1, 2)


def luminance(x: Floats) -> Floats:
    mixed: Floats = x @ np.array([0.299, 0.587, 0.114], np.float32)
    return mixed[:, np.newaxis]


MEAN3, SCALE3 = ChannelValues("", (1.0, 2.0, 3.0)), ChannelValues("", (2.0, 4.0, 8.0))
HWC, CHW = (1, 4, 6, 3), (1, 3, 4, 6)
COMPUTED: dict[str, tuple[Case, Callable[[Floats], Floats]]] = {
    "layout": (
        Case(model="plain4", settings=layouts(NHWC), runs=((HWC,),)),
        lambda x: x.transpose(0, 3, 1, 2),
    ),
    "declared layout": (
        Case(model="plain4", settings=layouts(Layout("", "NHWC")), runs=((CHW,),)),
        lambda x: x,
    ),
    "output layout": (
        Case(model="plain4", settings=layouts(Layout("y", "NHWC", "NCHW")), runs=((CHW,),)),
        lambda x: x.transpose(0, 2, 3, 1),
    ),
    "one mean and scale": (
        Case(model="plain4", settings=InputSettings(mean=(TWICE,), scale=(TWICE,)), runs=((CHW,),)),
        lambda x: (x - np.float32(2)) / np.float32(2),
    ),
    "mean and scale by channel": (
        Case(
            model="plain4",
            settings=layouts(Layout("", "NCHW"), mean=(MEAN3,), scale=(SCALE3,)),
            runs=((CHW,),),
        ),
        lambda x: (x - MEANS[:, None, None]) / SCALES[:, None, None],
    ),
    "precision": (
        Case(model="plain4", settings=InputSettings(precision=conversion("fp32", "uint8")), runs=((CHW,),)),
        lambda x: x.astype(np.float32),
    ),
    "color": (
        Case(
            model="plain4",
            settings=layouts(Layout("", "NCHW"), color_format=conversion("RGB", "BGR")),
            runs=((CHW,),),
        ),
        lambda x: x[:, ::-1],
    ),
    "gray": (
        Case(model="gray4", settings=layouts(NHWC, color_format=conversion("GRAY", "RGB")), runs=((HWC,),)),
        luminance,
    ),
    "all of it": (
        Case(
            model="plain4",
            settings=layouts(
                NHWC,
                mean=(MEAN3,),
                scale=(SCALE3,),
                color_format=conversion("RGB", "BGR"),
                precision=conversion("fp32", "uint8"),
            ),
            runs=((HWC,),),
        ),
        expected_resnet,
    ),
    "all of it, reshaped": (
        Case(
            model="plain4",
            settings=InputSettings(
                layouts=(NHWC,),
                shapes=shaped("", 2, 5, 7, 3).shapes,
                mean=(MEAN3,),
                scale=(SCALE3,),
                color_format=conversion("RGB", "BGR"),
                precision=conversion("fp32", "uint8"),
            ),
            runs=(((2, 5, 7, 3),),),
        ),
        expected_resnet,
    ),
}
ALL = (
    {f"metadata: {name}": row[0] for name, row in METADATA.items()}
    | {f"refused: {name}": row[0] for name, row in REFUSED.items()}
    | {f"noticed: {name}": row[0] for name, row in NOTICED.items()}
    | {f"computed: {name}": row[0] for name, row in COMPUTED.items()}
)


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Outcome]:
    return prepare_all(ALL, tmp_path_factory.mktemp("prepare"))


@pytest.mark.parametrize("name", METADATA)
def test_names_types_and_shapes(name: str, outcomes: dict[str, Outcome]) -> None:
    outcome = outcomes[f"metadata: {name}"]

    assert outcome.error == ""
    assert (outcome.inputs, outcome.outputs) == METADATA[name][1:]
    assert outcome.auto == []


@pytest.mark.parametrize("name", REFUSED)
def test_what_does_not_fit_is_refused_with_setting_and_reason(
    name: str, outcomes: dict[str, Outcome]
) -> None:
    error = outcomes[f"refused: {name}"].error

    assert error.startswith("ModelLoadFailed: ")
    assert [part for part in REFUSED[name][1] if part not in error] == [], error


@pytest.mark.parametrize("name", NOTICED)
def test_what_is_ignored_is_noticed(name: str, outcomes: dict[str, Outcome]) -> None:
    outcome = outcomes[f"noticed: {name}"]

    assert outcome.error == ""
    assert len(outcome.notices) == 1
    assert NOTICED[name][1] in outcome.notices[0]


@pytest.mark.parametrize("name", COMPUTED)
def test_preprocessing_computes_what_numpy_does(name: str, outcomes: dict[str, Outcome]) -> None:
    outcome = outcomes[f"computed: {name}"]
    expected = COMPUTED[name][1]

    (run,) = outcome.runs
    given, got = arrays(run)

    np.testing.assert_allclose(got, expected(given), rtol=1e-5, atol=1e-4)


def arrays(run: Run) -> tuple[Floats, Floats]:
    (given,), (got,) = run.given.values(), run.got.values()
    return np.asarray(given, np.float32), np.asarray(got, np.float32)
