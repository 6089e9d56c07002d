# SPDX-License-Identifier: Apache-2.0
"""KServe v2 over REST, with tensors in binary form."""

from __future__ import annotations

import functools
import json
from typing import TYPE_CHECKING, Any

import numpy as np

from ovms_mp.client import rest_framing
from ovms_mp.client.calls import ModelMetadata, ModelState, Outputs, TensorMetadata
from ovms_mp.client.datatypes import BYTES, array_of, numpy_dtype, octets_of, row_of, shaped, strings_array
from ovms_mp.client.errors import ClientError, unreadable
from ovms_mp.client.exchange import Operation, Request
from ovms_mp.client.places import REGION

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ovms_mp.client.calls import Predict
    from ovms_mp.client.exchange import Octets, Reply
    from ovms_mp.client.places import Place

_HEADER = "inference-header-content-length"
_OCTETS = ("content-type", "application/octet-stream")


class KServeRest(rest_framing.RestDialect):
    """See :class:`~ovms_mp.client.calls.Dialect`."""

    def __init__(self, prefix: str) -> None:
        super().__init__(prefix, "/v2/models/")

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
                    "parameters": call.output_parameters(name)
                    if name in call.output_places
                    else {**call.output_parameters(name), "binary_data": True},
                }
                for name in call.outputs
            ]
        deadline = {"timeout": call.timeout_us} if call.timeout_us else {}
        document["parameters"] = {**deadline, **call.parameters, "binary_data_output": True}
        head = json.dumps(document, separators=(",", ":")).encode()
        path = f"{self.model_path(call.model, call.version)}/infer"
        headers = (_OCTETS, (_HEADER, str(len(head))))
        return Operation(
            rest_framing.posted(path, (head, *binary), call.request_id, headers),
            functools.partial(_read_outputs, places=call.output_places),
        )

    def metadata(self, model: str, version: int) -> Operation[ModelMetadata]:
        """``GET /v2/models/NAME``."""
        return Operation(Request("GET", self.model_path(model, version)), _read_metadata)

    def models(self) -> Operation[list[ModelState]]:
        """``POST /v2/repository/index``."""
        request = Request("POST", f"{self._prefix}/v2/repository/index", (b"{}",))
        return Operation(request, _read_index)

    def model_ready(self, model: str, version: int) -> Operation[bool]:
        """``GET /v2/models/NAME/ready``."""
        return Operation(Request("GET", f"{self.model_path(model, version)}/ready"), rest_framing.is_yes)


def _read_outputs(reply: Reply, places: Mapping[str, Place]) -> Outputs:
    rest_framing.refuse_failure(reply)
    body = memoryview(reply.body)
    given = reply.headers.get(_HEADER)
    length = len(body) if given is None else rest_framing.whole_number(given)
    document = rest_framing.document(body[:length])
    outputs: Outputs = {}
    at = length
    try:
        for output in document["outputs"]:
            parameters = output.get("parameters", {})
            size = parameters.get("binary_data_size")
            name, datatype, shape = output["name"], output["datatype"], output["shape"]
            if any(dimension < 0 for dimension in shape):
                raise unreadable(f"output {name!r} has the shape {shape}")
            if REGION in parameters:
                if name in places:
                    outputs[name] = places[name].filled(name, datatype, shape)
                continue
            if size is None:
                outputs[name] = _plain(output["data"], datatype, shape)
                continue
            outputs[name] = array_of(body[at : at + size], datatype, shape)
            at += size
    except (LookupError, TypeError, AttributeError, ValueError, OverflowError) as error:
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
