# SPDX-License-Identifier: Apache-2.0
"""Tensor specs: what a model version takes and gives, as metadata shows it and validation reads it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

from ovms_mp.model.dtypes import DType, Kind

if TYPE_CHECKING:
    from ovms_mp.model.input_settings import Bound

ExactRange: TypeAlias = tuple[float, float]
"""Least and greatest value; both are integers below 2^53 for integer dtypes."""


@dataclass(frozen=True, slots=True)
class TensorSpec:
    """A named tensor of a model version.

    Attributes:
        name: The name that clients use.
        dtype: Element type.
        bounds: One entry a dimension; a static dimension has least == greatest.
        dims: Metadata's view of ``bounds``: the size, or -1 where it may vary.
        static_nbytes: Size of the tensor in bytes, or None when a dimension may vary, and always of strings.
        exact: The values of an input that the engine keeps; None where those are all.
        takes_images: Whether an input's dimensions are those of a batch of images, height, width and channels last, so
            that clients may send encoded ones.
        layout: ``NHWC`` or ``NCHW`` where an input's is known to be that; else empty.
        is_referable: Whether memory that its owner may change meanwhile can be this input.
    """

    name: str
    dtype: DType
    bounds: tuple[Bound, ...]
    dims: tuple[int, ...]
    static_nbytes: int | None
    exact: ExactRange | None = None
    takes_images: bool = False
    layout: str = ""
    is_referable: bool = False

    @classmethod
    def of(
        cls,
        name: str,
        dtype: DType,
        bounds: tuple[Bound, ...],
        exact: ExactRange | None = None,
        *,
        takes_images: bool = False,
        layout: str = "",
        is_referable: bool = False,
    ) -> TensorSpec:
        """Build a spec from its bounds."""
        dims = tuple(low if low == high else -1 for low, high in bounds)
        static = None if -1 in dims or dtype.kind is Kind.STRING else dtype.nbytes(dims)
        return cls(name, dtype, bounds, dims, static, exact, takes_images, layout, is_referable)

    @property
    def most_nbytes(self) -> int | None:
        """Size in bytes of the largest tensor that fits; None where nothing bounds it."""
        highest = [high for _, high in self.bounds]
        return None if -1 in highest or self.dtype.kind is Kind.STRING else self.dtype.nbytes(highest)

    @property
    def is_static(self) -> bool:
        """Whether there is one shape only."""
        return -1 not in self.dims

    @property
    def is_text_matrix(self) -> bool:
        """Whether an output is a matrix whose rows are strings with zeros behind them: its name says so, as in OVMS."""
        return self.dtype is DType.UINT8 and len(self.dims) == 2 and self.name.endswith("_string")

    def accepts(self, shape: tuple[int, ...]) -> bool:
        """Whether a tensor of this static shape fits."""
        if shape == self.dims:
            return True
        return len(shape) == len(self.bounds) and all(
            low <= size and (high == -1 or size <= high)
            for size, (low, high) in zip(shape, self.bounds, strict=True)
        )

    def shape_text(self) -> str:
        """The shape for messages, e.g. ``[-1, 3, 224, 100..300]``."""
        return "[" + ", ".join(_bound_text(bound) for bound in self.bounds) + "]"


def _bound_text(bound: Bound) -> str:
    low, high = bound
    if low == high:
        return str(low)
    if high == -1:
        return "-1" if low == 0 else f"{low}.."
    return f"{low}..{high}"


def exact_text(spec: TensorSpec) -> str:
    """The exact range for messages, e.g. ``-2147483648 to 2147483647``; empty where all values are exact."""
    if spec.exact is None:
        return ""
    low, high = spec.exact
    return f"{low} to {high}" if spec.dtype.kind is Kind.FLOAT else f"{int(low)} to {int(high)}"
