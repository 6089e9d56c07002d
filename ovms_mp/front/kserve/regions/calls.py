# SPDX-License-Identifier: Apache-2.0
"""Calls that list, register and unregister clients' shared memory, before messages or JSON are made of what they give.

Memory of GPUs can be asked for by the same clients: there never is any.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ovms_mp.errors import MalformedPayload, UnsupportedOperation, shortened
from ovms_mp.front.kserve.regions.parameters import LARGEST
from ovms_mp.front.regions.region import identify
from ovms_mp.wire.changes import RegionRecord, RegisterRegion, UnregisterRegion

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ovms_mp.front.call_context import CallContext
    from ovms_mp.front.service import Service

STATUS, REGISTER, UNREGISTER = "Status", "Register", "Unregister"
SYSTEM, CUDA = "SystemSharedMemory", "CudaSharedMemory"
"""Names of methods, as gRPC has them, are one of these with one of those behind it."""
_LONGEST_KEY = 256
_LONGEST_SHOWN = 64


def system_status(service: Service, name: str) -> Sequence[RegionRecord]:
    """The region of a name, or without one all that have names in the system.

    Sealed ones are not listed, as a name is all that a request needs to read and write there.

    Raises:
        RegionNotFound: There is none of this name.
    """
    found = service.regions.records(name)
    return found if name else [record for record in found if not record.is_sealed]


async def register_system(
    service: Service, name: str, key: str, offset: int, byte_size: int, context: CallContext
) -> None:
    """Register a region; every front knows it when this returns.

    Args:
        service: Answers.
        name: What requests will call it.
        key: What the system calls the shared memory, as for shm_open(3).
        offset: Where the region begins in it.
        byte_size: How long it is.
        context: The call.

    Raises:
        UnsupportedOperation: Clients may register none.
        MalformedPayload: An argument is none that a region can have.
        RegionUnusable: The shared memory cannot be used, or the region is not inside it.
        RegionForbidden: The shared memory is somebody else's.
        RegionExists: The name is taken.
        OvmsError: It could not be done, or not in time.
    """
    service.regions.refuse_disallowed()
    if not name:
        raise MalformedPayload("'region name' is necessary to register system shared memory region")
    _refuse_no_text(name, "name")
    _refuse_no_text(key, "key")
    if len(key) > _LONGEST_KEY:
        raise MalformedPayload(f"a shared memory key of {len(key)} characters; at most {_LONGEST_KEY}")
    for what, number in (("offset", offset), ("byte_size", byte_size)):
        if number > LARGEST:
            raise MalformedPayload(f"{what} {number} is more than any file has, at most {LARGEST}")
    identity = identify(name, key, offset, byte_size)
    await service.change(RegisterRegion(RegionRecord(name, key, offset, byte_size, *identity)), context)


async def unregister_system(service: Service, name: str, context: CallContext) -> None:
    """Forget a region, or all without a name; requests that use it now are answered as if it was there.

    One that is not known is forgotten already.

    Raises:
        UnsupportedOperation: Clients may register none.
        OvmsError: It could not be done, or not in time.
    """
    service.regions.refuse_disallowed()
    _refuse_no_text(name, "name")
    await service.change(UnregisterRegion(name), context)


def register_cuda(name: str) -> None:
    """Refuse memory of a GPU.

    Raises:
        UnsupportedOperation: Always.
    """
    raise UnsupportedOperation(
        f"failed to register CUDA shared memory region: {shortened(repr(name), _LONGEST_SHOWN)}, GPUs not supported: "
        f"the server runs models by OpenVINO, which cannot open the memory of a CUDA device; use system shared memory"
    )


def _refuse_no_text(text: str, what: str) -> None:
    try:
        text.encode()
    except UnicodeEncodeError:
        raise MalformedPayload(f"the {what} {shortened(repr(text), _LONGEST_SHOWN)} is no text") from None
