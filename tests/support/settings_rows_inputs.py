# SPDX-License-Identifier: Apache-2.0
"""Rows of the settings table about inputs: batch, shape, layout, mean, scale, color and precision."""

from __future__ import annotations

from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import numpy as np

from ovms_mp import errors
from tests.conformance.case import Answer, Refusal
from tests.support.settings_rows import (
    PLUS_ONE,
    Ask,
    Fails,
    Floats,
    RefusedFile,
    Row,
    Serves,
    adds,
    adds_any,
    computes,
    f32,
    ramp,
    spec,
)

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ovms_mp.model.dtypes import AnyArray

# Batch.


def _pair(rows: int) -> Serves:
    """The model ``pair`` with another first dimension."""
    a, b = ramp(rows, 3), np.arange(rows * 3).reshape(rows, 3)
    other: dict[str, AnyArray] = {"a": ramp(rows + 1, 3), "b": np.zeros((rows + 1, 3), np.int64)}
    return Serves(
        inputs={"a": spec("f32", rows, 3), "b": spec("i64", rows, 3)},
        outputs={"sum": spec("f32", rows, 3), "product": spec("f32", rows, 3)},
        asks=(
            Ask({"a": a, "b": b}, Answer({"sum": a + f32(b), "product": a * f32(b)})),
            Ask(other, Refusal(errors.ShapeMismatch)),
        ),
    )


def _batch(name: str, value: Any, expected: Serves | Fails, model: str = "tiny", **settings: Any) -> Row:
    return Row(name=name, model=model, settings={"batch_size": value, **settings}, expected=expected)


BATCHES = (
    _batch("batch_4", 4, adds(1, 4, 10)),
    _batch("batch_4_text", "4", adds(1, 4, 10)),
    _batch("batch_0", 0, PLUS_ONE),
    _batch("batch_0_text", "0", PLUS_ONE),
    _batch("batch_any", "-1", adds_any((-1, 10), [(1, 10), (7, 10)], [(1, 9)])),
    _batch("batch_any_number", -1, adds_any((-1, 10), [(1, 10), (7, 10)], [(1, 9)])),
    _batch("batch_range", "1:8", adds_any((-1, 10), [(1, 10), (8, 10)], [(9, 10), (1, 9)])),
    _batch("batch_range_from_2", "2:3", adds_any((-1, 10), [(2, 10), (3, 10)], [(1, 10), (4, 10)])),
    _batch("batch_auto", "auto", adds_any((-1, 10), [(1, 10), (5, 10), (2, 10), (5, 10)], [(1, 9)])),
    _batch("batch_of_all_inputs", 5, _pair(5), "pair"),
    _batch("batch_where_the_layout_says", 4, adds(1, 1, 4), layout="CN"),
    _batch("batch_auto_of_a_scalar", "auto", Fails(("batch", "scalar", "'x'")), "scalar"),
    _batch("batch_of_a_recurrent_model", 2, Fails(("batch_size", "2")), "recurrent"),
)

# Shape.


def _shape(name: str, value: Any, expected: Serves | Fails, model: str = "tiny", **more: Any) -> Row:
    return Row(name=name, model=model, settings={"shape": value}, expected=expected, **more)


