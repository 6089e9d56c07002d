# SPDX-License-Identifier: Apache-2.0
"""Rows of the settings table about files: formats, ``mapping_config.json``, version policies, base paths."""

from __future__ import annotations

import json
from typing import Any

from ovms_mp import errors
from tests.conformance.case import Answer, Refusal
from tests.support.settings_rows import (
    PLUS_ONE,
    Ask,
    Fails,
    Row,
    Serves,
    Versions,
    adds,
    computes,
    f32,
    ramp,
    spec,
)


def _mapping(inputs: dict[str, str] | None = None, outputs: dict[str, str] | None = None) -> str:
    sections = {"inputs": inputs, "outputs": outputs}
    return json.dumps({key: names for key, names in sections.items() if names is not None})


_TFLITE = adds(1, 1, 10, x="serving_default_x:0", y="StatefulPartitionedCall:0")
"""The names are those that TensorFlow's converter gives."""
FORMATS = (
    Row(name="ir", expected=PLUS_ONE),
    Row(name="onnx", model="onnx_tiny", expected=PLUS_ONE),
    Row(name="saved_model", model="saved_model", expected=PLUS_ONE),
    Row(name="frozen_pb", model="frozen_pb", expected=adds(1, 1, 10, x="x:0", y="y:0")),
    Row(
        name="tflite",
        model="tflite",
        expected=_TFLITE,
    ),
    Row(name="paddle", model="paddle", expected=PLUS_ONE),
    Row(name="rankless", model="rankless", expected=Fails(("'x'", "number of dimensions", "shape"))),
    Row(name="file_xml", path="1/model.xml", expected=PLUS_ONE),
    Row(name="file_onnx", model="onnx_tiny", path="1/model.onnx", expected=PLUS_ONE),
    Row(name="file_pb", model="frozen_pb", path="1/model.pb", expected=adds(1, 1, 10, x="x:0", y="y:0")),
    Row(
        name="file_tflite",
        model="tflite",
        path="1/model.tflite",
        expected=_TFLITE,
    ),
    Row(name="file_pdmodel", model="paddle", path="1/model.pdmodel", expected=PLUS_ONE),
    Row(name="relative", is_relative=True, expected=PLUS_ONE),
    # A .xml without its .bin may be a copy that goes on, so it is no version yet, whatever it holds.
    Row(
        name="weightless",
        model="weightless",
        expected=Versions((), 0),
        log=("model=weightless ", "model.xml is without model.bin"),
    ),
    Row(
        name="no_directory",
        model="does_not_exist",
        expected=Versions((), 0),
        log=("model=no_directory ", "does not exist"),
    ),
)

_ALIASES = _mapping({"x": "image in"}, {"y": "image out"})
_TINY = {"x": spec("f32", 1, 10)}
MAPPINGS = (
    Row(
        name="mapping",
        mapping=_ALIASES,
        expected=Serves(
            inputs={"image in": spec("f32", 1, 10)},
            outputs={"image out": spec("f32", 1, 10)},
            asks=(
                Ask({"image in": ramp(1, 10)}, Answer({"image out": ramp(1, 10) + 1})),
                Ask({"x": ramp(1, 10)}, Refusal(errors.InputNameMismatch, ("image in",))),
            ),
        ),
    ),
    Row(
        name="mapping_of_inputs",
        mapping=_mapping({"x": "in"}),
        expected=adds(1, 1, 10, x="in"),
    ),
    Row(name="mapping_of_outputs", mapping=_mapping(None, {"y": "out"}), expected=adds(1, 1, 10, y="out")),
    Row(name="mapping_of_nothing", mapping=_mapping({"nosuch": "in"}, {}), expected=PLUS_ONE),
    # Upstream: an error in the log, and the model with its original names.
    Row(
        name="mapping_broken",
        mapping="{",
        expected=PLUS_ONE,
        log=("model=mapping_broken ", "mapping_config.json is not valid JSON"),
    ),
    Row(
        name="mapping_shape",
        mapping=_ALIASES,
        settings={"shape": {"image in": "(2,10)"}},
        expected=adds(1, 2, 10, x="image in", y="image out"),
    ),
    Row(
        name="mapping_shape_by_original",
        mapping=_ALIASES,
        settings={"shape": {"x": "(2,10)"}},
        expected=Fails(("shape", "'x'", "mapped", "image in")),
    ),
    Row(
        name="mapping_layout",
        model="image",
        mapping=_ALIASES,
        settings={"layout": {"image in": "NHWC:NCHW", "image out": "NHWC:NCHW"}},
        expected=computes(
            {"image in": spec("f32", 1, 4, 6, 3)},
            {"image out": spec("f32", 1, 4, 6, 3)},
            (ramp(1, 4, 6, 3), ramp(1, 4, 6, 3) * f32([1, 10, 100])),
        ),
    ),
    Row(
        name="mapping_layout_by_original",
        model="image",
        mapping=_ALIASES,
        settings={"layout": {"x": "NHWC:NCHW"}},
        expected=Fails(("layout", "'x'", "mapped", "image in")),
    ),
    Row(
        name="mapping_two_names_in_one",
        model="pair",
        mapping=_mapping({"a": "b"}),
        expected=Fails(("mapping_config.json", "'b'")),
    ),
)


def _policy(name: str, policy: dict[str, Any] | str | None, *available: int) -> Row:
    settings = {} if policy is None else {"model_version_policy": policy}
    return Row(
        name=name,
        model="adders",
        settings=settings,
        expected=Versions(available, max(available, default=0)),
    )


POLICIES = (
    _policy("policy_none", None, 3),
    _policy("policy_latest_1", {"latest": {"num_versions": 1}}, 3),
    _policy("policy_latest_2", {"latest": {"num_versions": 2}}, 2, 3),
    _policy("policy_latest_9", {"latest": {"num_versions": 9}}, 1, 2, 3),
    _policy("policy_all", {"all": {}}, 1, 2, 3),
    _policy("policy_specific", {"specific": {"versions": [1, 2]}}, 1, 2),
    _policy("policy_specific_text", '{"specific": {"versions": [2]}}', 2),
    _policy("policy_specific_and_missing", {"specific": {"versions": [9, 1]}}, 1),
    _policy("policy_specific_missing", {"specific": {"versions": [9]}}),
)
"""The base path has the versions 1, 2 and 3."""
