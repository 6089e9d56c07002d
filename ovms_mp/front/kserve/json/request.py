# SPDX-License-Identifier: Apache-2.0
"""The JSON of an inference request as it was read: every key in its type, nothing held against anything yet."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from ovms_mp.front.kserve.infer_request import NO_PARAMETERS

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ovms_mp.front.kserve.infer_request import Parameters, RequestedOutput
    from ovms_mp.front.tensors import GivenTensor
    from ovms_mp.model.dtypes import DType


@dataclass(slots=True)
class JsonInput:
    """An input.

    Attributes:
        data: What the key ``data`` holds, in the shape of its lists; an index into the lists that were cut out of a
            long text, see :mod:`~ovms_mp.front.kserve.json.decode_long`; None without the key.
    """

    name: str
    dtype: DType
    shape: tuple[int, ...]
    parameters: Parameters
    data: GivenTensor | int | None


@dataclass(slots=True)
class JsonRequest:
    """A request."""

    id: str = ""
    parameters: Parameters = field(default_factory=lambda: NO_PARAMETERS)
    inputs: list[JsonInput] = field(default_factory=list)
    outputs: Sequence[RequestedOutput] = ()
