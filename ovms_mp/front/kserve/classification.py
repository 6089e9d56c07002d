# SPDX-License-Identifier: Apache-2.0
"""Triton's classification extension: the classes with the greatest values, as text, in place of an output.

Of an output of the shape (N, ...) each of the N rows is one classification; one of a single dimension is one row.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from ovms_mp.errors import MalformedPayload, shortened
from ovms_mp.front.strings import Strings
from ovms_mp.front.tensors import ResultTensor
from ovms_mp.model.dtypes import DType, Kind, element_count

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from ovms_mp.front.kserve.infer_request import RequestedOutput
    from ovms_mp.model.dtypes import AnyArray

PARAMETER = "classification"
MOST_CLASSES = 1_000_000
"""In one answer's output, all rows together; each is text."""
LONG_BYTES = 4 << 10
"""PERF: of results of which each octet may become a class, which is a text of 0.6 us."""
_LONGEST_NAME = 64
_ELEMENTS_AT_ONCE = 1 << 16
"""PERF: they are put in order in some milliseconds, a row alone in no less than 10 us."""


def class_count(output: RequestedOutput) -> int:
    """How many classes of each row are asked for; 0 for the output itself.

    Raises:
        MalformedPayload: It is no number that this could be.
    """
    value = output.parameters.get(PARAMETER, 0) if output.parameters else 0
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value <= MOST_CLASSES:
        raise MalformedPayload(
            f"parameter {PARAMETER!r} of output {shortened(output.name, _LONGEST_NAME)!r} is "
            f"{shortened(repr(value), _LONGEST_NAME)}, expected a whole number from 0 to {MOST_CLASSES}"
        )
    return value


def class_counts(outputs: Sequence[RequestedOutput]) -> dict[str, int]:
    """How many classes of each row are asked for, by output, of those that are to be classified.

    Raises:
        MalformedPayload: See :func:`class_count`.
    """
    return {output.name: count for output in outputs if output.parameters and (count := class_count(output))}


def takes_long(asked: Sequence[RequestedOutput], results: Sequence[ResultTensor]) -> bool:
    """Whether classes are asked for that are worth a thread. PERF: 0.1 us where there are none."""
    if not asked or sum([result.data.nbytes for result in results]) <= LONG_BYTES:
        return False
    return any(output.parameters and PARAMETER in output.parameters for output in asked)


def classified(result: ResultTensor, most_classes: int, labels: Sequence[str] = ()) -> ResultTensor:
    """An output as a tensor of classes, in memory of its own; the output itself if none are asked for.

    Raises:
        MalformedPayload: See :func:`classify`.
    """
    if not most_classes:
        return result
    shape, strings = classify(result, most_classes, labels)
    place = memoryview(bytearray(strings.packed_nbytes))
    if len(strings):
        strings.write_packed(place)
    return ResultTensor(result.name, DType.BYTES, shape, place)


def classify(
    result: ResultTensor, most_classes: int, labels: Sequence[str] = ()
) -> tuple[tuple[int, ...], Strings]:
    """The first classes of each row: ``value:index`` or ``value:index:label``.

    Of equal values the one with the lower index comes first; NaN is less than any number.

    Args:
        result: The output.
        most_classes: How many of each row; fewer where a row has not so many.
        labels: By index; those beyond their end have none.

    Returns:
        The shape, and the texts.

    Raises:
        MalformedPayload: They are too many, or the output has no numbers.
    """
    if result.dtype is DType.BYTES:
        raise MalformedPayload(f"output {result.name!r} is of strings, which have no order of classes")
    rows = result.shape[0] if len(result.shape) > 1 else 1
    row_size = element_count(result.shape[1:]) if len(result.shape) > 1 else element_count(result.shape)
    count = min(most_classes, row_size)
    if rows * count > MOST_CLASSES:
        raise MalformedPayload(
            f"{PARAMETER} of output {result.name!r}: {rows} rows of {count} classes are more than {MOST_CLASSES}"
        )
    texts: list[bytes] = []
    matrix = result.array().reshape(rows, row_size)
    some = max(1, _ELEMENTS_AT_ONCE // max(1, row_size))
    for start in range(0, rows, some):
        texts += _texts(matrix[start : start + some], count, labels, is_float=result.dtype.kind is Kind.FLOAT)
    shape = (rows, count) if len(result.shape) > 1 else (count,)
    return shape, Strings.of(texts)


def _texts(rows: AnyArray, count: int, labels: Sequence[str], *, is_float: bool) -> Iterator[bytes]:
    """The first classes of some rows, one row behind the other."""
    values = rows.astype(np.float64 if is_float else np.int64 if rows.dtype.kind != "u" else np.uint64)
    ranks = np.where(np.isnan(values), -np.inf, values) if is_float else values
    # Descending, and stable: the last of a stable ascending order of what is read backwards is the first here.
    backwards = np.argsort(ranks[:, ::-1], axis=1, kind="stable")
    order = (rows.shape[1] - 1 - backwards)[:, ::-1][:, :count]
    chosen = values.ravel()[(order + (np.arange(len(rows)) * rows.shape[1])[:, None]).ravel()]
    for index, value in zip(order.ravel().tolist(), chosen.tolist(), strict=True):
        text = f"{value:f}:{index}" if is_float else f"{value}:{index}"
        yield (f"{text}:{labels[index]}" if index < len(labels) else text).encode()
