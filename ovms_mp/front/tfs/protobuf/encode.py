# SPDX-License-Identifier: Apache-2.0
"""Results to the bytes of a ``tensorflow.serving.PredictResponse``, with at most one copy of the tensors' bytes.

Everything around a tensor's bytes depends on its name, dtype and shape alone, and models answer with the same
few of them: those pieces are written once by the generated classes and remembered. A response is a join of
pieces and tensors.

PERF: one [1, 10] float output in 0.4 us, 602 kB in 15 us, which is the copy; with the generated classes alone
3.1 us and 65 us (CPython 3.11, protobuf 7.36, AMD EPYC, 2 cores).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ovms_mp.errors import ProtocolError
from ovms_mp.front.protobuf.plain import varint
from ovms_mp.front.protobuf.strings import delimited
from ovms_mp.front.tfs._proto.tensorflow_framework_pb2 import TensorProto
from ovms_mp.front.tfs._proto.tensorflow_serving_pb2 import PredictResponse
from ovms_mp.front.tfs.protobuf.tags import CONTENT, ENTRY_KEY, ENTRY_VALUE, OUTPUTS, STRINGS
from ovms_mp.model.dtypes import DType

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ovms_mp.front.tensors import ResultTensor

SIGNATURE = "serving_default"
"""The one signature that every model has; the name is TensorFlow's default."""

_OUTPUTS, _ENTRY_VALUE, _TENSOR_CONTENT = bytes([OUTPUTS]), bytes([ENTRY_VALUE]), bytes([CONTENT])
_EMPTY_KEY = bytes([ENTRY_KEY, 0])

# Dynamic shapes make as many pieces as clients like, so both memories are bounded.
_REMEMBERED_PIECES = 4096
_specs: dict[tuple[str, int], bytes] = {}
_heads: dict[tuple[str, int, tuple[int, ...]], tuple[bytes, int]] = {}


def encode_predict(model_name: str, version: int, outputs: Sequence[ResultTensor]) -> bytes:
    """Write a predict response: :func:`predict_pieces`, joined. The leases may end afterwards."""
    return b"".join(predict_pieces(model_name, version, outputs))


def predict_pieces(
    model_name: str, version: int, outputs: Sequence[ResultTensor]
) -> list[bytes | memoryview]:
    """Write a predict response in pieces that follow each other; the tensors among them are not copied.

    Args:
        model_name: The model that answered.
        version: The version that answered, positive.
        outputs: Its outputs, each name once.

    Raises:
        ProtocolError: An output's bytes are not as many as its shape and dtype take.
    """
    pieces: list[bytes | memoryview] = []
    for output in outputs:
        if output.dtype is DType.BYTES:
            pieces.append(_string_entry(output))
            continue
        # The number stands for the dtype, because an enum member's hash is computed in Python.
        key = output.name, output.dtype.tf_number, output.shape
        head, nbytes = _heads.get(key) or _remember_head(output)
        data = output.data
        if data.nbytes != nbytes:
            raise ProtocolError(
                f"Output {output.name!r} of shape {output.shape}: {data.nbytes} bytes, not {nbytes}"
            )
        pieces.append(head)
        pieces.append(data)
    pieces.append(_specs.get((model_name, version)) or _remember_spec(model_name, version))
    return pieces


def _string_entry(output: ResultTensor) -> bytes:
    """All of an output's map entry, where it consists of strings."""
    # Like the content, strings come last among a tensor's fields that are in use.
    fields = head_of(output).SerializeToString() + delimited(output.strings(), STRINGS)
    name = PredictResponse.OutputsEntry(key=output.name).SerializeToString() or _EMPTY_KEY
    entry_nbytes = len(name) + len(_ENTRY_VALUE) + len(varint(len(fields))) + len(fields)
    return b"".join((_OUTPUTS, varint(entry_nbytes), name, _ENTRY_VALUE, varint(len(fields)), fields))


def head_of(output: ResultTensor) -> TensorProto:
    """A tensor's message without values."""
    tensor = TensorProto(dtype=output.dtype.tf_name)
    tensor.tensor_shape.SetInParent()
    for size in output.shape:
        tensor.tensor_shape.dim.add(size=size)
    return tensor


def _remember_head(output: ResultTensor) -> tuple[bytes, int]:
    """All of an output's map entry that precedes the tensor's bytes, and how many those are."""
    nbytes = output.dtype.nbytes(output.shape)
    tensor = head_of(output)
    # The content is the last field of the tensor, the tensor of the entry: only lengths before them know it.
    # proto3 leaves an empty content out.
    fields = tensor.SerializeToString() + (_TENSOR_CONTENT + varint(nbytes) if nbytes else b"")
    name = PredictResponse.OutputsEntry(key=output.name).SerializeToString() or _EMPTY_KEY
    value = _ENTRY_VALUE + varint(len(fields) + nbytes)
    entry = name + value + fields
    head = _OUTPUTS + varint(len(entry) + nbytes) + entry, nbytes
    if len(_heads) >= _REMEMBERED_PIECES:
        _heads.clear()
    _heads[output.name, output.dtype.tf_number, output.shape] = head
    return head


def _remember_spec(model_name: str, version: int) -> bytes:
    response = PredictResponse()
    response.model_spec.name = model_name
    response.model_spec.version.value = version
    response.model_spec.signature_name = SIGNATURE
    if len(_specs) >= _REMEMBERED_PIECES:
        _specs.clear()
    spec = _specs[model_name, version] = response.SerializeToString()
    return spec
