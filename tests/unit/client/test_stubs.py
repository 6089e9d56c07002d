# SPDX-License-Identifier: Apache-2.0
"""What clients import from the package."""

from __future__ import annotations

import subprocess
import sys
from typing import TYPE_CHECKING

import grpc
import ml_dtypes
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from ovms_mp import client
from ovms_mp.docs import PAGES
from ovms_mp.model.dtypes import NUMERIC_DTYPES

if TYPE_CHECKING:
    from ovms_mp.model.dtypes import AnyArray

EVERY_DTYPE = [dtype.numpy for dtype in NUMERIC_DTYPES]


@pytest.mark.parametrize("dtype", EVERY_DTYPE, ids=str)
@pytest.mark.parametrize("shape", [(), (0, 3), (2, 3)], ids=str)
def test_a_tensor_comes_back_as_it_was(dtype: np.dtype[np.generic], shape: tuple[int, ...]) -> None:
    array = (np.arange(int(np.prod(shape)), dtype=np.int8) % 2).reshape(shape).astype(dtype)

    back = client.make_ndarray(client.make_tensor_proto(array))

    assert back.dtype == array.dtype
    assert back.shape == array.shape
    assert back.tobytes() == array.tobytes()


@given(hnp.arrays(np.float32, hnp.array_shapes(max_dims=4, max_side=4), elements=st.floats(width=32)))
def test_memory_order_and_byte_order_do_not_matter(array: AnyArray) -> None:
    for other in (np.asfortranarray(array), array.astype(">f4"), array[..., ::-1][..., ::-1]):
        back = client.make_ndarray(client.make_tensor_proto(other))
        assert back.tobytes() == np.ascontiguousarray(array).tobytes()
        assert back.shape == array.shape


@pytest.mark.parametrize(
    ("values", "dtype"),
    [
        ([1.5, 2.0], client.DataType.DT_FLOAT),
        (3, client.DataType.DT_INT32),
        ([1 << 40], client.DataType.DT_INT64),
        ([True], client.DataType.DT_BOOL),
        (np.array([1.5]), client.DataType.DT_DOUBLE),
        (np.int64(3), client.DataType.DT_INT64),
        (np.zeros(2, ml_dtypes.bfloat16), client.DataType.DT_BFLOAT16),
    ],
)
def test_dtypes_are_those_of_tensorflow(values: object, dtype: int) -> None:
    assert client.make_tensor_proto(values).dtype == dtype  # type: ignore[arg-type]  # anything that NumPy takes


@pytest.mark.parametrize("values", [[], [b"a\0", b""], [[b"\xff"], [b"b"]], ["\u00e9"], "scalar"], ids=str)
def test_strings_come_back_as_they_were(values: object) -> None:
    array = np.asarray(values, np.object_)
    strings = [text.encode() if isinstance(text, str) else text for text in array.ravel()]
    given = values if len(array.ravel()) else array
    tensor = client.make_tensor_proto(given)  # type: ignore[arg-type]  # anything that NumPy takes
    assert tensor.dtype == client.DataType.DT_STRING
    back = client.make_ndarray(tensor)
    assert (back.shape, back.ravel().tolist()) == (array.shape, strings)


@pytest.mark.parametrize("values", [[1j], np.zeros(1, np.longdouble), [None], [b"a", 1]], ids=str)
def test_what_is_no_tensor_is_named(values: object) -> None:
    with pytest.raises(ValueError, match="no tensor has"):
        client.make_tensor_proto(values)  # type: ignore[arg-type]  # on purpose


@pytest.mark.parametrize(
    ("given_values", "expected"),
    [([], [0, 0, 0]), ([7], [7, 7, 7]), ([1, 2], [1, 2, 2]), ([1, 2, 3], [1, 2, 3])],
)
def test_typed_fields_are_read_with_their_compact_form(
    given_values: list[float], expected: list[float]
) -> None:
    """What ``--grpc_output_encoding TYPED_FIELDS`` answers."""
    tensor = client.TensorProto(dtype=client.DataType.DT_FLOAT, float_val=given_values)
    tensor.tensor_shape.dim.add(size=3)

    assert client.make_ndarray(tensor).tolist() == expected


def test_stubs_have_every_method_of_their_services() -> None:
    services = client.PredictRequest.DESCRIPTOR.file.services_by_name
    with grpc.insecure_channel("127.0.0.1:1") as channel:
        for name, stub in (
            ("PredictionService", client.PredictionServiceStub(channel)),
            ("ModelService", client.ModelServiceStub(channel)),
        ):
            assert set(vars(stub)) == {method.name for method in services[name].methods}


def test_stubs_need_only_what_their_page_names() -> None:
    code = """
import sys
before = set(sys.modules)
import grpc, ovms_mp.client.stubs
files = {name: getattr(sys.modules[name], "__file__", None) or "" for name in set(sys.modules) - before}
print(*{name.partition(".")[0] for name, file in files.items() if "site-packages" in file})
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    # google is protobuf's; grpc tools, health and reflection come with grpcio where they are installed.
    extensions = {"grpc_health", "grpc_reflection", "grpc_tools", "typing_extensions"}
    allowed = {"google", "grpc", "ml_dtypes", "numpy", "ovms_mp"} | extensions
    assert set(done.stdout.split()) <= allowed
    assert (
        "`pip install grpcio protobuf numpy ml_dtypes && pip install --no-deps .`" in PAGES["client"].text()
    )
