# SPDX-License-Identifier: Apache-2.0
"""The words of ``precision`` and ``color_format``, each with OpenVINO's name for it. Pure.

What a user may write and what the worker tells OpenVINO both derive from here: a further element type is one line in
:class:`~ovms_mp.model.dtypes.DType` (or below, for one that no client can send), a further color format one line below.
"""

from __future__ import annotations

from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING

from ovms_mp.model.dtypes import DType

if TYPE_CHECKING:
    from collections.abc import Mapping

_WITHOUT_WORD = (DType.BOOL, DType.FP8_E5M2, DType.FP8_E4M3, DType.BYTES)
"""OVMS's setting has no words for them."""

CLIENT_PRECISIONS: Mapping[str, str] = MappingProxyType(
    {dtype.name.lower(): dtype.ov_name for dtype in reversed(DType) if dtype not in _WITHOUT_WORD}
)
"""Element types that a client can send: the word, and the name in ``openvino.Type``."""
PRECISIONS: Mapping[str, str] = MappingProxyType(
    {**CLIENT_PRECISIONS, "int4": "i4", "uint4": "u4", "uint1": "u1"}
)
"""Element types that a model can take: the same, and those that are shorter than a byte."""


@dataclass(frozen=True, slots=True)
class ColorFormat:
    """A color format.

    Attributes:
        ov_name: Name in ``openvino.preprocess.ColorFormat``.
        planes: Names of its planes where they are separate inputs: ``image/y`` and ``image/uv`` of ``image``.
        is_for_models: Whether a model can take it.
    """

    ov_name: str
    planes: tuple[str, ...] = ()
    is_for_models: bool = False


COLOR_FORMATS: Mapping[str, ColorFormat] = MappingProxyType(
    {
        "RGB": ColorFormat("RGB", is_for_models=True),
        "BGR": ColorFormat("BGR", is_for_models=True),
        "GRAY": ColorFormat("GRAY", is_for_models=True),
        "NV12": ColorFormat("NV12_SINGLE_PLANE"),
        "NV12_2": ColorFormat("NV12_TWO_PLANES", ("y", "uv")),
        "I420": ColorFormat("I420_SINGLE_PLANE"),
        "I420_3": ColorFormat("I420_THREE_PLANES", ("y", "u", "v")),
    }
)