_AUTO = adds_any((-1, -1), [(1, 10), (3, 4), (1, 10), (5, 2), (3, 4)], [(2, 3, 4), (10,)])
_RECURRENT_AUTO = Serves(
    inputs={"x": spec("f32", 1, -1, 4)},
    outputs={"y": spec("f32", 1, -1, 4)},
    asks=(
        Ask({"x": ramp(1, 5, 4)}, Answer({"y": ramp(1, 5, 4)})),
        Ask({"x": ramp(1, 7, 4)}, Answer({"y": ramp(1, 7, 4)})),
        Ask({"x": ramp(2, 5, 4)}, Refusal(errors.ShapeMismatch)),
        Ask({"x": ramp(1, 7, 4)}, Answer({"y": ramp(1, 7, 4)})),
        Ask({"x": ramp(1, 5, 4)}, Answer({"y": ramp(1, 5, 4)})),
    ),
)
_SUM = Serves(
    inputs={"a": spec("f32", -1), "b": spec("f32", -1)},
    outputs={"sum": spec("f32", -1)},
    asks=(
        Ask({"a": ramp(3), "b": ramp(3)}, Answer({"sum": 2 * ramp(3)})),
        # Each length is one that the model takes, but not beside the other; the engine's reason is told.
        Ask({"a": ramp(3), "b": ramp(2)}, Refusal(errors.ShapeMismatch, ("could not be reshaped",))),
        Ask({"a": ramp(3), "b": ramp(2)}, Refusal(errors.ShapeMismatch, ("could not be reshaped",))),
        Ask({"a": ramp(5), "b": ramp(5)}, Answer({"sum": 2 * ramp(5)})),
    ),
)
SHAPES = (
    _shape("shape_round", "(2,10)", adds(1, 2, 10)),
    _shape("shape_square", "[2,10]", adds(1, 2, 10)),
    _shape("shape_spaces", "( 2, 10 )", adds(1, 2, 10)),
    _shape("shape_list", [2, 10], adds(1, 2, 10)),
    _shape("shape_object", {"x": "(2,10)"}, adds(1, 2, 10)),
    _shape("shape_object_as_text", '{"x": "(2,10)"}', adds(1, 2, 10)),
    _shape("shape_other_rank", "(2,3,4)", adds(1, 2, 3, 4)),
    _shape("shape_any", "(-1,10)", adds_any((-1, 10), [(1, 10), (6, 10)], [(1, 9), (10,)])),
    _shape("shape_range", "(1:4,10)", adds_any((-1, 10), [(1, 10), (4, 10)], [(5, 10)])),
    _shape("shape_all_any", "(-1,-1)", adds_any((-1, -1), [(1, 10), (3, 4)], [(2, 3, 4)])),
    _shape("shape_of_two", {"a": "(4,3)", "b": "(4,3)"}, _pair(4), "pair"),
    _shape("shape_auto", "auto", _AUTO),
    _shape("shape_auto_object", {"x": "auto"}, _AUTO),
    # Of these dimensions none can change alone, so metadata shows them as they are.
    _shape(
        "shape_auto_of_a_folded_model",
        "auto",
        Serves(
            inputs={"x": spec("f32", 1, 4, 2)},
            outputs={"y": spec("f32", 1, 8)},
            asks=(
                Ask({"x": ramp(1, 4, 2)}, Answer({"y": ramp(1, 8)})),
                Ask({"x": ramp(1, 4, 3)}, Refusal(errors.ShapeMismatch)),
                Ask({"x": ramp(1, 4, 2)}, Answer({"y": ramp(1, 8)})),
            ),
        ),
        "folded",
    ),
    _shape("shape_auto_of_lengths_that_differ", "auto", _SUM, "sum"),
    _shape("shape_auto_of_a_recurrent_model", "auto", _RECURRENT_AUTO, "recurrent"),
    _shape("shape_anonymous_of_two", "(4,3)", Fails(("shape", "inputs", "a", "b")), "pair"),
    _shape("shape_unknown_name", {"nosuch": "(1,10)"}, Fails(("shape", "'nosuch'", "x"))),
    _shape("shape_impossible", "(1,4,3)", Fails(("shape", "reshape")), "folded"),
    Row(
        name="shape_before_batch",
        settings={"shape": "(2,10)", "batch_size": 7},
        expected=adds(1, 2, 10),
        log=("batch_size has no effect, as shape takes precedence",),
    ),
)

# Layout. The model ``image`` multiplies the channels of its [1,3,4,6] by 1, 10 and 100.

NCHW, NHWC = ramp(1, 3, 4, 6), ramp(1, 4, 6, 3)
BY_CHANNEL = np.array([1, 10, 100], np.float32)
PLANAR = {"x": spec("f32", 1, 3, 4, 6)}
INTERLEAVED = {"x": spec("f32", 1, 4, 6, 3)}
PLANAR_OUT = {"y": spec("f32", 1, 3, 4, 6)}


def planar(interleaved: Floats) -> Floats:
    """NHWC to NCHW."""
    return interleaved.transpose(0, 3, 1, 2)


_AS_STORED = computes(PLANAR, PLANAR_OUT, (NCHW, NCHW * BY_CHANNEL.reshape(3, 1, 1)))
_TRANSPOSED = computes(INTERLEAVED, PLANAR_OUT, (NHWC, planar(NHWC * BY_CHANNEL)))


def _image(name: str, expected: Serves | Fails, model: str = "image", **settings: Any) -> Row:
    return Row(name=name, model=model, settings=settings, expected=expected)


