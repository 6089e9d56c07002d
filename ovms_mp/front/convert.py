# SPDX-License-Identifier: Apache-2.0
"""Writing a client's values into the arena as the model's dtype: the one copy on the way in.

Clients of OVMS send float64 or uint8 arrays to FP32 models, since NumPy made them so. A conversion is done
when it keeps what the values say: between floats (rounded, but never a finite number to an infinity), from
integers and booleans to floats, between integers and from whole floats to integers within range, and 0/1 to
boolean. Anything else is refused with the first value that does not fit.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from ovms_mp.errors import DtypeMismatch
from ovms_mp.model.dtypes import DType, Kind

if TYPE_CHECKING:
    import numpy.typing as npt

    from ovms_mp.model.dtypes import AnyArray
    from ovms_mp.model.tensors import TensorSpec

_LONG_COPY_BYTES = 16 << 20
"""Some milliseconds of copying; PERF: below that a memoryview's assignment is the quicker way, by 1 us."""


def copy_bytes(values: memoryview, place: memoryview) -> None:
    """Copy bytes that need no conversion, as many as the place has."""
    if len(values) < _LONG_COPY_BYTES:
        place[:] = values
    else:
        # NumPy lets other threads run meanwhile, the heartbeat among them; a memoryview does not.
        np.copyto(np.frombuffer(place, dtype=np.uint8), np.frombuffer(values, dtype=np.uint8))


def write_values(values: AnyArray, source: DType, spec: TensorSpec, place: memoryview) -> None:
    """Write values as ``spec.dtype``, little-endian; the last one fills the rest, and none at all means zeros.

    Args:
        values: A one-dimensional array, no longer than the place has elements.
        source: Their dtype. Booleans may be bytes of 0 and 1.
        spec: The model's input.
        place: Leased arena memory of exactly the tensor's size.

    Raises:
        DtypeMismatch: A value cannot become the model's dtype.
    """
    target = np.frombuffer(place, dtype=spec.dtype.numpy)
    count = len(values)
    if count:
        _convert(values, target[:count], source, spec)
    if count < len(target):
        target[count:] = target[count - 1] if count else np.zeros((), target.dtype)


def _convert(values: AnyArray, target: AnyArray, source: DType, spec: TensorSpec) -> None:
    wanted = spec.dtype
    # Whatever overflows is looked for here; and a signalling NaN makes NumPy warn of every look at it.
    with np.errstate(over="ignore", invalid="ignore"):
        if source is not wanted:
            if wanted.kind is Kind.BOOL:
                _refuse_where(~np.isin(values, (0, 1)), values, source, spec, "only 0 and 1 are booleans")
            elif wanted.kind is Kind.INTEGER and source.kind is not Kind.BOOL:
                _check_integers(values, source, spec)
        np.copyto(target, values, casting="unsafe")
        if source is not wanted and wanted.kind is Kind.FLOAT and not _holds_range(source, wanted):
            changed = ~np.isfinite(target)
            if changed.any():
                if source.kind is Kind.FLOAT:
                    # Infinities and NaN stay what they are; FP8_E4M3 has no infinity and makes NaN of one.
                    changed &= ~np.isnan(values) & ~(np.isinf(values) & np.isinf(target))
                _refuse_where(changed, values, source, spec, f"it is beyond the range of {wanted.name}")


def _check_integers(values: AnyArray, source: DType, spec: TensorSpec) -> None:
    limits = np.iinfo(spec.dtype.numpy.name)
    if source.kind is Kind.FLOAT:
        # Wide enough for every float here, and compares exactly with the limits' nearest floats.
        with np.errstate(invalid="ignore"):
            wide = values.astype(np.float64)
            fits = (np.trunc(wide) == wide) & (wide >= float(limits.min)) & (wide < float(limits.max) + 1.0)
        _refuse_where(
            ~fits, values, source, spec, f"it is no whole number within {limits.min} to {limits.max}"
        )
        return
    given = np.iinfo(source.numpy.name)
    if given.min >= limits.min and given.max <= limits.max:
        return
    # Python integers, since int64 and uint64 have no common NumPy type; only the two extremes are looked at.
    if len(values) and (int(values.min()) < limits.min or int(values.max()) > limits.max):
        low = max(limits.min, given.min)
        high = min(limits.max, given.max)
        outside = np.less(values, low) | np.greater(values, high)
        _refuse_where(outside, values, source, spec, f"it is not within {limits.min} to {limits.max}")


def _holds_range(source: DType, wanted: DType) -> bool:
    """Whether every finite value of ``source`` is finite as ``wanted``."""
    return (source, wanted) in _RANGE_KEPT or (source.kind is not Kind.FLOAT and wanted.itemsize >= 4)


_RANGE_KEPT = frozenset(
    {
        *((source, DType.FP64) for source in DType),
        *((source, DType.FP32) for source in (DType.FP16, DType.BF16, DType.FP8_E5M2, DType.FP8_E4M3)),
        *((source, DType.BF16) for source in (DType.FP16, DType.FP8_E5M2, DType.FP8_E4M3)),
        *((source, DType.FP16) for source in (DType.FP8_E5M2, DType.FP8_E4M3)),
    }
)


def _refuse_where(
    mask: npt.NDArray[np.bool_], values: AnyArray, source: DType, spec: TensorSpec, reason: str
) -> None:
    """Raise for the first element that the mask marks."""
    if mask.any():
        index = int(np.argmax(mask))
        raise DtypeMismatch(
            f"input {spec.name!r} is {spec.dtype.name}; value {values[index]} (element {index}, sent as {source.name}) "
            f"cannot be converted: {reason}"
        )
