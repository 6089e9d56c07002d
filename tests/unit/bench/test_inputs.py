# SPDX-License-Identifier: Apache-2.0
"""What is sent: made up from the model's inputs, or given."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from ovms_mp.bench.inputs import InputSpec, make_tensors
from ovms_mp.errors import ConfigError
from ovms_mp.model.dtypes import DType

IMAGE = InputSpec("image", DType.FP32, (-1, 3, -1, -1))
IDS = InputSpec("ids", DType.INT64, (-1, -1))
TEXT = InputSpec("text", DType.BYTES, (-1,))


def test_sizes_that_may_vary_are_guessed_and_told_of() -> None:
    tensors, notes = make_tensors([IMAGE, IDS, TEXT], [], {"ids": (2, 16)}, 4)

    assert [tensor.values.shape for tensor in tensors] == [(4, 3, 224, 224), (2, 16), (4,)]
    assert notes == (
        "input image has any size; [4, 3, 224, 224] is sent, --shape image=4,3,224,224 gives another",
    )
    assert set(np.unique(tensors[1].values)) <= {0, 1}
    assert isinstance(tensors[2].values[0], bytes)


@pytest.mark.parametrize("dtype", list(DType))
def test_every_type_can_be_made_up(dtype: DType) -> None:
    ((tensor,), _) = make_tensors([InputSpec("x", dtype, (2, 3))], [], {}, 1)

    assert tensor.values.shape == (2, 3)
    assert tensor.values.dtype == dtype.numpy


def test_values_come_from_files_and_from_json(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", np.ones((1, 2)))
    (tmp_path / "b.json").write_text("[[1, 2]]")
    given = [f"a=@{tmp_path}/a.npy", f"b=@{tmp_path}/b.json", 'c=["x", "yz"]']
    specs = [
        InputSpec("a", DType.FP32, (1, 2)),
        InputSpec("b", DType.INT32, (1, 2)),
        InputSpec("c", DType.BYTES, (2,)),
    ]

    (a, b, c), _ = make_tensors(specs, given, {}, 1)

    assert a.values.dtype == np.float32
    assert b.values.tolist() == [[1, 2]]
    assert c.values.tolist() == [b"x", b"yz"]


@pytest.mark.parametrize(
    "text", ["@/nowhere.npy", "@/nowhere.json", "{", "[[1], [1, 2]]", '["a"]', '{"a": 1}']
)
def test_values_that_are_none_are_refused_by_name(text: str) -> None:
    with pytest.raises(ConfigError, match="--input ids"):
        make_tensors([IDS], [f"ids={text}"], {}, 1)


def test_pickles_are_not_read(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", np.array([{"a": 1}], object), allow_pickle=True)

    with pytest.raises(ConfigError, match="--input ids"):
        make_tensors([IDS], [f"@{tmp_path}/a.npy"], {}, 1)


def test_names_must_be_the_models() -> None:
    with pytest.raises(ConfigError, match="--shape foo: the model has no such input; it has image, ids"):
        make_tensors([IMAGE, IDS], [], {"foo": (1,)}, 1)
    with pytest.raises(ConfigError, match="--input foo: the model has no such input; it has image, ids"):
        make_tensors([IMAGE, IDS], ["foo=[1]"], {}, 1)


def test_an_input_is_said_once() -> None:
    with pytest.raises(ConfigError, match="ids is given twice"):
        make_tensors([IDS], ["ids=[[1]]", "[[2]]"], {}, 1)
    with pytest.raises(ConfigError, match="--shape ids: the values of --input have their own shape"):
        make_tensors([IDS], ["[[1]]"], {"ids": (1, 1)}, 1)


@pytest.mark.parametrize("spec", [IMAGE, TEXT])
def test_any_other_file_is_sent_as_one_string(spec: InputSpec, tmp_path: Path) -> None:
    (tmp_path / "a.jpg").write_bytes(b"\xff\xd8\xff")

    ((tensor,), notes) = make_tensors([spec], [f"@{tmp_path}/a.jpg"], {}, 1)

    assert (tensor.dtype, tensor.values.tolist(), notes) == (DType.BYTES, [b"\xff\xd8\xff"], ())


def test_a_request_has_a_bound() -> None:
    with pytest.raises(ConfigError, match="image would have"):
        make_tensors([IMAGE], [], {"image": (1000, 3, 2240, 2240)}, 1)


@pytest.mark.parametrize("text", ["[256]", "[-1]", "[1.5]"])
def test_a_value_that_the_type_has_not_is_refused_and_not_another_one(text: str) -> None:
    with pytest.raises(ConfigError, match="a value is not of UINT8"):
        make_tensors([InputSpec("x", DType.UINT8, (1,))], [f"x={text}"], {}, 1)


def test_several_arrays_in_a_file_are_none(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", x=np.ones(1), y=np.ones(1))
    with pytest.raises(ConfigError, match="several arrays"):
        make_tensors([InputSpec("x", DType.FP32, (1,))], [f"@{tmp_path}/a.npz"], {}, 1)
