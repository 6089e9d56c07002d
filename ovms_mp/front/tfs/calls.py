# SPDX-License-Identifier: Apache-2.0
"""TensorFlow Serving's calls on the service, before messages or JSON are made of what they give.

Predict is the service's own, once its label has been refused. Both forms of the API go through here, so that they
refuse the same things. What reads and writes messages is loaded by gRPC fronts only (``methods.py``), and what reads
and writes JSON by REST fronts only (``rest.py``).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ovms_mp.errors import UnsupportedOperation
from ovms_mp.front.metrics.calls import note_model, note_version

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ovms_mp.front.call_context import CallContext
    from ovms_mp.front.routing import VersionRoute
    from ovms_mp.front.service import Service
    from ovms_mp.model.status import VersionStatus

PROTOCOL = "tfs"
PREDICT, STATUS, METADATA = "Predict", "GetModelStatus", "GetModelMetadata"
"""Names of methods, as gRPC has them; the REST calls that do the same have them, too."""


def status(
    service: Service, context: CallContext, name: str, version: int, label: str
) -> Sequence[VersionStatus]:
    """The states of a model's versions, or of one."""
    refuse_label(label)
    note_model(service.table, context, name)
    return service.statuses(name, version)


def metadata(service: Service, context: CallContext, name: str, version: int, label: str) -> VersionRoute:
    """A version with its inputs and outputs."""
    refuse_label(label)
    note_version(service.table, context, name, version)
    return service.described(name, version)


def refuse_label(label: str) -> None:
    """Labels cannot be assigned yet; ignoring one would answer from a version that the client did not mean.

    Raises:
        UnsupportedOperation: There is one.
    """
    if label:
        raise UnsupportedOperation(
            f"version label {label!r}: labels are not supported; name a version or none"
        )
