# SPDX-License-Identifier: Apache-2.0
"""Clients of the server, with nothing but NumPy: NumPy's arrays in, NumPy's arrays out.

:class:`~ovms_mp.client.sync.Client` is for threads, :class:`~ovms_mp.client.aio.AsyncClient` for asyncio; the URL says
what carries the calls. Both are in this module, as are the errors. Names of TensorFlow Serving's client
(``PredictionServiceStub``, ``make_tensor_proto``...; see :mod:`ovms_mp.client.stubs`) are here, too, and need
``grpcio`` and ``protobuf``. Everything is imported when it is asked for. No process of the server imports it.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ovms_mp.client.aio import AsyncClient
    from ovms_mp.client.calls import ModelMetadata, ModelState, TensorMetadata
    from ovms_mp.client.errors import (
        Cancelled,
        ClientError,
        DeadlineExceeded,
        Failed,
        InvalidRequest,
        NotFound,
        NotSent,
        Overloaded,
        Refused,
        Unavailable,
        Unsupported,
    )
    from ovms_mp.client.retries import Retries
    from ovms_mp.client.stubs import (
        DataType,
        GetModelMetadataRequest,
        GetModelMetadataResponse,
        GetModelStatusRequest,
        GetModelStatusResponse,
        ModelServiceStub,
        ModelSpec,
        PredictionServiceStub,
        PredictRequest,
        PredictResponse,
        ReloadConfigRequest,
        ReloadConfigResponse,
        SignatureDefMap,
        TensorProto,
        make_ndarray,
        make_tensor_proto,
    )
    from ovms_mp.client.sync import Client

_ERRORS = (
    "ClientError", "InvalidRequest", "NotFound", "Refused", "Overloaded", "Unavailable", "NotSent", "DeadlineExceeded",
    "Cancelled", "Unsupported", "Failed",
)  # fmt: skip
_STUBS = (
    "PredictionServiceStub", "ModelServiceStub", "make_tensor_proto", "make_ndarray", "PredictRequest",
    "PredictResponse", "GetModelMetadataRequest", "GetModelMetadataResponse", "GetModelStatusRequest",
    "GetModelStatusResponse", "ReloadConfigRequest", "ReloadConfigResponse", "SignatureDefMap", "ModelSpec", "DataType",
    "TensorProto",
)  # fmt: skip
_PLACES = {
    "Client": "sync",
    "AsyncClient": "aio",
    "Retries": "retries",
    **dict.fromkeys(("ModelMetadata", "ModelState", "TensorMetadata"), "calls"),
    **dict.fromkeys(_ERRORS, "errors"),
    **dict.fromkeys(_STUBS, "stubs"),
}

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
    place = _PLACES.get(name)
    if place is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    try:
        found: object = getattr(importlib.import_module(f"{__name__}.{place}"), name)
    except ModuleNotFoundError as error:
        if place != "stubs":
            raise
        raise ImportError(f"{__name__}.{name} needs `pip install grpcio protobuf` ({error})") from error
    globals()[name] = found
    return found
