# SPDX-License-Identifier: Apache-2.0
"""Names of element types in KServe's protocol. They are those of :class:`~ovms_mp.model.dtypes.DType`.

FP8 has no name there; models that have it are shown with ours, and take it raw.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ovms_mp.errors import DtypeMismatch, shortened
from ovms_mp.model.dtypes import DType

if TYPE_CHECKING:
    from ovms_mp.model.tensors import TensorSpec

_BY_NAME = {dtype.name: dtype for dtype in DType}
_CONFIG_TYPES = {DType.BYTES: "TYPE_STRING", DType.FP8_E5M2: "TYPE_INVALID", DType.FP8_E4M3: "TYPE_INVALID"}
_LONGEST_SHOWN = 64


def datatype(dtype: DType) -> str:
    """The protocol's name of an element type."""
    return dtype.name


def config_type(dtype: DType) -> str:
    """The name of an element type in a model's configuration."""
    return _CONFIG_TYPES.get(dtype, f"TYPE_{dtype.name}")


def input_format(spec: TensorSpec) -> str:
    """The name of an input's layout in a model's configuration."""
    return f"FORMAT_{spec.layout or 'NONE'}"


def dtype_named(name: str, input_name: str) -> DType:
    """The element type of a name.

    Args:
        name: As the client wrote it.
        input_name: The input's, for messages.

    Raises:
        DtypeMismatch: There is no such type.
    """
    dtype = _BY_NAME.get(name)
    if dtype is None:
        raise DtypeMismatch(
            f"Invalid input precision - input {input_name!r}: unknown datatype {shortened(name, _LONGEST_SHOWN)!r}; "
            f"known: {', '.join(_BY_NAME)}"
        )
    return dtype
