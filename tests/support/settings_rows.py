# SPDX-License-Identifier: Apache-2.0
"""What a row of the settings table is made of: see :mod:`tests.integration.test_settings_table`.

A :class:`Row` is one model of a configuration file: the settings that are sent, and what must come out of them. That is
:class:`Serves` (metadata and predictions, over both protocols), :class:`Fails` (a status with a reason, the others
serve) or :class:`Versions` (which versions there are). What must be refused before anything serves is a
:class:`RefusedFile`.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from ovms_mp import errors
from tests.conformance.case import Answer, Refusal

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from ovms_mp.model.dtypes import AnyArray

Floats: TypeAlias = NDArray[np.float32]

TF_NAMES: Mapping[str, str] = MappingProxyType(
    {"f32": "DT_FLOAT", "f64": "DT_DOUBLE", "f16": "DT_HALF", "u8": "DT_UINT8", "i64": "DT_INT64"}
)


@dataclass(frozen=True)
class Spec:
    """A tensor as metadata shows it; a dimension that may vary is -1."""

    dtype: str
    dims: tuple[int, ...]


@dataclass(frozen=True)
class Ask:
    """A predict request, and what must come of it over both protocols."""

    inputs: Mapping[str, AnyArray]
    expected: Answer | Refusal


@dataclass(frozen=True, kw_only=True)
class Serves:
    """The version is AVAILABLE.

    Attributes:
        inputs: Exactly these.
        outputs: The same.
        asks: In this order, on one server, once over gRPC and once over REST.
        detail: Words of its ``detail`` in ``GET /v1/status``.
        nireq: Its number of infer requests there; None for any.
    """

    inputs: Mapping[str, Spec]
    outputs: Mapping[str, Spec]
    asks: tuple[Ask, ...]
    detail: tuple[str, ...] = ()
    nireq: int | None = None


@dataclass(frozen=True)
class Fails:
    """The version is LOADING with error code UNKNOWN, and its message has all these words, whatever their case."""

    texts: tuple[str, ...]


@dataclass(frozen=True)
class Versions:
    """Of a model whose version N adds N: those that serve, and which of them is the default."""

    available: tuple[int, ...]
    default: int


@dataclass(frozen=True)
class OnDevice:
    """The outcome depends on whether this machine has a device, as ``ovms_mp devices`` lists them."""

    device: str
    there: Serves
    missing: Fails


Outcome: TypeAlias = Serves | Fails | Versions | OnDevice


@dataclass(frozen=True, kw_only=True)
class Row:
    """One row.

    Attributes:
        name: Of the row, and of its model at the server.
        model: The base path below the directory of all test models.
        settings: Further keys of its entry in the configuration file.
        path: Appended to the base path.
        mapping: Content of ``mapping_config.json`` in its version 1.
        is_relative: Give the base path relative to the configuration file.
        log: Words that one line of the server's log must have.
    """

    name: str
    model: str = "tiny"
    settings: Mapping[str, Any] = field(default_factory=dict)  # as in the file: any JSON
    expected: Outcome
    path: str = ""
    mapping: str | None = None
    is_relative: bool = False
    log: tuple[str, ...] = ()


@dataclass(frozen=True)
class RefusedFile:
    """A setting with which the server does not start: exit code 2, and stderr has these words."""

    name: str
    settings: Mapping[str, Any]
    texts: tuple[str, ...]


def spec(dtype: str, *dims: int) -> Spec:
    """A tensor's metadata, its dtype by OpenVINO's name."""
    return Spec(TF_NAMES[dtype], dims)


def f32(values: Any) -> Floats:
    """A float32 array of nested lists, whose type a name cannot say."""
    return np.array(values, np.float32)


def ramp(*shape: int) -> Floats:
    """Different whole numbers, so that what is transposed or mixed up shows."""
    return np.arange(1, 1 + int(np.prod(shape)), dtype=np.float32).reshape(shape)


def adds(amount: float, *dims: int, x: str = "x", y: str = "y", **more: Any) -> Serves:
    """An adder with this static input shape: it answers it, and refuses one that is a row longer."""
    return Serves(
        inputs={x: spec("f32", *dims)},
        outputs={y: spec("f32", *dims)},
        asks=(
            Ask({x: ramp(*dims)}, Answer({y: ramp(*dims) + np.float32(amount)})),
            Ask({x: ramp(dims[0] + 1, *dims[1:])}, Refusal(errors.ShapeMismatch)),
        ),
        **more,
    )


def adds_any(
    dims: Sequence[int], taken: Sequence[Sequence[int]], refused: Sequence[Sequence[int]] = (), **more: Any
) -> Serves:
    """An adder of 1 with dynamic dimensions: shapes that it takes, and shapes that it refuses."""
    return Serves(
        inputs={"x": spec("f32", *dims)},
        outputs={"y": spec("f32", *dims)},
        asks=(
            *(Ask({"x": ramp(*shape)}, Answer({"y": ramp(*shape) + np.float32(1)})) for shape in taken),
            *(Ask({"x": ramp(*shape)}, Refusal(errors.ShapeMismatch)) for shape in refused),
        ),
        **more,
    )


def computes(
    inputs: Mapping[str, Spec], outputs: Mapping[str, Spec], *asks: tuple[AnyArray, AnyArray], **more: Any
) -> Serves:
    """A model of one input and one output, by pairs of what is sent and what comes."""
    (x,), (y,) = inputs, outputs
    return Serves(
        inputs=inputs,
        outputs=outputs,
        asks=tuple(Ask({x: sent}, Answer({y: answered})) for sent, answered in asks),
        **more,
    )


PLUS_ONE = adds(1, 1, 10)
"""The model ``tiny`` as it is stored."""
