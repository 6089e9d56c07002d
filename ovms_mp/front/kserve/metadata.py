# SPDX-License-Identifier: Apache-2.0
"""Answers about the server and its models as messages. They are rare, so the generated classes write them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ovms_mp.front.kserve import calls
from ovms_mp.front.kserve._proto import kserve_pb2 as kserve
from ovms_mp.front.kserve.datatypes import config_type, datatype, input_format

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ovms_mp.front.kserve.calls import ModelDescription
    from ovms_mp.model.tensors import TensorSpec


def server_metadata(extensions: Sequence[str]) -> kserve.ServerMetadataResponse:
    """Write what the server is."""
    return kserve.ServerMetadataResponse(
        name=calls.SERVER_NAME, version=calls.SERVER_VERSION, extensions=extensions
    )


def model_metadata(described: ModelDescription) -> kserve.ModelMetadataResponse:
    """Write a version's inputs and outputs; a dimension that may vary is -1."""
    route = described.route
    return kserve.ModelMetadataResponse(
        name=route.model_name,
        versions=[str(version) for version in described.versions],
        platform=calls.PLATFORM,
        inputs=[_tensor_metadata(spec) for spec in route.inputs],
        outputs=[_tensor_metadata(spec) for spec in route.outputs],
    )


def model_config(described: ModelDescription) -> kserve.ModelConfigResponse:
    """Write a version's configuration in Triton's words.

    ``max_batch_size`` is 0, which says that shapes are whole: the batch is their first dimension, not one before it.
    """
    route = described.route
    config = kserve.ModelConfig(name=route.model_name, platform=calls.BACKEND, backend=calls.BACKEND)
    for spec in route.inputs:
        config.input.add(
            name=spec.name, data_type=config_type(spec.dtype), format=input_format(spec), dims=spec.dims
        )
    for spec in route.outputs:
        config.output.add(name=spec.name, data_type=config_type(spec.dtype), dims=spec.dims)
    config.model_transaction_policy.decoupled = False
    return kserve.ModelConfigResponse(config=config)


def _tensor_metadata(spec: TensorSpec) -> kserve.ModelMetadataResponse.TensorMetadata:
    return kserve.ModelMetadataResponse.TensorMetadata(
        name=spec.name, datatype=datatype(spec.dtype), shape=spec.dims
    )
