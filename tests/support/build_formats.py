# SPDX-License-Identifier: Apache-2.0
"""Builds one small model in the formats that are not OpenVINO's own: ``python -m tests.support.build_formats ROOT``.

Below ROOT come ``saved_model``, ``frozen_pb``, ``tflite`` and ``paddle``, each a base path with the version
directory ``1/``; all compute ``x`` f32 [1,10] -> ``y`` = x + 1. OpenVINO calls the tensors ``x:0`` and ``y:0`` in the
frozen graph, ``serving_default_x:0`` and ``StatefulPartitionedCall:0`` in the TensorFlow Lite model. A process of its
own: TensorFlow takes seconds to import, and its descriptors of ``tensorflow.*`` cannot live beside ours.

PaddlePaddle is too large for a test dependency, so its two files are written by hand, after
https://github.com/PaddlePaddle/Paddle/blob/develop/paddle/fluid/framework/framework.proto and what OpenVINO reads
(https://github.com/openvinotoolkit/openvino/blob/master/src/frontends/paddle/src/input_model.cpp).
"""

from __future__ import annotations

import os
import struct
import sys
from pathlib import Path

import numpy as np

SHAPE = (1, 10)


def main() -> None:
    """Build everything below the directory of the first argument."""
    root = Path(sys.argv[1])
    os.environ["CUDA_VISIBLE_DEVICES"] = ""
    os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
    build_paddle(_version_directory(root, "paddle"))
    build_tensorflow(
        saved_model=_version_directory(root, "saved_model"),
        frozen_pb=_version_directory(root, "frozen_pb"),
        tflite=_version_directory(root, "tflite"),
    )


def _version_directory(root: Path, name: str) -> Path:
    directory = root / name / "1"
    directory.mkdir(parents=True)
    return directory


def build_tensorflow(*, saved_model: Path, frozen_pb: Path, tflite: Path) -> None:
    """Write the three formats of TensorFlow.

    The SavedModel adds a variable, so that its ``variables/`` are needed; the others a constant.
    """
    import tensorflow as tf

    class PlusOne(tf.Module):  # type: ignore[misc]  # TensorFlow has no types
        def __init__(self) -> None:
            super().__init__()
            self.one = tf.Variable(tf.ones(SHAPE), name="one")

        @tf.function(input_signature=[tf.TensorSpec(SHAPE, tf.float32, name="x")])  # type: ignore[untyped-decorator]
        def serve(self, x: object) -> dict[str, object]:
            return {"y": tf.add(x, self.one)}

    module = PlusOne()
    tf.saved_model.save(module, str(saved_model), signatures=module.serve.get_concrete_function())

    graph = tf.Graph()
    with graph.as_default():
        placeholder = tf.compat.v1.placeholder(tf.float32, SHAPE, name="x")
        tf.add(placeholder, tf.ones(SHAPE), name="y")
    (frozen_pb / "model.pb").write_bytes(graph.as_graph_def().SerializeToString())

    converter = tf.lite.TFLiteConverter.from_saved_model(str(saved_model))
    (tflite / "model.tflite").write_bytes(converter.convert())


# PaddlePaddle: field numbers of framework.proto.

_LOD_TENSOR, _FEED, _FETCH = 7, 9, 10
_FP32 = 5
_INT = 0


def build_paddle(directory: Path) -> None:
    """Write ``model.pdmodel``, a ``ProgramDesc``, and ``model.pdiparams``, its one constant."""
    tensors = [_variable("x", SHAPE), _variable("one", SHAPE, is_constant=True), _variable("y", SHAPE)]
    ends = [_message(1, b"feed", 2, {1: _FEED}, 3, 1), _message(1, b"fetch", 2, {1: _FETCH}, 3, 1)]
    operators = [
        _operator("feed", {"X": "feed"}, {"Out": "x"}, {"col": 0}),
        _operator("elementwise_add", {"X": "x", "Y": "one"}, {"Out": "y"}, {"axis": -1}),
        _operator("fetch", {"X": "y"}, {"Out": "fetch"}, {"col": 0}),
    ]
    variables = [part for variable in (*tensors, *ends) for part in (3, variable)]
    block = _message(1, 0, 2, -1, *variables, *(part for operator in operators for part in (4, operator)))
    (directory / "model.pdmodel").write_bytes(_message(1, block, 4, {1: 0}))

    description = _tensor(SHAPE)
    # Version of the tensor, its levels of detail (none), version again, length of the description.
    header = struct.pack("<IQIi", 0, 0, 0, len(description))
    ones = np.ones(SHAPE, "<f4").tobytes()
    (directory / "model.pdiparams").write_bytes(header + description + ones)


def _tensor(shape: tuple[int, ...]) -> bytes:
    return _message(1, _FP32, *(part for size in shape for part in (2, size)))


def _variable(name: str, shape: tuple[int, ...], *, is_constant: bool = False) -> bytes:
    kind = _message(1, _LOD_TENSOR, 3, {1: _tensor(shape)})
    return _message(1, name.encode(), 2, kind, 3, int(is_constant))


def _operator(name: str, inputs: dict[str, str], outputs: dict[str, str], settings: dict[str, int]) -> bytes:
    parts: list[int | bytes | dict[int, int | bytes]] = []
    for field, tensors in ((1, inputs), (2, outputs)):
        for parameter, tensor in tensors.items():
            parts += [field, {1: parameter.encode(), 2: tensor.encode()}]
    parts += [3, name.encode()]
    for key, value in settings.items():
        parts += [4, {1: key.encode(), 2: _INT, 3: value}]
    return _message(*parts)


def _message(*parts: int | bytes | dict[int, int | bytes]) -> bytes:
    """Encode a protobuf message of field number, value, field number, value, ...; a dict is a nested message."""
    encoded = b""
    for field, value in zip(parts[::2], parts[1::2], strict=True):
        if not isinstance(field, int):
            raise TypeError(field)
        if isinstance(value, dict):
            value = _message(*(part for pair in value.items() for part in pair))
        if isinstance(value, int):
            encoded += _varint(field << 3) + _varint(value & (1 << 64) - 1)
        else:
            encoded += _varint(field << 3 | 2) + _varint(len(value)) + value
    return encoded


def _varint(value: int) -> bytes:
    encoded = bytearray()
    while value > 0x7F:
        encoded.append(value & 0x7F | 0x80)
        value >>= 7
    encoded.append(value)
    return bytes(encoded)


if __name__ == "__main__":
    main()
