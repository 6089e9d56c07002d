# SPDX-License-Identifier: Apache-2.0
"""Clients of the server, with nothing but NumPy: NumPy's arrays in, NumPy's arrays out.

:class:`~ovms_mp.client.sync.Client` is for threads, :class:`~ovms_mp.client.aio.AsyncClient` for asyncio; the URL says
what carries the calls. Both are in this module, as are the errors. Names of TensorFlow Serving's client
(``PredictionServiceStub``, ``make_tensor_proto``...; see :mod:`ovms_mp.client.stubs`) are here, too, and need
``grpcio`` and ``protobuf``. All but errors is imported when it is asked for. No process of the server imports it.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

from ovms_mp.client.errors import (
    Cancelled,
    ClientError,
    DeadlineExceeded,
    Failed,
    InvalidRequest,
    NotFound,
    NotSecure,
    NotSent,
    Overloaded,
    Refused,
    Unavailable,
    Unsupported,
)

if TYPE_CHECKING:
    from ovms_mp.client.aio import AsyncClient
    from ovms_mp.client.calls import ModelMetadata, ModelState, TensorMetadata
    from ovms_mp.client.retries import Retries
    from ovms_mp.client.stubs import (
        ModelServiceStub,
        PredictionServiceStub,
        make_ndarray,
        make_tensor_proto,
    )
    from ovms_mp.client.sync import Client
    from ovms_mp.front.tfs._proto.tensorflow_framework_pb2 import DataType, TensorProto
    from ovms_mp.front.tfs._proto.tensorflow_serving_pb2 import (
        GetModelMetadataRequest,
        GetModelMetadataResponse,
        GetModelStatusRequest,
        GetModelStatusResponse,
        ModelSpec,
        PredictRequest,
        PredictResponse,
        ReloadConfigRequest,
        ReloadConfigResponse,
        SignatureDefMap,
    )

_PLACES = {
    "Client": "ovms_mp.client.sync",
    "AsyncClient": "ovms_mp.client.aio",
    "Retries": "ovms_mp.client.retries",
    **dict.fromkeys(("ModelMetadata", "ModelState", "TensorMetadata"), "ovms_mp.client.calls"),
}
_TENSORFLOWS = (
    "ovms_mp.client.stubs",
    "ovms_mp.front.tfs._proto.tensorflow_serving_pb2",
    "ovms_mp.front.tfs._proto.tensorflow_framework_pb2",
)
"""Where all other names of ``__all__`` are."""

__all__ = [
    "Client",
    "AsyncClient",
    "Retries",
    "ModelMetadata",
    "ModelState",
    "TensorMetadata",
    "ClientError",
    "InvalidRequest",
    "NotFound",
    "Refused",
    "Overloaded",
    "Unavailable",
    "NotSent",
    "NotSecure",
    "DeadlineExceeded",
    "Cancelled",
    "Unsupported",
    "Failed",
    "PredictionServiceStub",
    "ModelServiceStub",
    "make_tensor_proto",
    "make_ndarray",
    "PredictRequest",
    "PredictResponse",
    "GetModelMetadataRequest",
    "GetModelMetadataResponse",
    "GetModelStatusRequest",
    "GetModelStatusResponse",
    "ReloadConfigRequest",
    "ReloadConfigResponse",
    "SignatureDefMap",
    "ModelSpec",
    "DataType",
    "TensorProto",
]


def __getattr__(name: str) -> object:
    """Import what a name is in.

    Raises:
        AttributeError: There is no such name.
        ImportError: It needs a package that is not installed; the message says how to install it.
    """
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    place = _PLACES.get(name)
    try:
        modules = map(importlib.import_module, (place,) if place else _TENSORFLOWS)
        found: object = next(getattr(module, name) for module in modules if hasattr(module, name))
    except ModuleNotFoundError as error:
        if place:
            raise
        raise ImportError(f"{__name__}.{name} needs `pip install grpcio protobuf` ({error})") from error
    globals()[name] = found
    return found


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
