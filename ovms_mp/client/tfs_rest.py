# SPDX-License-Identifier: Apache-2.0
"""TensorFlow Serving's API over REST: JSON, in the column form.

Its answers do not say of which type numbers are: whole ones become int64, others float64, strings objects.
"""

from __future__ import annotations

import base64
import json
from typing import TYPE_CHECKING, Any

import numpy as np

from ovms_mp.client import rest_framing
from ovms_mp.client.calls import ModelMetadata, ModelState, Outputs, TensorMetadata
from ovms_mp.client.datatypes import row_of, strings_of
from ovms_mp.client.errors import unreadable
from ovms_mp.client.exchange import Operation, Reply, Request

if TYPE_CHECKING:
    from ovms_mp.client.calls import Predict
    from ovms_mp.client.datatypes import AnyArray

_NAMES = {
    "DT_FLOAT": "FP32",
    "DT_DOUBLE": "FP64",
    "DT_HALF": "FP16",
    "DT_BFLOAT16": "BF16",
    "DT_STRING": "BYTES",
}
_NO_ERROR, _LOADING, _FAILED = "OK", "LOADING", "FAILED"
_JSON = (("content-type", "application/json"),)
OUTPUT = "output"
"""The name of an answer's only output where the request does not name it: this API leaves it out."""


class TfsRest(rest_framing.RestDialect):
    """See :class:`~ovms_mp.client.calls.Dialect`."""

    def __init__(self, prefix: str) -> None:
        super().__init__(prefix, "/v1/models/")

    def deadline_headers(self, timeout_s: float) -> tuple[tuple[str, str], ...]:
        """Our server's word for it; the API has none."""
        return (("x-request-timeout-seconds", f"{timeout_s:.3f}"),)

    def predict(self, call: Predict) -> Operation[Outputs]:
        """``POST /v1/models/NAME:predict``."""
        document = {"inputs": {name: _values(array) for name, array in call.inputs.items()}}
        body = json.dumps(document, separators=(",", ":")).encode()
        path = f"{self.model_path(call.model, call.version)}:predict"
        wanted = call.outputs

        def read(reply: Reply) -> Outputs:
            return _outputs(reply, wanted)

        return Operation(rest_framing.posted(path, (body,), call.request_id, _JSON), read)

    def metadata(self, model: str, version: int) -> Operation[ModelMetadata]:
        """``GET /v1/models/NAME/metadata``."""
        return Operation(Request("GET", f"{self.model_path(model, version)}/metadata"), _read_metadata)

    def models(self) -> Operation[list[ModelState]]:
        """``GET /v1/config``, which OVMS has and TensorFlow Serving has not."""
        return Operation(Request("GET", f"{self._prefix}/v1/config"), _read_models)

    def model_ready(self, model: str, version: int) -> Operation[bool]:
        """``GET /v1/models/NAME``."""
        return Operation(Request("GET", self.model_path(model, version)), _read_ready)


def _values(array: AnyArray) -> Any:
    """An array as JSON has it: octets, which may be no text, as this API writes them."""
    row_of(array.dtype)
    if array.dtype.kind == "O":
        strings = np.empty(array.size, np.object_)
        strings[:] = [{"b64": base64.b64encode(string).decode()} for string in strings_of(array)]
        return strings.reshape(array.shape).tolist()
    if array.dtype.kind in "biu":
        return array.tolist()
    return array.astype(np.float64).tolist()


def _array(values: Any) -> AnyArray:
    flat = values
    while isinstance(flat, list) and flat:
        flat = flat[0]
    if isinstance(flat, (str, dict)):
        array = np.array(values, np.object_)
        strings = np.empty(array.size, np.object_)
        strings[:] = [_string(element) for element in array.ravel().tolist()]
        return strings.reshape(array.shape)
    array = np.asarray(values)
    if array.dtype.kind == "f" and isinstance(flat, int):
        array = _whole(values, array)
    if array.dtype.kind not in "biuf":
        raise unreadable("an output that is no array of one type")
    return array


def _whole(values: Any, array: AnyArray) -> AnyArray:
    """Whole numbers that only uint64 has all of, which NumPy takes for floats."""
    objects = np.array(values, np.object_)
    if all(isinstance(number, int) and number >= 0 for number in objects.ravel().tolist()):
        return objects.astype(np.uint64)
    return array


def _string(element: Any) -> bytes:
    return base64.b64decode(element["b64"]) if isinstance(element, dict) else str(element).encode()


def _outputs(reply: Reply, wanted: tuple[str, ...]) -> Outputs:
    document = rest_framing.answered(reply)
    try:
        outputs = document["outputs"]
        if isinstance(outputs, dict) and "b64" not in outputs:
            named = {name: _array(values) for name, values in outputs.items()}
            return {name: named[name] for name in wanted} if wanted else named
        return {wanted[0] if wanted else OUTPUT: _array(outputs)}
    except (LookupError, TypeError, ValueError, OverflowError):
        raise unreadable("the document of a prediction") from None


def _read_metadata(reply: Reply) -> ModelMetadata:
    document = rest_framing.answered(reply)
    try:
        signatures = document["metadata"]["signature_def"]
        signatures = signatures.get("signatureDef", signatures.get("signature_def"))
        signature = signatures.get("serving_default") or next(iter(signatures.values()))
        spec = document.get("modelSpec") or document["model_spec"]
        inputs, outputs = (
            tuple(_tensor(name, info) for name, info in signature[key].items())
            for key in ("inputs", "outputs")
        )
        return ModelMetadata(spec["name"], (str(spec["version"]),), "", inputs, outputs)
    except (LookupError, TypeError, AttributeError, ValueError, OverflowError, StopIteration):
        raise unreadable("the document of a model's metadata") from None


def _tensor(name: str, info: dict[str, Any]) -> TensorMetadata:
    shape = info.get("tensorShape") or info["tensor_shape"]
    dtype = info["dtype"]
    sizes = tuple(int(dim["size"]) for dim in shape.get("dim", ()))
    return TensorMetadata(name, _NAMES.get(dtype, dtype.removeprefix("DT_")), sizes)


def _read_ready(reply: Reply) -> bool:
    return any(state.is_ready for state in _states("", rest_framing.answered(reply)))


def _read_models(reply: Reply) -> list[ModelState]:
    document = rest_framing.answered(reply)
    try:
        return [state for name, status in document.items() for state in _states(name, status)]
    except AttributeError:
        raise unreadable("the document of all models") from None


def _states(name: str, document: Any) -> list[ModelState]:
    try:
        return [
            ModelState(
                name,
                str(entry["version"]),
                entry["state"] == "AVAILABLE",
                _state(entry["state"], entry.get("status", {}).get("error_code", _NO_ERROR)),
                entry.get("status", {}).get("error_message", ""),
            )
            for entry in document["model_version_status"]
        ]
    except (LookupError, TypeError, AttributeError):
        raise unreadable("the document of a model's status") from None


def _state(word: str, error: str) -> str:
    """The state of a version; one that could not be loaded is said to be loading, with an error."""
    return _FAILED if word == _LOADING and error != _NO_ERROR else word
