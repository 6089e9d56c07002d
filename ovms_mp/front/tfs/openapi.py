# SPDX-License-Identifier: Apache-2.0
"""TensorFlow Serving's REST API, for people and for generators of clients.

https://www.tensorflow.org/tfx/serving/api_rest
"""

from __future__ import annotations

from ovms_mp.front.openapi.description import (
    ANYTHING,
    JSON,
    OBJECT,
    STRING,
    Description,
    Operation,
    list_of,
    map_of,
    one_of,
    record,
    ref,
)
from ovms_mp.front.tfs import calls

_STATES = one_of("START", "LOADING", "AVAILABLE", "UNLOADING", "END")
_SIGNATURE_NAME = {"signature_name": STRING}

DESCRIPTION = Description(
    "TensorFlow Serving's API",
    {
        ("POST", calls.PREDICT): Operation(
            'Run a model on rows (`instances`) or on named tensors (`inputs`); bytes are `{"b64": ...}`',
            {JSON: ref("TfsPredictResponse")},
            {JSON: ref("TfsPredictRequest")},
            needs_body=True,
        ),
        ("GET", calls.STATUS): Operation("States of a model's versions", {JSON: ref("TfsModelStatus")}),
        ("GET", calls.METADATA): Operation(
            "Inputs and outputs of a version", {JSON: ref("TfsModelMetadata")}
        ),
    },
    {
        "TfsPredictRequest": {
            "oneOf": [
                record({"instances": list_of(ANYTHING)}, _SIGNATURE_NAME),
                record({"inputs": ANYTHING}, _SIGNATURE_NAME),
            ],
        },
        "TfsPredictResponse": {
            "oneOf": [record({"predictions": list_of(ANYTHING)}), record({"outputs": ANYTHING})],
        },
        "TfsModelStatus": record(
            {
                "model_version_status": list_of(
                    record(
                        {
                            "version": STRING,
                            "state": _STATES,
                            "status": record({"error_code": STRING, "error_message": STRING}),
                        }
                    )
                )
            }
        ),
        "TfsModelMetadata": record(
            {
                "modelSpec": record({"name": STRING, "version": STRING}, {"signatureName": STRING}),
                "metadata": map_of(OBJECT),
            }
        ),
    },
)
