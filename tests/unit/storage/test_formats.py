# SPDX-License-Identifier: Apache-2.0
"""Which file of a version directory is the model (behaviour.md 3.1)."""

from __future__ import annotations

import pytest

from ovms_mp.storage.formats import companions, models_among, unfinished_text


@pytest.mark.parametrize(
    ("names", "models"),
    [
        (["model.xml", "model.bin"], ["model.xml"]),
        (["something.xml", "something.bin", "mapping_config.json"], ["something.xml"]),
        (["some file.xml", "some file.bin"], ["some file.xml"]),
        (["a.xml", "b.xml", "b.bin"], ["b.xml"]),
        (["b.xml", "b.bin", "a.xml", "a.bin"], ["a.xml", "b.xml"]),
        (["model.onnx"], ["model.onnx"]),
        (["model.onnx", "z.xml", "z.bin"], ["z.xml", "model.onnx"]),
        (["z.xml", "model.onnx"], ["model.onnx"]),
        (["b.onnx", "a.onnx"], ["a.onnx", "b.onnx"]),
        (["model.v2.xml", "model.v2.bin"], ["model.v2.xml"]),
        (["m.pdmodel", "m.pdiparams"], ["m.pdmodel"]),
        (["m.pdmodel", "n.pdiparams"], []),
        (["saved_model.pb"], ["saved_model.pb"]),
        (["saved_model.pb", "fingerprint.pb", "keras_metadata.pb", "a.pb"], ["saved_model.pb"]),
        (["fingerprint.pb", "keras_metadata.pb"], []),
        (["frozen.pb"], ["frozen.pb"]),
        (["m.tflite"], ["m.tflite"]),
        (
            ["m.tflite", "m.pb", "m.pdiparams", "m.pdmodel", "m.onnx", "m.bin", "m.xml"],
            ["m.xml", "m.onnx", "m.pdmodel", "m.pb", "m.tflite"],
        ),
        ([], []),
        (["model.xml"], []),
        (["model.bin"], []),
        (["somefile.bin", "otherfile.xml"], []),
        (["model.XML", "model.BIN"], []),
        (["onnx", "xml", "pb"], []),
        ([".model.onnx.Ab12Cd", "._model.onnx", ".onnx"], []),
        (["m\udcff.onnx"], []),
        (["größe.onnx"], ["größe.onnx"]),
    ],
)
def test_models_in_the_order_in_which_they_are_taken(names: list[str], models: list[str]) -> None:
    assert models_among(names) == models
    assert models_among(reversed(names)) == models


@pytest.mark.parametrize(
    ("name", "needed"),
    [("m.xml", ["m.bin"]), ("a.b.pdmodel", ["a.b.pdiparams"]), ("m.onnx", []), ("m", []), ("xml", [])],
)
def test_what_a_model_file_needs_beside_it(name: str, needed: list[str]) -> None:
    assert companions(name) == needed


@pytest.mark.parametrize(
    ("names", "text"),
    [
        ([], "no file in it"),
        (["m.bin"], "m.bin is without m.xml"),
        (["m.xml"], "m.xml is without m.bin"),
        (["mapping_config.json", "m.pdmodel"], "m.pdmodel is without m.pdiparams"),
        (["m.pdiparams"], "m.pdiparams is without m.pdmodel"),
        (["readme.md"], "expected is NAME.xml with NAME.bin"),
    ],
)
def test_what_is_missing_is_named(names: list[str], text: str) -> None:
    assert unfinished_text(names).startswith("holds no model")
    assert text in unfinished_text(names)
