# SPDX-License-Identifier: Apache-2.0
"""What the server says of itself and of models, as JSON. The keys are those of the protocol and of Triton."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeAlias

import orjson

from ovms_mp.front.kserve.calls import BACKEND, PLATFORM, SERVER_NAME, SERVER_VERSION
from ovms_mp.front.kserve.datatypes import config_type, datatype, input_format

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from ovms_mp.front.kserve.calls import ModelDescription
    from ovms_mp.model.tensors import TensorSpec

    Json: TypeAlias = str | int | float | bool | list["Json"] | dict[str, "Json"]


def server_json(extensions: Sequence[str]) -> bytes:
    """Write the answer of ``GET /v2``."""
    return orjson.dumps({"name": SERVER_NAME, "version": SERVER_VERSION, "extensions": extensions})


def models_json(names: Iterable[str]) -> bytes:
    """Write the answer of ``GET /v2/models``."""
    return orjson.dumps({"models": list(names)})


def metadata_json(model: ModelDescription) -> bytes:
    """Write a model's metadata; a dimension that may vary is -1. ``rt_info``, as OVMS has it, if the file has some."""
    route = model.route
    document = {
        "name": route.model_name,
        "versions": [str(version) for version in model.versions],
        "platform": PLATFORM,
        "inputs": [_tensor(spec) for spec in route.inputs],
        "outputs": [_tensor(spec) for spec in route.outputs],
    }
    return orjson.dumps(document | {"rt_info": route.rt_info} if route.rt_info else document)


def config_json(model: ModelDescription) -> bytes:
    """Write a model's configuration as Triton does.

    Shapes are whole and ``max_batch_size`` is 0, so that clients take them as they are.
    """
    route = model.route
    return orjson.dumps(
        {
            "name": route.model_name,
            "platform": BACKEND,
            "backend": BACKEND,
            "max_batch_size": 0,
            "input": [_config(spec) | {"format": input_format(spec)} for spec in route.inputs],
            "output": [_config(spec) for spec in route.outputs],
            "model_transaction_policy": {"decoupled": False},
        }
    )


def _tensor(spec: TensorSpec) -> dict[str, Json]:
    return {"name": spec.name, "datatype": datatype(spec.dtype), "shape": list(spec.dims)}


def _config(spec: TensorSpec) -> dict[str, Json]:
    return {"name": spec.name, "data_type": config_type(spec.dtype), "dims": list(spec.dims)}