LAYOUTS = (
    _image("layout_transposed", _TRANSPOSED, layout="NHWC:NCHW"),
    _image("layout_object", _TRANSPOSED, layout={"x": "NHWC:NCHW"}),
    _image("layout_object_as_text", _TRANSPOSED, layout='{"x": "NHWC:NCHW"}'),
    _image(
        "layout_of_the_output_too",
        computes(INTERLEAVED, {"y": spec("f32", 1, 4, 6, 3)}, (NHWC, NHWC * BY_CHANNEL)),
        layout={"x": "NHWC:NCHW", "y": "NHWC:NCHW"},
    ),
    _image("layout_declared", _AS_STORED, layout="NCHW"),
    _image("layout_declared_with_dots", _AS_STORED, layout="N..."),
    _image("layout_declared_with_unknown", _AS_STORED, layout="N?HW"),
    _image(
        "layout_and_shape_of_clients",
        computes(
            {"x": spec("f32", 2, 2, 5, 3)},
            {"y": spec("f32", 2, 3, 2, 5)},
            (ramp(2, 2, 5, 3), planar(ramp(2, 2, 5, 3) * BY_CHANNEL)),
        ),
        layout="NHWC:NCHW",
        shape="(2,2,5,3)",
    ),
    _image(
        "layout_and_batch",
        computes(
            {"x": spec("f32", 2, 4, 6, 3)},
            {"y": spec("f32", 2, 3, 4, 6)},
            (ramp(2, 4, 6, 3), planar(ramp(2, 4, 6, 3) * BY_CHANNEL)),
        ),
        layout="NHWC:NCHW",
        batch_size=2,
    ),
    _image(
        "layout_and_auto",
        Serves(
            inputs={"x": spec("f32", -1, -1, -1, 3)},
            outputs={"y": spec("f32", -1, 3, -1, -1)},
            asks=(
                Ask({"x": NHWC}, Answer({"y": planar(NHWC * BY_CHANNEL)})),
                Ask({"x": ramp(2, 5, 5, 3)}, Answer({"y": planar(ramp(2, 5, 5, 3) * BY_CHANNEL)})),
                Ask({"x": ramp(1, 4, 6, 2)}, Refusal(errors.ShapeMismatch)),
                Ask({"x": NHWC}, Answer({"y": planar(NHWC * BY_CHANNEL)})),
            ),
        ),
        layout="NHWC:NCHW",
        shape="auto",
    ),
    _image("layout_too_long", Fails(("layout", "NCHW")), "tiny", layout="NCHW"),
    _image("layout_anonymous_of_two", Fails(("layout", "inputs", "a", "b")), "pair", layout="NC"),
    _image("layout_unknown_name", Fails(("layout", "'nosuch'", "x", "y")), layout={"nosuch": "NCHW"}),
)

# Preprocessing: numpy says what must come out.

_VECTOR = np.array([1, 2, 3], np.float32)
_BYTES = NHWC.astype(np.uint8)


def _processed(
    name: str, sent: AnyArray, expected: Floats, dtype: str = "f32", model: str = "image", **settings: Any
) -> Row:
    """A row that sends one tensor; what the model sees of it is ``expected``, which ``image`` multiplies."""
    answered = expected * BY_CHANNEL.reshape(3, 1, 1) if model == "image" else expected
    return _image(
        name,
        computes(
            {"x": spec(dtype, *sent.shape)},
            {"y": spec("f32", *answered.shape)},
            (sent, answered.astype(np.float32)),
        ),
        model,
        **settings,
    )


