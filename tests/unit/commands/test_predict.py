# SPDX-License-Identifier: Apache-2.0
"""``ovms_mp predict``: inputs from the command line, outputs as text; asking is in ``tests/integration``."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from ovms_mp.cli import main
from ovms_mp.client.calls import TensorMetadata
from ovms_mp.commands.predict import output_lines, read_input, read_inputs
from ovms_mp.errors import ConfigError
from ovms_mp.model.dtypes import AnyArray

X = {"x": TensorMetadata("x", "FP32", (-1,))}
TWO = {"x": TensorMetadata("x", "INT64", (-1,)), "s": TensorMetadata("s", "BYTES", (-1,))}


@pytest.mark.parametrize(
    ("text", "model", "name", "values", "dtype"),
    [
        ("x=[1, 2]", X, "x", [1, 2], np.float32),
        ("[1, 2]", X, "x", [1, 2], np.float32),
        ("x=5", X, "x", 5, np.float32),
        ("x=[[1, -1]]", TWO, "x", [[1, -1]], np.int64),
        ("x=[2.0]", TWO, "x", [2], np.int64),
        ("x=[9007199254740993]", TWO, "x", [9007199254740993], np.int64),
        ('s=["a=b", "c"]', TWO, "s", ["a=b", "c"], np.object_),
        ("x=[1.5]", {"x": TensorMetadata("x", "NEW", ())}, "x", [1.5], np.float32),
        ('x={"instances": [[1]]}', X, "x", [[1]], np.float32),
    ],
)
def test_json_becomes_the_models_dtype(
    text: str, model: dict[str, TensorMetadata], name: str, values: object, dtype: type[np.generic]
) -> None:
    found, array = read_input(text, model)

    assert found == name
    assert array.dtype == dtype
    assert array.tolist() == values


@pytest.mark.parametrize(
    ("text", "model", "reason"),
    [
        ("y=[1]", X, "no such input; it has x"),
        ("[1]", TWO, "give its name, as in NAME=VALUE; the model has x, s"),
        ("x=[1,", X, "is not JSON"),
        pytest.param("x=" + 100_000 * "[", X, "is not JSON", id="deep"),
        ("x=hello", X, "is not JSON"),
        ("x=[[1], [2, 3]]", X, "x: "),
        ('x=["a"]', X, "numbers are expected"),
        ("x=[1.5]", TWO, "whole numbers"),
        ("x=[300]", {"x": TensorMetadata("x", "UINT8", ())}, "does not fit UINT8"),
        ("x=[-1]", {"x": TensorMetadata("x", "UINT8", ())}, "does not fit UINT8"),
        ("x=[1e39]", X, "does not fit FP32"),
        ("x=[65520]", {"x": TensorMetadata("x", "FP16", ())}, "does not fit FP16"),
        ('s=[["a"], ["b", "c"]]', TWO, "s: strings are expected"),
        ("s=[1]", TWO, "s: strings are expected"),
        ("x=@/nowhere.npy", X, "No such file"),
        ("x=@/", X, "x: /: "),
    ],
)
def test_what_cannot_be_read_is_named(text: str, model: dict[str, TensorMetadata], reason: str) -> None:
    with pytest.raises(ConfigError, match=reason):
        read_input(text, model)


def test_each_input_is_given_once() -> None:
    assert read_inputs([], {}) == {}
    assert read_inputs(["x=[1]", 's=["a"]'], TWO).keys() == {"x", "s"}
    with pytest.raises(ConfigError, match=r"--input is missing for s \(BYTES \[-1\]\)"):
        read_inputs(["x=[1]"], TWO)
    with pytest.raises(ConfigError, match="x is given twice"):
        read_inputs(["x=[1]", "x=[2]"], TWO)


def test_files_are_arrays_json_or_octets(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", np.array([1, 2], np.int8))
    (tmp_path / "a.json").write_text("[3]")
    (tmp_path / "a.jpg").write_bytes(b"\xff\xd8\xff")

    assert read_input(f"x=@{tmp_path / 'a.npy'}", X)[1].dtype == np.int8
    assert read_input(f"@{tmp_path / 'a.json'}", X)[1].tolist() == [3.0]
    assert read_input(f"@{tmp_path / 'a.jpg'}", X)[1].tolist() == [b"\xff\xd8\xff"]


def test_no_pickle_is_read(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", np.array([object()]), allow_pickle=True)

    with pytest.raises(ConfigError, match="not an array"):
        read_input(f"x=@{tmp_path / 'a.npy'}", X)


def strings(*values: bytes) -> AnyArray:
    array = np.empty(len(values), np.object_)
    array[:] = values
    return array


def test_outputs_are_a_table() -> None:
    outputs: dict[str, AnyArray] = {
        "probabilities": np.array([[0.25, 0.75]], np.float32),
        "count": np.array(3, np.int64),
        "text": strings(b"caf\xc3\xa9", b"\xff"),
        "none": np.zeros((0, 2), np.float32),
        "nan": np.array([np.nan, 1], np.float16),
        "many": np.arange(100, dtype=np.uint8),
    }
    assert output_lines(outputs) == [
        "OUTPUT         TYPE   SHAPE  VALUES",
        "probabilities  FP32   [1,2]  0.25, 0.75  max 0.75 at [0,1]",
        "count          INT64  []     3",
        "text           BYTES  [2]    'café', '\ufffd'",
        "none           FP32   [0,2]",
        "nan            FP16   [2]    nan, 1",
        "many           UINT8  [100]  0, 1, 2, 3, 4, 5, 6, 7, ...  max 99 at [99]",
    ]


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["predict", "ftp://h", "m", "--input", "1"], "'ftp://h'"),
        (["predict", "http://h:x", "m", "--input", "1"], "'http://h:x'"),
        (["predict", "http://u@h", "m", "--input", "1"], "http://"),
        (["predict", "h", "m", "--input", "1", "--model_version", "0"], "--model_version '0' is not valid"),
        (
            ["predict", "h", "m", "--model_version", "12345678901234567890123"],
            "is not valid; accepted: 1 to 9223",
        ),
        (["predict", "h", "m", "--input", "1", "--deadline_s", "nan"], "--deadline_s 'nan' is not valid"),
        (["predict", "h", "m", "--input", "1", "--output", "=a"], "--output '=a' is not valid"),
        (["predict", "h", "m", "--input", "1", "--api_key", "two words"], "--api_key: "),
        (["predict", "h", "m", "--input", "1", "--api_key", "@/nowhere"], "--api_key /nowhere: No such"),
        (["predict", "h", "m", "--input", "1", "--tls_cert", "c"], "belong together"),
    ],
)
def test_mistakes_are_named(arguments: list[str], text: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(arguments) == 2

    assert text in capsys.readouterr().err
