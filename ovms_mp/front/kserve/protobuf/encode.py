# SPDX-License-Identifier: Apache-2.0
"""Results to the bytes of an ``inference.ModelInferResponse``, with at most one copy of the tensors' bytes.

Values are always raw, as OVMS and Triton answer. Everything around them depends on the output's name, dtype and shape
alone, and models answer with the same few of them: those pieces are written once by the generated classes and
remembered.

PERF: one [1, 10] float output in 0.4 us, 602 kB in 5.3 us, which is the copy, or in 0.4 us where it is sent from its
place (CPython 3.11, AMD EPYC, 2 cores).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ovms_mp.errors import ProtocolError
from ovms_mp.front.kserve._proto.kserve_pb2 import ModelInferResponse, ModelStreamInferResponse
from ovms_mp.front.kserve.datatypes import datatype
from ovms_mp.front.kserve.protobuf.tags import ANSWER_ID, ANSWER_RAW, STREAM_ANSWER
from ovms_mp.front.kserve.regions.parameters import range_parameters
from ovms_mp.front.protobuf.plain import varint
from ovms_mp.front.strings import length_prefixed
from ovms_mp.model.dtypes import DType

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ovms_mp.codes import Code
    from ovms_mp.front.regions.ranges import SharedRange
    from ovms_mp.front.tensors import ResultTensor

    Piece = bytes | memoryview

_ID, _RAW, _STREAM_ANSWER = bytes([ANSWER_ID]), bytes([ANSWER_RAW]), bytes([STREAM_ANSWER])
_FINAL = ModelInferResponse()
_FINAL.parameters["triton_final_response"].bool_param = True
_FINAL_BYTES = _FINAL.SerializeToString()

# Dynamic shapes make as many pieces as clients like, so both memories are bounded.
_MOST_REMEMBERED = 4096
_models: dict[tuple[str, int], bytes] = {}
_heads: dict[tuple[str, int, tuple[int, ...]], tuple[bytes, bytes, int]] = {}


def infer_pieces(
    model_name: str, version: int, request_id: str, outputs: Sequence[ResultTensor]
) -> list[Piece]:
    """Write an answer in pieces that follow each other; the tensors among them are not copied, but for strings.

    Args:
        model_name: The model that answered.
        version: The version that answered, positive.
        request_id: As the client gave it, perhaps empty.
        outputs: Its outputs, each name once, in the order in which they are to be sent.

    Raises:
        ProtocolError: An output's bytes are not as many as its shape and dtype take.
    """
    pieces: list[Piece] = [_models.get((model_name, version)) or _remember_model(model_name, version)]
    if request_id:
        octets = request_id.encode()
        pieces.append(_ID + varint(len(octets)) + octets)
    raws: list[Piece] = []
    for output in outputs:
        if output.shared is not None:
            pieces.append(_shared_head(output, output.shared))
            continue
        # The number stands for the dtype, because an enum member's hash is computed in Python.
        key = output.name, output.dtype.tf_number, output.shape
        head, raw_head, nbytes = _heads.get(key) or _remember_head(output)
        pieces.append(head)
        data: Piece = output.data
        if output.dtype is DType.BYTES:
            data = memoryview(length_prefixed(output.strings()))
            raw_head = _RAW + varint(len(data))
        elif output.data.nbytes != nbytes:
            raise ProtocolError(
                f"Output {output.name!r} of shape {output.shape}: {output.data.nbytes} bytes, not {nbytes}"
            )
        raws.append(raw_head)
        raws.append(data)
    pieces += raws
    return pieces


def stream_pieces(
    model_name: str, version: int, request_id: str, outputs: Sequence[ResultTensor]
) -> list[Piece]:
    """Write an answer in a stream, which says that it is the request's last one; see :func:`infer_pieces`."""
    pieces = infer_pieces(model_name, version, request_id, outputs)
    pieces.append(_FINAL_BYTES)
    return [_STREAM_ANSWER + varint(sum(map(len, pieces))), *pieces]


def encode_stream_failure(request_id: str, message: str, code: Code) -> bytes:
    """Write a failure in a stream; the answer's id says of which request, and a parameter which failure it is."""
    response = ModelStreamInferResponse(error_message=message)
    response.infer_response.id = request_id
    response.infer_response.parameters["grpc_status"].string_param = code.name
    return response.SerializeToString()


def _remember_model(model_name: str, version: int) -> bytes:
    if len(_models) >= _MOST_REMEMBERED:
        _models.clear()
    response = ModelInferResponse(model_name=model_name, model_version=str(version))
    octets = _models[model_name, version] = response.SerializeToString()
    return octets


def _shared_head(output: ResultTensor, place: SharedRange) -> bytes:
    """An output whose values are in shared memory."""
    response = ModelInferResponse()
    entry = response.outputs.add(name=output.name, datatype=datatype(output.dtype), shape=output.shape)
    for key, value in range_parameters(place).items():
        if isinstance(value, str):
            entry.parameters[key].string_param = value
        else:
            entry.parameters[key].int64_param = int(value)
    return response.SerializeToString()


def _remember_head(output: ResultTensor) -> tuple[bytes, bytes, int]:
    """An output without its values, what comes before those, and how many bytes they are."""
    nbytes = output.dtype.nbytes(output.shape)
    response = ModelInferResponse()
    response.outputs.add(name=output.name, datatype=datatype(output.dtype), shape=output.shape)
    if len(_heads) >= _MOST_REMEMBERED:
        _heads.clear()
    head = _heads[output.name, output.dtype.tf_number, output.shape] = (
        response.SerializeToString(),
        _RAW + varint(nbytes),
        nbytes,
    )
    return head
