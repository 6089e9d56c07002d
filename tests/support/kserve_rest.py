# SPDX-License-Identifier: Apache-2.0
"""KServe's REST API as a client sees it: bodies of requests, JSON or with binary tensors, and what answers hold."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import numpy as np

from ovms_mp.model.dtypes import DType
from tests.support import rest_client

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ovms_mp.model.dtypes import AnyArray
    from tests.support.rest_client import HttpReply

HEADER = "Inference-Header-Content-Length"


def infer_body(
    inputs: Mapping[str, AnyArray], *, is_binary: bool = False, **more: Any
) -> tuple[bytes, dict[str, str]]:
    """A request's body and headers; ``more`` are further keys."""
    entries: list[dict[str, Any]] = []
    binary = b""
    for name, array in inputs.items():
        dtype = next(dtype for dtype in DType if dtype.numpy == array.dtype)
        entry: dict[str, Any] = {"name": name, "shape": list(array.shape), "datatype": dtype.name}
        if is_binary:
            octets = array.tobytes()
            entry["parameters"] = {"binary_data_size": len(octets)}
            binary += octets
        else:
            numbers = array if array.dtype.kind in "iub" else array.astype(np.float64)
            entry["data"] = numbers.ravel().tolist()
        entries.append(entry)
    text = json.dumps({"inputs": entries, **more}).encode()
    return (text + binary, {HEADER: str(len(text))}) if is_binary else (text, {})


def infer(
    port: int,
    model: str,
    inputs: Mapping[str, AnyArray],
    *,
    version: int | None = None,
    is_binary: bool = False,
    **more: Any,
) -> HttpReply:
    """Send an inference request."""
    body, headers = infer_body(inputs, is_binary=is_binary, **more)
    place = f"/v2/models/{model}" + ("" if version is None else f"/versions/{version}")
    return rest_client.request(port, "POST", f"{place}/infer", body, headers)


def outputs(reply: HttpReply) -> dict[str, AnyArray]:
    """The numbers of an answer by the outputs' names, wherever it has them."""
    document, binary = split(reply)
    found: dict[str, AnyArray] = {}
    for entry in document["outputs"]:
        numpy = DType[entry["datatype"]].numpy
        size = entry.get("parameters", {}).get("binary_data_size")
        if size is None:
            wide = numpy if numpy.kind in "iub" else np.dtype(np.float64)
            values = np.array(entry["data"], wide).astype(numpy)
        else:
            values = np.frombuffer(binary[:size], numpy)
            binary = binary[size:]
        found[entry["name"]] = values.reshape(entry["shape"])
    assert not binary
    return found


def split(reply: HttpReply) -> tuple[Any, bytes]:
    """The JSON of an answer, and what is behind it."""
    length = int(reply.headers.get(HEADER.lower(), len(reply.body)))
    return json.loads(reply.body[:length]), reply.body[length:]
