# SPDX-License-Identifier: Apache-2.0
"""Values of inputs that came one by one, in ``contents``: which field has which, and those of a generated class."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

import numpy as np

from ovms_mp.front.kserve._proto.kserve_pb2 import InferTensorContents
from ovms_mp.front.protobuf.packed import Numbers, narrowed
from ovms_mp.front.protobuf.plain import field_number
from ovms_mp.front.protobuf.records import BYTES, FIXED32, FIXED64, VARINT
from ovms_mp.front.protobuf.value_fields import ValueField
from ovms_mp.front.strings import Strings
from ovms_mp.model.dtypes import DType

if TYPE_CHECKING:
    from collections.abc import Generator, Mapping

    from ovms_mp.model.dtypes import AnyArray

_BOOLS = ValueField("bool_contents", VARINT, Numbers.BOOL)
_INTS = ValueField("int_contents", VARINT, Numbers.INT32)
_INT64S = ValueField("int64_contents", VARINT, Numbers.INT64)
_UINTS = ValueField("uint_contents", VARINT, Numbers.UINT32)
_UINT64S = ValueField("uint64_contents", VARINT, Numbers.UINT64)
_FP32S = ValueField("fp32_contents", FIXED32)
_FP64S = ValueField("fp64_contents", FIXED64)
_STRINGS = ValueField("bytes_contents", BYTES)

_FIELDS = (_BOOLS, _INTS, _INT64S, _UINTS, _UINT64S, _FP32S, _FP64S, _STRINGS)
FIELDS_BY_NUMBER: Mapping[int, ValueField] = {
    field_number(InferTensorContents, field.name): field for field in _FIELDS
}
FIELD_OF: Mapping[DType, ValueField] = {
    DType.BOOL: _BOOLS,
    DType.INT8: _INTS,
    DType.INT16: _INTS,
    DType.INT32: _INTS,
    DType.INT64: _INT64S,
    DType.UINT8: _UINTS,
    DType.UINT16: _UINTS,
    DType.UINT32: _UINTS,
    DType.UINT64: _UINT64S,
    DType.FP32: _FP32S,
    DType.FP64: _FP64S,
    DType.BYTES: _STRINGS,
}
"""The field that has a dtype's values. The narrow floats have none: they are sent raw."""
_WIDE = {
    _BOOLS: np.dtype(np.bool_),
    _INTS: np.dtype(np.int32),
    _INT64S: np.dtype(np.int64),
    _UINTS: np.dtype(np.uint32),
    _UINT64S: np.dtype(np.uint64),
    _FP32S: np.dtype(np.float32),
    _FP64S: np.dtype(np.float64),
}


class Contents(Protocol):
    """Values of one input: of a short message in its generated class, or noted where they are in a long one."""

    @property
    def counts(self) -> Mapping[str, int]:
        """How many there are by field, for those that have any."""

    def numbers(
        self, field: ValueField, numpy: np.dtype[np.generic], input_name: str
    ) -> Generator[None, None, AnyArray]:
        """The values of a field of numbers; yields now and then."""

    def strings(self, name: str) -> Strings:
        """The values of a field of bytes."""


class ParsedContents:
    """Values in a generated class."""

    def __init__(self, proto: InferTensorContents) -> None:
        self._proto = proto
        self.counts = {field.name: size for field in _FIELDS if (size := len(getattr(proto, field.name)))}

    def numbers(
        self, field: ValueField, numpy: np.dtype[np.generic], input_name: str
    ) -> Generator[None, None, AnyArray]:
        """See :class:`Contents`.

        Raises:
            MalformedPayload: A number does not fit.
        """
        yield from ()
        wide = np.fromiter(getattr(self._proto, field.name), _WIDE[field], self.counts[field.name])
        return narrowed(f"Input {input_name!r}: {field.name}", wide, numpy)

    def strings(self, name: str) -> Strings:
        """See :class:`Contents`."""
        return Strings.of(getattr(self._proto, name))
