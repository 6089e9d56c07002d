# SPDX-License-Identifier: Apache-2.0
"""Arrays as the octets of tensors, and back. Names are KServe's, numbers TensorFlow's; nothing but NumPy is needed.

NumPy itself has no bfloat16 and no 8-bit floats. Arrays of the package ``ml_dtypes`` are taken; where it is not
installed, bfloat16 is answered as float32, which has all of its values.
"""

from __future__ import annotations

import functools
import struct
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
import numpy.typing as npt

from ovms_mp.client.errors import Failed, InvalidRequest, unreadable
from ovms_mp.client.fields import LENGTH, numbers
from ovms_mp.codes import Code

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from ovms_mp.client.exchange import Octets
    from ovms_mp.client.fields import View

AnyArray: TypeAlias = npt.NDArray[Any]

BYTES, BF16 = "BYTES", "BF16"
_TABLE = (
    ("BOOL", "bool", 10), ("UINT8", "uint8", 4), ("UINT16", "uint16", 17), ("UINT32", "uint32", 22),
    ("UINT64", "uint64", 23), ("INT8", "int8", 6), ("INT16", "int16", 5), ("INT32", "int32", 3),
    ("INT64", "int64", 9), ("FP16", "float16", 19), (BF16, "bfloat16", 14), ("FP32", "float32", 1),
    ("FP64", "float64", 2), ("FP8_E5M2", "float8_e5m2", 24), ("FP8_E4M3", "float8_e4m3fn", 25),
    (BYTES, "object", 7),
)  # fmt: skip
_BY_NUMPY = {numpy: (kserve, number) for kserve, numpy, number in _TABLE}
_NUMPY_OF = {kserve: numpy for kserve, numpy, _ in _TABLE}
_BY_NUMBER = {number: kserve for kserve, _, number in _TABLE}
_NATIVE = {kserve: np.dtype(numpy) for kserve, numpy, _ in _TABLE if "8_e" not in numpy and "bf" not in numpy}
_PREFIX = struct.Struct("<I")


def as_array(value: npt.ArrayLike) -> AnyArray:
    """What a caller gives for a tensor, as an array that lies in memory as tensors travel.

    Bytes, e.g. of an encoded image, are a tensor of one string. Lists of floats become float32, as models mostly are,
    unless one is beyond its range.

    Raises:
        ValueError: Its rows are not equally long, or NumPy makes no array of it for another reason.
        TypeError: The same.
    """
    if isinstance(value, np.ndarray):
        if type(value) is not np.ndarray and isinstance(value, np.ma.MaskedArray):
            raise ValueError("a tensor has no mask; fill() the array")
        array = value
    elif isinstance(value, (bytes, bytearray, str)):
        array = np.empty(1, np.object_)
        array[0] = value
        return array
    else:
        array = np.asarray(value)
        if array.dtype.kind in "SU":
            array = np.asarray(
                value, np.object_
            )  # NumPy's own strings end at their last byte that is not zero.
        elif array.dtype == np.float64 and not isinstance(value, np.generic):
            array = narrowed(array)
    if array.dtype.kind in "SU":
        return array.astype(np.object_)
    if not array.flags.c_contiguous or array.dtype.byteorder == ">":
        # Not ascontiguousarray, which gives a scalar a dimension.
        array = array.astype(array.dtype.newbyteorder("<"), order="C")
    return array


def narrowed(array: AnyArray) -> AnyArray:
    """Numbers of Python as float32; as they are if one would become infinite by that."""
    with np.errstate(over="ignore"):
        narrow: AnyArray = array.astype(np.float32)
    return narrow if (np.isfinite(narrow) == np.isfinite(array)).all() else array


@functools.lru_cache(64)
def row_of(dtype: np.dtype[Any]) -> tuple[str, int]:
    """KServe's name and TensorFlow's number of NumPy's elements.

    Raises:
        InvalidRequest: No tensor has them.
    """
    row = _BY_NUMPY.get(dtype.name)
    if row is None:
        raise InvalidRequest(
            Code.INVALID_ARGUMENT,
            f"no tensor has NumPy's dtype {dtype}; accepted: numbers, booleans and strings",
        )
    return row


def datatype_of_tf(number: int) -> str:
    """KServe's name of a number of TensorFlow's; the number itself where it has none."""
    return _BY_NUMBER.get(number, f"DT_{number}")


