# SPDX-License-Identifier: Apache-2.0
"""Model files that name memory of the process that reads them.

Of a tensor whose values lie elsewhere an ONNX file says in which file. OpenVINO refuses files outside the model's
directory, but takes one name for "at this address", which ONNX Runtime uses for models that it hands over in memory.
In a file the address is whatever its author chose: the answers would tell what the worker's memory holds, and a wrong
one crashes it. Nothing that writes files writes that name, so a file with it is refused before it is read.
"""

from __future__ import annotations

import os

from ovms_mp.errors import ModelLoadFailed

_NAME = b"*/_ORT_MEM_ADDR_/*"
_PIECE_BYTES = 1 << 20


def refuse_memory_references(model_file: str) -> None:
    """Raise for a file that names memory. PERF: 1 GB/s of what is in the page cache; IR, the usual form, is not read.

    OpenVINO tells formats by their content, so an ONNX model may have the name of any other one. A string is in one
    piece in a protobuf message, however deep, so it need not be parsed.

    Args:
        model_file: A file, or a SavedModel's directory, which is none of ONNX.

    Raises:
        ModelLoadFailed: It names memory.
        OSError: It cannot be read.
    """
    # What is called .xml is IR: reading refuses other content by its form.
    if model_file.endswith(".xml") or os.path.isdir(model_file):
        return
    descriptor = os.open(model_file, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOCTTY)
    with open(descriptor, "rb", buffering=0) as file:
        end = b""
        while piece := file.read(_PIECE_BYTES):
            if _NAME in piece or _NAME in end + piece[: len(_NAME)]:
                raise ModelLoadFailed(
                    f"cannot read {model_file}: a tensor's external data is a memory address "
                    f"({_NAME.decode()}), which no file may name; save the model with its weights"
                )
            end = (end + piece[-len(_NAME) :])[-len(_NAME) :]
