# SPDX-License-Identifier: Apache-2.0
"""Our messages are a subset of TensorFlow Serving's, by name, number and type; their JSON parses strictly.

One process cannot hold both sets of descriptors, so each side runs in a process of its own.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]

OURS = """
from ovms_mp.front.tfs._proto import tensorflow_serving_pb2 as serving
"""

# Importing tensorflow takes 4 s; of all that, its generated messages need the package's directory alone.
THEIRS = """
import importlib.util, sys, types
package = types.ModuleType("tensorflow")
package.__path__ = list(importlib.util.find_spec("tensorflow").submodule_search_locations)
sys.modules["tensorflow"] = package
from tensorflow_serving.apis import get_model_metadata_pb2, get_model_status_pb2
from tensorflow_serving.apis import model_service_pb2, prediction_service_pb2
"""

DUMP = """
import json
from google.protobuf import descriptor_pool
tables = {}

def visit_enum(enum):
    tables[enum.full_name] = {value.name: value.number for value in enum.values}

def visit_message(message):
    if message.full_name in tables or message.full_name.startswith("google."):
        return
    table = tables[message.full_name] = {}
    for field in message.fields:
        kind = field.message_type or field.enum_type
        table[field.name] = {
            "number": field.number, "type": field.type, "of": kind and kind.full_name,
            "repeated": field.is_repeated, "packed": field.is_packed, "json": field.json_name,
            "oneof": field.containing_oneof and field.containing_oneof.name,
            "presence": field.has_presence, "map": message.GetOptions().map_entry}
        if field.message_type:
            visit_message(field.message_type)
        if field.enum_type:
            visit_enum(field.enum_type)

for name in ["PredictionService", "ModelService"]:
    service = descriptor_pool.Default().FindServiceByName("tensorflow.serving." + name)
    table = tables[service.full_name] = {}
    for method in service.methods:
        table[method.name] = [method.input_type.full_name, method.output_type.full_name,
                              method.client_streaming, method.server_streaming]
        visit_message(method.input_type)
        visit_message(method.output_type)
visit_message(descriptor_pool.Default().FindMessageTypeByName("tensorflow.serving.SignatureDefMap"))
print(json.dumps(tables))
"""

WRITE_JSON = """
import json
from ovms_mp.front.tfs.metadata import encode_metadata, encode_status, metadata_json, status_json
from ovms_mp.model.dtypes import DType
from ovms_mp.model.status import State, VersionStatus
from ovms_mp.model.tensors import TensorSpec
versions = [VersionStatus(1, State.AVAILABLE), VersionStatus(2).failed("no such file")]
specs = [TensorSpec.of(dtype.name, dtype, ((1, 1), (0, -1), (0, 0))) for dtype in DType]
specs.append(TensorSpec.of("scalar", DType.FP32, ()))
metadata = ("m", 3, specs, specs[:1])
print(json.dumps({
    "GetModelStatusResponse": [
        status_json(versions).decode(), encode_status(versions).SerializeToString().hex()],
    "GetModelMetadataResponse": [
        metadata_json(*metadata).decode(), encode_metadata(*metadata).SerializeToString().hex()],
}))
"""

PARSE_JSON = """
import json
from google.protobuf import descriptor_pool, json_format, message_factory
for name, (document, binary) in json.load(sys.stdin).items():
    descriptor = descriptor_pool.Default().FindMessageTypeByName("tensorflow.serving." + name)
    message_class = message_factory.GetMessageClass(descriptor)
    from_json = json_format.Parse(document, message_class(), ignore_unknown_fields=False)
    from_binary = message_class.FromString(bytes.fromhex(binary))
    # Maps have no order, so the bytes of an Any that holds them are made comparable first.
    for message in (from_json, from_binary):
        for value in getattr(message, "metadata", {}).values():
            signatures = get_model_metadata_pb2.SignatureDefMap()
            assert value.Unpack(signatures)
            value.value = signatures.SerializeToString(deterministic=True)
    assert from_json == from_binary, (from_json, from_binary)
    print(name, from_json.ByteSize())
"""


def run(code: str, standard_input: str = "") -> str:
    """Run a script from the checkout's root and return what it printed."""
    done = subprocess.run(
        [sys.executable, "-c", code],
        input=standard_input,
        capture_output=True,
        text=True,
        cwd=ROOT,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_descriptors_are_a_subset() -> None:
    """Every message, field, enum value and method of ours exists there with all the same properties."""
    ours = json.loads(run(OURS + DUMP))
    theirs = json.loads(run(THEIRS + DUMP))
    assert {"tensorflow.TensorProto", "tensorflow.error.Code", "tensorflow.SignatureDef"} < set(ours)
    assert set(ours) <= set(theirs)
    for full_name, table in ours.items():
        expected = {name: theirs[full_name].get(name, "missing there") for name in table}
        assert table == expected, full_name


def test_json_documents_parse_strictly() -> None:
    """TensorFlow Serving's classes read our JSON without unknown fields, to the same message as our bytes."""
    parsed = run(THEIRS + PARSE_JSON, run(WRITE_JSON))
    sizes = dict(line.split() for line in parsed.splitlines())
    assert int(sizes["GetModelStatusResponse"]) > 20
    assert int(sizes["GetModelMetadataResponse"]) > 200
