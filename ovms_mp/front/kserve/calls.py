# SPDX-License-Identifier: Apache-2.0
"""KServe's calls on the service, before messages or JSON are made of what they give.

Both forms of the API go through here, so that they refuse the same things. What reads and writes messages is loaded by
gRPC fronts only (``methods.py``), and what reads and writes JSON by REST fronts only (``rest.py``).
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ovms_mp import __version__
from ovms_mp.errors import MalformedPayload, ModelNotFound, shortened
from ovms_mp.front.metrics.calls import note_model, note_version
from ovms_mp.front.routing import not_found_text
from ovms_mp.model.status import State

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ovms_mp.front.call_context import CallContext
    from ovms_mp.front.routing import VersionRoute
    from ovms_mp.front.service import Service
    from ovms_mp.front.tensors import ResultTensor

PROTOCOL = "kserve"
INFER, STREAM = "ModelInfer", "ModelStreamInfer"
METADATA, CONFIG = "ModelMetadata", "ModelConfig"
SERVER_METADATA, SERVER_LIVE, SERVER_READY, MODEL_READY = (
    "ServerMetadata",
    "ServerLive",
    "ServerReady",
    "ModelReady",
)
"""Names of methods, as gRPC has them; the REST calls that do the same have them, too."""

SERVER_NAME = "ovms_mp"
SERVER_VERSION = __version__
EXTENSIONS: tuple[str, ...] = (
    "classification",
    "schedule_policy",
    "model_configuration",
    "binary_tensor_data",
    "parameters",
    "statistics",
    "model_repository",
    "model_repository(unload_dependents)",
    "logging",
)
"""Of the protocol, in the words of Triton's documents, which clients look for: those that are there."""
SHARED_MEMORY = "system_shared_memory"
"""One more, where it is allowed."""
PLATFORM = "OpenVINO"
BACKEND = "openvino"

_DIGITS = re.compile("[0-9]{1,18}")
"""Of a version; no longer number is one that a directory could have."""
_LONGEST_SHOWN = 64


@dataclass(frozen=True, slots=True)
class ModelDescription:
    """What metadata and configuration say of a model.

    Attributes:
        versions: Those that are served, in rising order.
        route: The version that was asked for, with its inputs and outputs.
    """

    versions: Sequence[int]
    route: VersionRoute


def version_number(text: str) -> int:
    """The version that a request names; empty or 0 is the default one.

    Raises:
        MalformedPayload: It is no number that a version could have. The words are those of the OVMS.
    """
    if not text:
        return 0
    if not _DIGITS.fullmatch(text):
        raise MalformedPayload(
            f"invalid model version format in request: {shortened(text, _LONGEST_SHOWN)!r} is not a positive integer; "
            f"leave it empty for the default version"
        )
    return int(text)


def extensions(service: Service) -> tuple[str, ...]:
    """The extensions of the protocol that a client can use here."""
    return (*EXTENSIONS, SHARED_MEMORY) if service.regions.is_allowed else EXTENSIONS


def server_is_live(service: Service) -> bool:
    """Whether starting the server again would not help."""
    return service.readiness.is_live


def server_is_ready(service: Service) -> bool:
    """Whether requests should come here: what --ready_when asks for is there, and the server is not stopping."""
    return service.readiness.is_ready


def model_is_ready(service: Service, context: CallContext, name: str, version: str) -> bool:
    """Whether a version, or the default one, can answer requests.

    Raises:
        MalformedPayload: The version is no number.
        ModelNotFound: No such model.
        VersionNotFound: No such version.
    """
    number = version_number(version)
    try:
        note_model(service.table, context, name)
        return service.readiness.is_model_ready(name, number)
    except ModelNotFound:
        # Anybody may ask, and whoever has no key must not learn what the models are called.
        raise ModelNotFound(f"{not_found_text(name, number)}; no model has this name") from None


def described(service: Service, context: CallContext, name: str, version: str) -> ModelDescription:
    """A model with the inputs and outputs of a version, or of the default one.

    Raises:
        MalformedPayload: The version is no number.
        ModelNotFound: No such model.
        VersionNotFound: No such version.
        ModelNotReady: Its inputs and outputs are not known yet.
    """
    note_version(service.table, context, name, version_number(version))
    route = service.described(name, version_number(version))
    versions = service.table.model(name).versions
    served = sorted(number for number, other in versions.items() if other.status.state is State.AVAILABLE)
    return ModelDescription(served, route)


def in_order(outputs: Sequence[ResultTensor], names: Sequence[str]) -> list[ResultTensor]:
    """Outputs as they were asked for; one that was asked for twice once."""
    by_name = {output.name: output for output in outputs}
    return [by_name[name] for name in dict.fromkeys(names)]
