# SPDX-License-Identifier: Apache-2.0
"""Which file of a version directory is the model."""

from __future__ import annotations

import pytest

from ovms_mp.model.formats import (
    FORMATS,
    FORMATS_TEXT,
    Format,
    companions,
    format_of,
    is_part_of,
    models_among,
    unfinished_text,
)


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


@pytest.mark.parametrize("entry", FORMATS, ids=lambda entry: entry.suffix)
def test_a_format_of_the_table_is_found_and_named(entry: Format) -> None:
    name = f"m{entry.suffix}"

    assert models_among([name, *companions(name)]) == [name]
    assert format_of(name) is format_of(name.upper()) is entry
    assert f"NAME{entry.suffix}" in FORMATS_TEXT


@pytest.mark.parametrize("name", ["", "1", "model", "model.xml.bin", "model.h5"])
def test_other_names_have_no_format(name: str) -> None:
    assert format_of(name) is None


@pytest.mark.parametrize(
    ("name", "is_part"),
    [
        ("m.bin", True),
        ("m.onnx.data", True),
        ("m.xml", True),
        ("mapping_config.json", True),
        ("m2.bin", False),
        ("m", False),
        ("readme.md", False),
    ],
)
def test_parts_of_a_model_file(name: str, is_part: bool) -> None:
    assert is_part_of("m.xml", name) is is_part
