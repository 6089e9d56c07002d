# SPDX-License-Identifier: Apache-2.0
"""KServe v2 over REST, with tensors in binary form."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from ovms_mp.client import rest_framing
from ovms_mp.client.calls import ModelMetadata, ModelState, Outputs, TensorMetadata
from ovms_mp.client.datatypes import BYTES, array_of, numpy_dtype, octets_of, row_of, shaped, strings_array
from ovms_mp.client.errors import ClientError, unreadable
from ovms_mp.client.exchange import Operation, Request
from ovms_mp.client.places import REGION

if TYPE_CHECKING:
    from ovms_mp.client.calls import Predict
    from ovms_mp.client.exchange import Octets, Reply

import numpy as np

_HEADER = "inference-header-content-length"
_OCTETS = ("content-type", "application/octet-stream")
_MODELS = "/v2/models/"


class KServeRest:
    """See :class:`~ovms_mp.client.calls.Dialect`."""

    def __init__(self, prefix: str) -> None:
        """Prepare.

        Args:
            prefix: Before all paths.
        """
        self._prefix = prefix

    def common_headers(self) -> tuple[tuple[str, str], ...]:
        """Headers of every request."""
        return rest_framing.COMMON_HEADERS

    def deadline_headers(self, timeout_s: float) -> tuple[tuple[str, str], ...]:
        """None; a request's parameter ``timeout`` has it."""
        return ()

    def predict(self, call: Predict) -> Operation[Outputs]:
        """``POST /v2/models/NAME/infer``."""
        binary: list[Octets] = []
        inputs = []
        for name, array in call.inputs.items():
            described: dict[str, Any] = {
                "name": name,
                "shape": array.shape,
                "datatype": row_of(array.dtype)[0],
            }
            if (place := call.input_places.get(name)) is not None:
                described["parameters"] = place.parameters
            else:
                octets = octets_of(array)
                described["parameters"] = {"binary_data_size": len(octets)}
                binary.append(octets)
            inputs.append(described)
        document: dict[str, Any] = {"inputs": inputs}
        if call.request_id:
            document["id"] = call.request_id
        if call.outputs:
            document["outputs"] = [
                {
                    "name": name,
                    "parameters": place.parameters
                    if (place := call.output_places.get(name))
                    else {"binary_data": True},
                }
                for name in call.outputs
            ]
        document["parameters"] = {**call.parameters, "binary_data_output": True}
        head = json.dumps(document, separators=(",", ":")).encode()
        path = rest_framing.model_path(self._prefix + _MODELS, call.model, call.version)
        headers = (_OCTETS, (_HEADER, str(len(head))))
        return Operation(
            rest_framing.posted(f"{path}/infer", (head, *binary), call.request_id, headers), _read_outputs
        )

    def metadata(self, model: str, version: int) -> Operation[ModelMetadata]:
        """``GET /v2/models/NAME``."""
        return Operation(self._get(rest_framing.model_path(_MODELS, model, version)), _read_metadata)

    def models(self) -> Operation[list[ModelState]]:
        """``POST /v2/repository/index``."""
        request = Request("POST", f"{self._prefix}/v2/repository/index", (b"{}",))
        return Operation(request, _read_index)

    def model_ready(self, model: str, version: int) -> Operation[bool]:
        """``GET /v2/models/NAME/ready``."""
        path = rest_framing.model_path(_MODELS, model, version)
        return Operation(self._get(f"{path}/ready"), rest_framing.is_yes)

    def ready(self) -> Operation[bool]:
        """``GET /v2/health/ready``."""
        return Operation(self._get("/v2/health/ready"), rest_framing.is_yes)

    def live(self) -> Operation[bool]:
        """``GET /v2/health/live``."""
        return Operation(self._get("/v2/health/live"), rest_framing.is_yes)

    def _get(self, path: str) -> Request:
        return Request("GET", self._prefix + path)


def _read_outputs(reply: Reply) -> Outputs:
    rest_framing.refuse_failure(reply)
    body = memoryview(reply.body)
    given = reply.headers.get(_HEADER)
    length = int(given) if given is not None and given.isascii() and given.isdigit() else len(body)
    document = rest_framing.document(body[:length])
    outputs: Outputs = {}
    at = length
    try:
        for output in document["outputs"]:
            parameters = output.get("parameters", {})
            if REGION in parameters:
                continue
            size = parameters.get("binary_data_size")
            name, datatype, shape = output["name"], output["datatype"], output["shape"]
            if any(dimension < 0 for dimension in shape):
                raise unreadable(f"output {name!r} has the shape {shape}")
            if size is None:
                outputs[name] = _plain(output["data"], datatype, shape)
                continue
            outputs[name] = array_of(body[at : at + size], datatype, shape)
            at += size
    except (LookupError, TypeError, AttributeError, ValueError) as error:
        if isinstance(error, ClientError):
            raise
        raise unreadable(f"the document of an inference ({error!r})") from None
    return outputs


def _plain(data: list[Any], datatype: str, shape: list[int]) -> Any:
    """The values of an output that JSON carries."""
    if datatype == BYTES:
        flat = np.asarray(data, np.object_).ravel().tolist()
        return strings_array([text.encode() if isinstance(text, str) else text for text in flat], shape)
    return shaped(np.asarray(data, numpy_dtype(datatype) or np.float32).ravel(), shape, datatype)


def _read_metadata(reply: Reply) -> ModelMetadata:
    document = rest_framing.answered(reply)
    try:
        inputs, outputs = (
            tuple(
                TensorMetadata(entry["name"], entry["datatype"], tuple(entry["shape"]))
                for entry in document[key]
            )
            for key in ("inputs", "outputs")
        )
        return ModelMetadata(
            document["name"],
            tuple(document.get("versions", ())),
            document.get("platform", ""),
            inputs,
            outputs,
        )
    except (LookupError, TypeError, AttributeError):
        raise unreadable("the document of a model's metadata") from None


def _read_index(reply: Reply) -> list[ModelState]:
    try:
        return [
            ModelState(
                entry["name"],
                str(entry.get("version", "")),
                entry.get("state") == "READY",
                entry.get("state", ""),
                entry.get("reason", ""),
            )
            for entry in rest_framing.answered(reply)
        ]
    except (LookupError, TypeError, AttributeError):
        raise unreadable("the document of the repository's index") from None
