# SPDX-License-Identifier: Apache-2.0
"""Status and metadata documents, word for word.

That TensorFlow Serving's own classes parse them is tested in ``tests/conformance/test_proto_compat.py``.
"""

from __future__ import annotations

import json

import pytest

from ovms_mp.errors import Code
from ovms_mp.front.tfs._proto.tensorflow_serving_pb2 import SignatureDefMap
from ovms_mp.front.tfs.metadata import (
    config_json,
    encode_metadata,
    encode_reloaded,
    encode_status,
    metadata_json,
    status_json,
)
from ovms_mp.model.dtypes import DType
from ovms_mp.model.status import State, VersionStatus
from ovms_mp.model.tensors import TensorSpec

IMAGE = TensorSpec.of("in", DType.FP32, ((1, 1), (3, 3), (0, -1), (100, 300)))
SCALAR = TensorSpec.of("out/y:0", DType.INT64, ())


def test_status_json() -> None:
    """Snake case, the version as text, enum names, and every default written."""
    assert json.loads(status_json([VersionStatus(1, State.AVAILABLE)])) == {
        "model_version_status": [
            {"version": "1", "state": "AVAILABLE", "status": {"error_code": "OK", "error_message": ""}}
        ]
    }


def test_status_json_of_nothing() -> None:
    """No version is an empty list, not an empty document."""
    assert json.loads(status_json([])) == {"model_version_status": []}


def test_status_json_keeps_order_and_errors() -> None:
    """A failed load is LOADING with its reason; END entries stay."""
    versions = [VersionStatus(3).failed('no "x" in ü'), VersionStatus(1, State.END)]
    first, second = json.loads(status_json(versions))["model_version_status"]
    assert first == {
        "version": "3",
        "state": "LOADING",
        "status": {"error_code": "UNKNOWN", "error_message": 'no "x" in ü'},
    }
    assert (second["version"], second["state"]) == ("1", "END")


@pytest.mark.parametrize("state", State)
def test_states(state: State) -> None:
    """Names and numbers are those of the proto."""
    (entry,) = encode_status([VersionStatus(2**63 - 1, state)]).model_version_status
    assert (entry.version, int(entry.state)) == (2**63 - 1, int(state))
    assert entry.HasField("status")


@pytest.mark.parametrize("code", Code)
def test_error_codes(code: Code) -> None:
    """Every canonical code has a row in TensorFlow's enum, of the same name."""
    status = VersionStatus(1, State.LOADING, code.number, "why")
    (entry,) = encode_status([status]).model_version_status
    assert int(entry.status.error_code) == code.number
    (document,) = json.loads(status_json([status]))["model_version_status"]
    assert document["status"] == {"error_code": code.name, "error_message": "why"}


def test_metadata_json() -> None:
    """Camel case but for the map's key, sizes as text, -1 where a dimension may vary, defaults written."""
    assert json.loads(metadata_json("m", 4, [IMAGE], [SCALAR])) == {
        "modelSpec": {"name": "m", "version": "4", "signatureName": ""},
        "metadata": {
            "signature_def": {
                "@type": "type.googleapis.com/tensorflow.serving.SignatureDefMap",
                "signatureDef": {
                    "serving_default": {
                        "inputs": {
                            "in": {
                                "name": "in",
                                "dtype": "DT_FLOAT",
                                "tensorShape": {
                                    "dim": [{"size": size, "name": ""} for size in ("1", "3", "-1", "-1")],
                                    "unknownRank": False,
                                },
                            }
                        },
                        "outputs": {
                            "out/y:0": {
                                "name": "out/y:0",
                                "dtype": "DT_INT64",
                                "tensorShape": {"dim": [], "unknownRank": False},
                            }
                        },
                        "methodName": "tensorflow/serving/predict",
                    }
                },
            }
        },
    }


@pytest.mark.parametrize("dtype", DType)
def test_metadata_dtypes(dtype: DType) -> None:
    """Inputs and outputs carry TensorFlow's number."""
    spec = TensorSpec.of("t", dtype, ((2, 2),))
    response = encode_metadata("m", 1, [spec], [spec])
    signatures = SignatureDefMap()
    assert response.metadata["signature_def"].Unpack(signatures)
    signature = signatures.signature_def["serving_default"]
    for infos in (signature.inputs, signature.outputs):
        assert int(infos["t"].dtype) == dtype.tf_number
        assert [dimension.size for dimension in infos["t"].tensor_shape.dim] == [2]


def test_metadata_is_deterministic() -> None:
    """The order of the specs does not show in the bytes of the packed signature."""
    one, other = (TensorSpec.of(name, DType.FP32, ()) for name in ("a", "b"))
    packed = [
        encode_metadata("m", 1, specs, []).metadata["signature_def"] for specs in ([one, other], [other, one])
    ]
    assert packed[0].value == packed[1].value


def test_a_message_without_an_error_goes_out_as_it_is() -> None:
    """An available version may have something to say: its files have changed, or its reload failed."""
    versions = [VersionStatus(1, State.AVAILABLE, 0, "files have changed")]
    (entry,) = encode_status(versions).model_version_status

    assert (entry.status.error_code, entry.status.error_message) == (0, "files have changed")
    assert json.loads(status_json(versions))["model_version_status"] == [
        {
            "version": "1",
            "state": "AVAILABLE",
            "status": {"error_code": "OK", "error_message": "files have changed"},
        }
    ]


def test_config_json_is_the_status_documents_by_name() -> None:
    models = {"b": [VersionStatus(2, State.AVAILABLE)], "a": [VersionStatus(1).failed("no")], "ü": []}
    document = json.loads(config_json(models))

    assert list(document) == ["b", "a", "ü"]
    assert document == {name: json.loads(status_json(versions)) for name, versions in models.items()}
    assert json.loads(config_json({})) == {}


def test_reloaded_has_its_status_written() -> None:
    response = encode_reloaded()

    assert response.HasField("status")
    assert (response.status.error_code, response.status.error_message) == (0, "")