def octets_of(array: AnyArray) -> Octets:
    """The elements of an array of :func:`as_array` as they travel: not copied, but for strings.

    Raises:
        InvalidRequest: An element is no string.
    """
    if array.dtype.kind == "O":
        pieces: list[bytes] = []
        for string in strings_of(array):
            pieces += (_PREFIX.pack(len(string)), string)
        return b"".join(pieces)
    if array.nbytes < 4096:
        return array.tobytes()
    return memoryview(array.reshape(-1).view(np.uint8).data)


def strings_of(array: AnyArray) -> Iterable[bytes]:
    """The elements of an array of strings; text becomes UTF-8.

    Raises:
        InvalidRequest: An element is no string, or is text that UTF-8 does not have.
    """
    for element in array.ravel().tolist():
        if isinstance(element, str):
            try:
                yield element.encode()
            except UnicodeEncodeError as error:
                raise InvalidRequest(
                    Code.INVALID_ARGUMENT,
                    f"the string {element[:40]!a} is no text that UTF-8 has: {error.reason}",
                ) from None
        elif isinstance(element, (bytes, bytearray, memoryview)):
            yield bytes(element)
        else:
            raise InvalidRequest(
                Code.INVALID_ARGUMENT,
                f"no tensor has elements such as {element!r}; accepted: numbers, booleans and strings",
            )


def array_of(octets: Octets, name: str, shape: Sequence[int]) -> AnyArray:
    """An array of a tensor's octets: a view of them, which cannot be written to, or a copy of strings.

    Args:
        octets: Little-endian, C order.
        name: KServe's, of the elements.
        shape: Not negative anywhere.

    Raises:
        Failed: They are not as many as the shape says.
    """
    if name == BYTES:
        return strings_array(split_strings(octets), shape)
    try:
        dtype = _NATIVE.get(name) or numpy_dtype(name)
        return _widened(octets, shape) if dtype is None else np.frombuffer(octets, dtype).reshape(shape)
    except ValueError:
        raise unreadable(f"{len(octets)} bytes of a tensor {name} {list(shape)}") from None


def strings_array(strings: Sequence[bytes], shape: Sequence[int]) -> AnyArray:
    """Strings as an array of objects."""
    array = np.empty(len(strings), np.object_)
    array[:] = strings
    try:
        return array.reshape(shape)
    except ValueError:
        raise unreadable(f"{len(strings)} strings of a tensor {list(shape)}") from None


def split_strings(octets: Octets) -> list[bytes]:
    """Strings that each have their length before them."""
    strings = []
    at, size = 0, len(octets)
    while at < size:
        if at + 4 > size:
            raise unreadable("a string without a length")
        (length,) = _PREFIX.unpack_from(octets, at)
        at += 4
        if at + length > size:
            raise unreadable("a string that is shorter than it says")
        strings.append(bytes(octets[at : at + length]))
        at += length
    return strings


def numpy_dtype(name: str) -> np.dtype[Any] | None:
    """NumPy's dtype of KServe's name; None for bfloat16 where NumPy has none.

    Raises:
        Failed: There is none; the message says what to install if that helps.
    """
    known = _NATIVE.get(name)
    if known is not None:
        return known
    if name not in _NUMPY_OF:
        raise unreadable(f"elements of the type {name!r}")
    try:
        import ml_dtypes  # NumPy's promise is kept where no such tensor is used
    except ImportError:
        if name == BF16:
            return None
        raise Failed(
            Code.UNIMPLEMENTED, f"NumPy has no {name}; `pip install ml_dtypes` gives it to it"
        ) from None
    dtype: np.dtype[Any] = np.dtype(getattr(ml_dtypes, _NUMPY_OF[name]))
    return dtype


def _widened(octets: Octets, shape: Sequence[int]) -> AnyArray:
    """Elements of bfloat16, the upper half of float32, as that."""
    halves = np.frombuffer(octets, np.uint16).astype(np.uint32) << 16
    return halves.view(np.float32).reshape(shape)


def whole_numbers(octets: View, dtype: np.dtype[Any]) -> AnyArray:
    """Whole numbers that are packed as protobuf does it."""
    return np.array(numbers(octets, LENGTH, 0, len(octets)), np.uint64).astype(dtype)


def shaped(flat: AnyArray, shape: Sequence[int], name: str) -> AnyArray:
    """Elements as an array of a shape; raises as :func:`array_of`."""
    try:
        return flat.reshape(shape)
    except ValueError:
        raise unreadable(f"{flat.size} elements of a tensor {name} {list(shape)}") from None
