# SPDX-License-Identifier: Apache-2.0
"""The TensorFlow Serving REST calls on bytes: decode, call the service, encode. Knows nothing of falcon."""

from __future__ import annotations

import asyncio
import re
from typing import TYPE_CHECKING

from ovms_mp.errors import ModelNotFound, UnsupportedOperation, VersionNotFound
from ovms_mp.front.rest.tfs_json import decode_predict, encode_predict
from ovms_mp.front.rest.tfs_json_long import LONG_BYTES, decode_long
from ovms_mp.front.routing import not_found_text
from ovms_mp.front.tfs.metadata import metadata_json, status_json

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ovms_mp.front.budget import BodyShare
    from ovms_mp.front.rest.tfs_json import JsonFormat
    from ovms_mp.front.routing import VersionRoute
    from ovms_mp.front.service import Service
    from ovms_mp.front.tensors import ResultTensor

_LARGE_BYTES = 1 << 20
"""Outputs beyond this take several milliseconds to become text."""
_DIGITS = re.compile(r"[0-9]{1,19}")


async def predict(
    service: Service, name: str, version: str, body: bytes | bytearray, share: BodyShare, deadline_ns: int
) -> bytes:
    """Answer ``POST /v1/models/{name}[/versions/{version}]:predict``.

    Raises:
        OvmsError: One of the failures in :mod:`ovms_mp.errors`; the model and version are looked up before
            the body is read.
    """
    number = version_number(name, version)
    # Looked up again: the version may have changed hands while the body was on its way.
    route = await service.routable(name, number)
    if len(body) < LONG_BYTES:
        form, given = decode_predict(body, route.inputs)
    else:
        form, given = await decode_long(body, route.inputs, share)

    def encode(_: VersionRoute, outputs: Sequence[ResultTensor]) -> bytes | asyncio.Future[bytes]:
        if sum([output.data.nbytes for output in outputs]) > _LARGE_BYTES:
            return _encode_aside(service, form, outputs)
        return encode_predict(form, outputs)

    answer = await service.predict(name, number, given, (), deadline_ns, encode)
    # A thread goes on when its client gives up; what it reads must not be given to others before it has ended.
    return answer if isinstance(answer, bytes) else await asyncio.shield(answer)


def _encode_aside(
    service: Service, form: JsonFormat, outputs: Sequence[ResultTensor]
) -> asyncio.Future[bytes]:
    """Encode in a thread, so that others are answered meanwhile; the leases are held until it has ended."""
    holds = [service.hold(output.lease) for output in outputs if output.lease is not None]
    future = asyncio.get_running_loop().run_in_executor(
        None, encode_predict, form, outputs, service.max_message_bytes
    )

    def let_go(ended: asyncio.Future[bytes]) -> None:
        if not ended.cancelled():
            ended.exception()  # The client may have left; nobody need be told then.
        for release in holds:
            release()

    future.add_done_callback(let_go)
    return future


def status(service: Service, name: str, version: str) -> bytes:
    """Answer ``GET /v1/models/{name}[/versions/{version}]``."""
    return status_json(service.statuses(name, version_number(name, version)))


def metadata(service: Service, name: str, version: str) -> bytes:
    """Answer ``GET /v1/models/{name}[/versions/{version}]/metadata``."""
    route = service.described(name, version_number(name, version))
    return metadata_json(route.model_name, route.version, route.inputs, route.outputs)


def version_number(name: str, text: str) -> int:
    """The version in a URL; empty or 0 is the default one.

    Raises:
        VersionNotFound: It is no number that a version could have.
    """
    if not text:
        return 0
    if not _DIGITS.fullmatch(text):
        raise VersionNotFound(f"{not_found_text(name, 0)}; version {text!r} is not a positive integer")
    return int(text)


def label_refusal(label: str) -> UnsupportedOperation:
    """Labels cannot be assigned yet; ignoring one would answer from a version that the client did not mean."""
    return UnsupportedOperation(f"label {label!r}: labels are not supported; name a version or none")


def unknown_call(what: str) -> ModelNotFound:
    """A path below ``/v1/models`` that names no call of ours."""
    return ModelNotFound(f"Requested REST resource not found: {what}")
