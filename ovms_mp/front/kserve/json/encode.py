# SPDX-License-Identifier: Apache-2.0
"""Results to the answer of an inference request: JSON, and behind it the tensors that were asked for in binary form.

PERF: one [1, 10] float32 output as JSON in 4 us, in binary form in 4 us; 602 KB in binary form in 40 us, which is one
copy.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, NamedTuple

import orjson

from ovms_mp.errors import AnswerTooLarge, MalformedPayload
from ovms_mp.front.convert import copy_bytes
from ovms_mp.front.gathered import Gathered, reply_of
from ovms_mp.front.json.writer import array_text, plain_array
from ovms_mp.front.kserve.calls import in_order
from ovms_mp.front.kserve.classification import class_counts, classified
from ovms_mp.front.kserve.datatypes import datatype
from ovms_mp.front.kserve.infer_request import NO_PARAMETERS, RequestedOutput
from ovms_mp.front.kserve.json.assemble import ALL_BINARY, BINARY
from ovms_mp.front.kserve.regions.parameters import range_parameters
from ovms_mp.front.strings import length_prefixed
from ovms_mp.model.dtypes import DType

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from ovms_mp.front.infer.leases import Lease
    from ovms_mp.front.kserve.infer_request import InferRequest, Parameters
    from ovms_mp.front.routing import VersionRoute
    from ovms_mp.front.strings import Strings
    from ovms_mp.front.tensors import ResultTensor

_FEWEST_CHARACTERS = 3
"""Of a string in JSON: quotes and a comma."""
_JOINED_BYTES = 16 << 20
"""PERF: what is longer is copied by NumPy, which lets other threads run meanwhile."""
_WHOLE = RequestedOutput("")
"""What an output is asked for as that is not mentioned."""


class InferAnswer(NamedTuple):
    """An answer's body.

    Attributes:
        json_bytes: How much of it is JSON; 0 where all is.
    """

    body: bytes | bytearray | Gathered
    json_bytes: int


def encode_infer(
    request: InferRequest,
    route: VersionRoute,
    outputs: Sequence[ResultTensor],
    max_bytes: int = sys.maxsize,
    hold: Callable[[Lease], Callable[[], None]] | None = None,
) -> InferAnswer:
    """Write an answer.

    Args:
        request: Tells the id, and the form of each output.
        route: The version that has answered.
        outputs: Their bytes are copied, unless there is ``hold``; the leases may end afterwards.
        max_bytes: Longest JSON.
        hold: Holds a lease, so that long outputs need not be copied; what it gives back lets go of it.

    Raises:
        MalformedPayload: An output cannot be had as it was asked for.
        AnswerTooLarge: The text would be longer.
    """
    asked = {output.name: output for output in request.outputs}
    if asked:
        outputs = in_order(outputs, request.output_filter)
        if counts := class_counts(request.outputs):
            outputs = [classified(result, counts.get(result.name, 0), route.labels) for result in outputs]
    all_binary = _flag(request.parameters, ALL_BINARY, "the request", False)
    binary: list[bytes | memoryview] = []
    members = []
    for result in outputs:
        output = asked.get(result.name, _WHOLE) if asked else _WHOLE
        members.append(_member(result, output, all_binary, binary, max_bytes))
    identity = b'"id":%b,' % orjson.dumps(request.id) if request.id else b""
    head = b'{%b"model_name":%b,"model_version":"%d","outputs":[%b]}' % (
        identity,
        orjson.dumps(route.model_name),
        route.version,
        b",".join(members),
    )
    if not binary and not _is_binary_form(request, all_binary):
        return InferAnswer(head, 0)
    pieces = [head, *binary]
    return InferAnswer(_joined(pieces) if hold is None else reply_of(pieces, outputs, hold), len(head))


def _is_binary_form(request: InferRequest, all_binary: bool) -> bool:
    """Whether some output was asked for in binary form, even if it turned out to be elsewhere."""
    return all_binary or any(
        output.parameters.get(BINARY) is True for output in request.outputs if output.parameters
    )


def _member(
    result: ResultTensor,
    output: RequestedOutput,
    all_binary: bool,
    binary: list[bytes | memoryview],
    max_bytes: int,
) -> bytes:
    """The text of an output; its elements go into ``binary`` if they shall."""
    name, shape, dtype = result.name, result.shape, result.dtype
    is_binary = all_binary
    if output.parameters:
        is_binary = _flag(output.parameters, BINARY, f"output {name!r}", all_binary)
    head = b'{"name":%b,"datatype":"%b","shape":%b' % (
        orjson.dumps(name),
        datatype(dtype).encode(),
        orjson.dumps(shape),
    )
    if result.shared is not None:
        return b'%b,"parameters":%b}' % (head, orjson.dumps(range_parameters(result.shared)))
    strings = result.strings() if dtype is DType.BYTES else None
    if is_binary:
        octets = result.data if strings is None else memoryview(length_prefixed(strings))
        binary.append(octets)
        return b'%b,"parameters":{"binary_data_size":%d}}' % (head, len(octets))
    if strings is not None:
        text = _strings_text(strings, name, max_bytes)
    else:
        text = array_text(plain_array(result).reshape(-1), max_bytes)
    return b'%b,"data":%b}' % (head, text)


def _strings_text(strings: Strings, name: str, max_bytes: int) -> bytes:
    """Strings as a JSON list.

    Raises:
        MalformedPayload: One is no UTF-8.
    """
    least = strings.total_bytes + _FEWEST_CHARACTERS * len(strings)
    if least > max_bytes:
        raise AnswerTooLarge(
            f"the answer as JSON has more than {least} bytes, the limit is {max_bytes} (--max_message_mb)"
        )
    texts: list[str] = []
    try:
        texts.extend(str(string, "utf-8") for string in strings)
    except UnicodeDecodeError as error:
        raise MalformedPayload(
            f"output {name!r}: string {len(texts)} is not UTF-8 ({error.reason} at byte {error.start}), so JSON cannot "
            f"carry it; ask for the output with the parameter {BINARY!r}: true"
        ) from None
    return orjson.dumps(texts)


def _flag(parameters: Parameters, key: str, owner: str, otherwise: bool) -> bool:
    """A parameter that is true or false.

    Raises:
        MalformedPayload: It is neither.
    """
    value = parameters.get(key, otherwise) if parameters is not NO_PARAMETERS else otherwise
    if not isinstance(value, bool):
        raise MalformedPayload(f"parameter {key!r} of {owner} must be true or false")
    return value


def _joined(pieces: Sequence[bytes | memoryview]) -> bytes | bytearray:
    """The pieces in a row: the one copy out."""
    length = sum(map(len, pieces))
    if length < _JOINED_BYTES:
        return b"".join(pieces)
    whole = bytearray(length)
    place, at = memoryview(whole), 0
    for piece in pieces:
        copy_bytes(memoryview(piece), place[at : at + len(piece)])
        at += len(piece)
    return whole
