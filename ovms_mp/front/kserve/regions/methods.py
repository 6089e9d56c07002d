# SPDX-License-Identifier: Apache-2.0
"""Methods on messages that list, register and unregister clients' shared memory."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ovms_mp.front.kserve._proto import kserve_pb2 as kserve
from ovms_mp.front.kserve.regions import calls
from ovms_mp.front.kserve.small_method import small_method
from ovms_mp.front.protobuf.parts import small_request

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ovms_mp.front.call_context import CallContext
    from ovms_mp.front.methods import Octets, Unary
    from ovms_mp.front.served_protocol import MessageParts
    from ovms_mp.front.service import Service


def methods(parts: MessageParts) -> Sequence[Unary]:
    """All methods."""
    system, cuda = SystemMethods(parts.service), CudaMethods()
    return (
        small_method(calls.SYSTEM + calls.STATUS, system.status),
        small_method(calls.SYSTEM + calls.REGISTER, system.register, changes_server=True),
        small_method(calls.SYSTEM + calls.UNREGISTER, system.unregister, changes_server=True),
        small_method(calls.CUDA + calls.STATUS, cuda.status),
        small_method(calls.CUDA + calls.REGISTER, cuda.register, changes_server=True),
        small_method(calls.CUDA + calls.UNREGISTER, cuda.unregister, changes_server=True),
    )


class SystemMethods:
    """System shared memory."""

    def __init__(self, service: Service) -> None:
        self._service = service

    async def status(self, request: Octets, context: CallContext) -> bytes:
        """SystemSharedMemoryStatusRequest to SystemSharedMemoryStatusResponse; answers at once."""
        message = small_request(request, kserve.SystemSharedMemoryStatusRequest)
        response = kserve.SystemSharedMemoryStatusResponse()
        for record in calls.system_status(self._service, message.name):
            region = response.regions[record.name]
            region.name = record.name
            region.key = record.key
            region.offset = record.offset
            region.byte_size = record.byte_size
        return response.SerializeToString()

    async def register(self, request: Octets, context: CallContext) -> bytes:
        """SystemSharedMemoryRegisterRequest to SystemSharedMemoryRegisterResponse."""
        message = small_request(request, kserve.SystemSharedMemoryRegisterRequest)
        await calls.register_system(
            self._service, message.name, message.key, message.offset, message.byte_size, context
        )
        return kserve.SystemSharedMemoryRegisterResponse().SerializeToString()

    async def unregister(self, request: Octets, context: CallContext) -> bytes:
        """SystemSharedMemoryUnregisterRequest to SystemSharedMemoryUnregisterResponse."""
        message = small_request(request, kserve.SystemSharedMemoryUnregisterRequest)
        await calls.unregister_system(self._service, message.name, context)
        return kserve.SystemSharedMemoryUnregisterResponse().SerializeToString()


class CudaMethods:
    """Memory of GPUs: none can be registered, and none is."""

    async def status(self, request: Octets, context: CallContext) -> bytes:
        """CudaSharedMemoryStatusRequest to CudaSharedMemoryStatusResponse."""
        small_request(request, kserve.CudaSharedMemoryStatusRequest)
        return kserve.CudaSharedMemoryStatusResponse().SerializeToString()

    async def register(self, request: Octets, context: CallContext) -> bytes:
        """Refuses a CudaSharedMemoryRegisterRequest.

        Raises:
            UnsupportedOperation: Always.
        """
        calls.register_cuda(small_request(request, kserve.CudaSharedMemoryRegisterRequest).name)
        return b""

    async def unregister(self, request: Octets, context: CallContext) -> bytes:
        """CudaSharedMemoryUnregisterRequest to CudaSharedMemoryUnregisterResponse."""
        small_request(request, kserve.CudaSharedMemoryUnregisterRequest)
        return kserve.CudaSharedMemoryUnregisterResponse().SerializeToString()
