# SPDX-License-Identifier: Apache-2.0
"""What a row of the conformance table is made of.

A :class:`Predict` is in neutral form, and goes over every :class:`Form` that can carry it. :class:`Grpc` and
:class:`Rest` are raw: what only one protocol can say. Expected is an :class:`Answer` (arrays), a :class:`Refusal` (a
class of :mod:`ovms_mp.errors`, so one expectation gives both the gRPC code and the HTTP status, and substrings of the
text) or, for raw cases, a :class:`Document`.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from tests.support.kserve_client import has_contents
from tests.support.models import DTYPES_OF_64_BITS
from tests.support.tensors import content

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from ovms_mp import errors
    from ovms_mp.model.dtypes import AnyArray
    from tests.support.tensors import Document as Message


class Form(enum.Enum):
    """How a neutral request is written."""

    CONTENT = "grpc content"
    """gRPC, elements in ``tensor_content``."""
    TYPED = "grpc typed"
    """gRPC, elements in the field of their dtype."""
    KSERVE_RAW = "kserve grpc raw"
    """KServe over gRPC, elements in ``raw_input_contents``."""
    KSERVE_CONTENTS = "kserve grpc contents"
    KSERVE_STREAM = "kserve grpc stream"
    """Raw, in a stream of one request."""
    COLUMN = "rest column"
    COLUMN_BARE = "rest column unnamed"
    ROW = "rest row"
    ROW_BARE = "rest row unnamed"


TFS_GRPC = (Form.CONTENT, Form.TYPED)
KSERVE_GRPC = (Form.KSERVE_RAW, Form.KSERVE_CONTENTS, Form.KSERVE_STREAM)
GRPC = (*TFS_GRPC, *KSERVE_GRPC)
COLUMNS = (Form.COLUMN, Form.COLUMN_BARE)
REST = (*COLUMNS, Form.ROW, Form.ROW_BARE)
NAMED = (*GRPC, Form.COLUMN)
"""Every protocol, where the server and not the row format has to find a wrong name."""


def _can_carry(form: Form, arrays: Iterable[AnyArray]) -> bool:
    """Whether a form has room for elements of all these types."""
    return form is not Form.KSERVE_CONTENTS or has_contents(arrays)


@dataclass(frozen=True, kw_only=True)
class Predict:
    """A predict request in neutral form.

    Attributes:
        version: None leaves it out.
        forms: None for all that can carry the inputs.
    """

    model: str
    inputs: Mapping[str, AnyArray]
    version: int | None = None
    forms: tuple[Form, ...] | None = None

    def applicable(self) -> tuple[Form, ...]:
        """The forms to send it in."""
        arrays = list(self.inputs.values())
        if self.forms is not None:
            return tuple(form for form in self.forms if _can_carry(form, arrays))
        is_row = all(array.ndim for array in arrays) and len({array.shape[:1] for array in arrays}) == 1
        bare = len(arrays) == 1
        return (
            *(form for form in GRPC if _can_carry(form, arrays)),
            Form.COLUMN,
            *((Form.COLUMN_BARE,) if bare else ()),
            *((Form.ROW,) if is_row else ()),
            *((Form.ROW_BARE,) if is_row and bare else ()),
        )


@dataclass(frozen=True, kw_only=True)
class Grpc:
    """A gRPC call: a method with a message, or a path with bytes."""

    method: str = "Predict"
    message: Message = field(default_factory=dict)
    path: str = ""
    body: bytes = b""


@dataclass(frozen=True, kw_only=True)
class KServe:
    """A call of KServe's gRPC service: a method with a message."""

    method: str = "ModelInfer"
    message: Message | bytes = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Rest:
    """An HTTP request."""

    method: str = "POST"
    path: str = "/v1/models/tiny:predict"
    body: bytes | str | None = None
    headers: Mapping[str, str] = field(default_factory=dict)
    is_chunked: bool = False


@dataclass(frozen=True)
class Answer:
    """Success with these outputs and no others."""

    outputs: Mapping[str, AnyArray]


@dataclass(frozen=True)
class Refusal:
    """Failure: the class decides code and status.

    Attributes:
        error: A class of ours; None where the transport itself refuses.
        code: Expected gRPC code by name, without a class.
        status: Expected HTTP status, without a class.
        texts: What the message must hold.
    """

    error: type[errors.OvmsError] | None
    texts: tuple[str, ...] = ()
    status: int = 0
    code: str = ""


@dataclass(frozen=True)
class Document:
    """Success with exactly this document: protobuf JSON of the response, or the HTTP body's JSON.

    Attributes:
        headers: Response headers that must have these values.
    """

    value: Any
    headers: Mapping[str, str] = field(default_factory=dict)


Request: TypeAlias = Predict | Grpc | KServe | Rest
Expected: TypeAlias = Answer | Refusal | Document


@dataclass(frozen=True)
class Case:
    """A row of the table."""

    name: str
    request: Request
    expected: Expected


def f32(values: Any) -> AnyArray:
    """A float32 array of nested lists, whose type a name cannot say."""
    return np.array(values, np.float32)


def predict(
    name: str,
    model: str,
    inputs: Mapping[str, AnyArray],
    expected: Expected,
    forms: tuple[Form, ...] | None = None,
    version: int | None = None,
) -> Case:
    """A row whose request is neutral."""
    return Case(name, Predict(model=model, inputs=inputs, forms=forms, version=version), expected)


def sent(name: str, model: str, message: Message, expected: Expected) -> Case:
    """A Predict over gRPC whose one tensor is given as a message."""
    return Case(name, Grpc(message={"modelSpec": {"name": model}, "inputs": {"x": message}}), expected)


def same(dtype_name: str, array: AnyArray) -> Answer:
    """What an identity model answers."""
    return Answer({"x" if dtype_name in DTYPES_OF_64_BITS else "y": array})


X10 = f32([list(range(10))])
Y10 = X10 + 1
A, B = f32([[1, 2, 3], [4, 5, 6]]), np.array([[10, 20, 30], [40, 50, 60]])
PAIR: Mapping[str, AnyArray] = MappingProxyType({"a": A, "b": B})
PAIR_ANSWER = Answer({"sum": A + B.astype(np.float32), "product": A * B.astype(np.float32)})
X10_MESSAGE = content(X10)
SERVABLE = "Servable not found for request: Specific("
"""The words that clients match."""