def _nv12(luma: list[list[int]]) -> AnyArray:
    """An NV12 image without color: the luma plane, and neutral chroma of half as many rows."""
    plane = np.array(luma, np.uint8)
    chroma = np.full((plane.shape[0] // 2, plane.shape[1]), 128, np.uint8)
    return np.concatenate([plane, chroma])[None, :, :, None]


_BLACK_AND_WHITE = [[16, 255, 16, 255, 16, 255], [255] * 6, [16] * 6, [255, 16, 255, 16, 255, 16]]
"""With video's range these are exactly 0 and 255."""
_SEEN = np.where(f32(_BLACK_AND_WHITE) == 255, f32(255), f32(0))[None, None].repeat(3, 1)

EVERYTHING: Mapping[str, str] = MappingProxyType(
    {
        "layout": "NHWC:NCHW",
        "mean": "[123.675,116.28,103.53]",
        "scale": "[58.395,57.12,57.375]",
        "color_format": "BGR:RGB",
        "precision": "uint8:fp32",
    }
)
"""Upstream's own example (its demos/using_onnx_model): mean and scale are those of the model's colors, in floats."""
_EVERYTHING_SEEN = planar((NHWC[..., ::-1] - f32([123.675, 116.28, 103.53])) / f32([58.395, 57.12, 57.375]))

PREPROCESSING = (
    _processed("mean_number", NCHW, NCHW - 3, layout="NCHW", mean=3),
    _processed("mean_text", NCHW, NCHW - 3, layout="NCHW", mean="3"),
    _processed("mean_without_layout", NCHW, NCHW - 3, mean="3"),
    _processed(
        "mean_of_channels", NCHW, NCHW - _VECTOR.reshape(3, 1, 1), layout="NCHW", mean="[1.0,2.0,3.0]"
    ),
    _processed("mean_in_parentheses", NCHW, NCHW - _VECTOR.reshape(3, 1, 1), layout="NCHW", mean="(1,2,3)"),
    _processed("mean_list", NCHW, NCHW - _VECTOR.reshape(3, 1, 1), layout="NCHW", mean=[1, 2, 3]),
    _processed("mean_by_input", NCHW, NCHW - 3, layout={"x": "NCHW"}, mean={"x": 3}),
    _processed("scale_number", NCHW, NCHW / np.float32(4), layout="NCHW", scale="4"),
    _processed("scale_of_channels", NCHW, NCHW / _VECTOR.reshape(3, 1, 1), layout="NCHW", scale="[1,2,3]"),
    # First the mean, then the scale, whatever their order in the file.
    _processed("scale_and_mean", NCHW, (NCHW - 3) / np.float32(2), layout="NCHW", scale=2, mean=3),
    _processed("mean_and_layout", NHWC, planar(NHWC - _VECTOR), layout="NHWC:NCHW", mean="[1,2,3]"),
    _processed("color_swapped", NHWC, planar(NHWC[..., ::-1]), layout="NHWC:NCHW", color_format="BGR:RGB"),
    _processed("color_same_layout", NCHW, NCHW[:, ::-1], layout="NCHW", color_format="RGB:BGR"),
    _processed(
        "color_nv12",
        _nv12(_BLACK_AND_WHITE),
        _SEEN,
        "u8",
        layout="NHWC:NCHW",
        color_format="NV12:RGB",
        precision="uint8:fp32",
    ),
    _processed(
        "color_to_gray",
        np.repeat(f32(_BLACK_AND_WHITE)[None, :, :, None], 3, 3),
        # The weights of the colors add up to 1, but not when the device rounds them to bf16.
        f32(_BLACK_AND_WHITE)[None, None],
        model="gray",
        plugin_config={"INFERENCE_PRECISION_HINT": "f32"},
        layout="NHWC:NCHW",
        color_format="RGB:GRAY",
    ),
    _processed("precision_bytes", _BYTES, planar(NHWC), "u8", layout="NHWC:NCHW", precision="uint8:fp32"),
    _processed("precision_half", NCHW.astype(np.float16), NCHW, "f16", layout="NCHW", precision="fp16:fp32"),
    _processed(
        "precision_double", NCHW.astype(np.float64), NCHW, "f64", layout="NCHW", precision="FP64:FP32"
    ),
    # What the model takes is f32 whatever is said here; half precision on the way is enough for bytes.
    _processed("precision_by_half", _BYTES, planar(NHWC), "u8", layout="NHWC:NCHW", precision="uint8:fp16"),
    _processed("everything", _BYTES, _EVERYTHING_SEEN, "u8", **EVERYTHING),
    _image("mean_of_too_many_channels", Fails(("mean", "4", "3")), layout="NCHW", mean="[1,2,3,4]"),
    _image("mean_unknown_name", Fails(("mean", "'nosuch'")), layout="NCHW", mean={"nosuch": 1}),
)

REFUSED_INPUTS = (
    RefusedFile("batch_size", {"batch_size": "many"}, ("$.model_config_list[0].config.batch_size", "many")),
    RefusedFile("shape", {"shape": "(1,ten)"}, ("$.model_config_list[0].config.shape", "ten")),
    RefusedFile("layout", {"layout": "NHWX"}, ("$.model_config_list[0].config.layout", "NHWX")),
    RefusedFile("mean", {"mean": "[1,2,3]"}, ("$.model_config_list[0].config.mean", "layout")),
    RefusedFile("scale", {"layout": "NCHW", "scale": 0}, ("$.model_config_list[0].config.scale", "0")),
    RefusedFile("color_format", {"layout": "NCHW", "color_format": "CMYK:RGB"}, ("color_format", "CMYK")),
    RefusedFile("precision", {"precision": "uint8:fp32"}, ("precision", "layout")),
)

FLAG_SHAPE = adds(1, 2, 10, detail=("nireq=3",), nireq=3)
FLAG_BATCH = adds_any((-1, 10), [(1, 10), (8, 10)], [(9, 10)], detail=("nireq=2", "devices=CPU"))
FLAG_EVERYTHING = next(row.expected for row in PREPROCESSING if row.name == "everything")
