# SPDX-License-Identifier: Apache-2.0
"""Asks a server by grpcio-health-checking and grpcio-reflection; writes what it hears as one JSON document.

In a process of its own: these libraries register the same message names as the server's code.
"""

from __future__ import annotations

import json
import sys

import grpc
from google.protobuf.descriptor_pool import DescriptorPool
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase

WITHIN_S = 30.0
SYMBOLS = (
    "tensorflow.serving.PredictionService",
    "tensorflow.serving.PredictRequest",
    "tensorflow.TensorProto",
    "inference.GRPCInferenceService.ModelInfer",
    "inference.ModelInferRequest.InferInputTensor",
    "grpc.health.v1.Health",
    "grpc.reflection.v1.ServerReflection",
)


def check(stub: health_pb2_grpc.HealthStub, name: str) -> str:
    """A name's status, or the code of the failure."""
    try:
        answer = stub.Check(health_pb2.HealthCheckRequest(service=name), timeout=WITHIN_S)
    except grpc.RpcError as error:
        return str(error.code().name)
    return str(health_pb2.HealthCheckResponse.ServingStatus.Name(answer.status))


def first_watched(stub: health_pb2_grpc.HealthStub, name: str) -> str:
    """The first status that a watcher is told."""
    call = stub.Watch(health_pb2.HealthCheckRequest(service=name), timeout=WITHIN_S)
    status = next(call).status
    call.cancel()
    return str(health_pb2.HealthCheckResponse.ServingStatus.Name(status))


def main() -> None:
    """Ask the server at the address that the first argument is, of the names in the others."""
    address, *names = sys.argv[1:]
    with grpc.insecure_channel(address) as channel:
        stub = health_pb2_grpc.HealthStub(channel)
        listed = stub.List(health_pb2.HealthListRequest(), timeout=WITHIN_S).statuses
        database = ProtoReflectionDescriptorDatabase(channel)
        pool = DescriptorPool(database)
        predict = pool.FindServiceByName("tensorflow.serving.PredictionService").methods_by_name["Predict"]
        heard = {
            "check": {name: check(stub, name) for name in names},
            "watch": {name: first_watched(stub, name) for name in names},
            "list": {
                name: health_pb2.HealthCheckResponse.ServingStatus.Name(entry.status)
                for name, entry in listed.items()
            },
            "services": sorted(database.get_services()),
            "files": {symbol: database.FindFileContainingSymbol(symbol).name for symbol in SYMBOLS},
            "predict": [predict.input_type.full_name, predict.output_type.full_name],
        }
        for missing in ("not.there", "google.protobuf.FileDescriptorSet"):
            try:
                database.FindFileContainingSymbol(missing)
            except KeyError:
                heard[missing] = "missing"
    sys.stdout.write(json.dumps(heard))


if __name__ == "__main__":
    main()
