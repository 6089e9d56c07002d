# SPDX-License-Identifier: Apache-2.0
"""The model repository's calls on the service; both forms of the API go through here."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from ovms_mp.errors import MalformedPayload, UnsupportedOperation, shortened
from ovms_mp.model.status import State
from ovms_mp.wire.changes import LoadNamed, UnloadNamed

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from ovms_mp.front.call_context import CallContext
    from ovms_mp.front.routing import ModelRoute
    from ovms_mp.front.service import Service
    from ovms_mp.model.status import VersionStatus

INDEX, LOAD, UNLOAD = "RepositoryIndex", "RepositoryModelLoad", "RepositoryModelUnload"
"""Names of methods, as gRPC has them; the REST calls that do the same have them, too."""

READY, LOADING, UNLOADING, UNAVAILABLE = "READY", "LOADING", "UNLOADING", "UNAVAILABLE"
_STATES = {
    State.START: LOADING,
    State.LOADING: LOADING,
    State.AVAILABLE: READY,
    State.UNLOADING: UNLOADING,
    State.END: UNAVAILABLE,
}
_UNLOAD_DEPENDENTS = "unload_dependents"
_LONGEST_SHOWN = 64


@dataclass(frozen=True, slots=True)
class IndexEntry:
    """A model's version in the index.

    Attributes:
        version: Its number; empty for a model of which none was ever seen.
        state: In the protocol's words.
        reason: What is to know about it; empty for one that is served as it should be.
    """

    name: str
    version: str
    state: str
    reason: str


def index(service: Service, repository_name: str, *, only_ready: bool) -> list[IndexEntry]:
    """All versions that were ever seen, or those that are served.

    Raises:
        UnsupportedOperation: A repository is named.
    """
    _refuse_repository(repository_name)
    entries = [entry for model in service.table.models() for entry in _entries(model)]
    return [entry for entry in entries if not only_ready or entry.state == READY]


def _entries(model: ModelRoute) -> Iterator[IndexEntry]:
    unloaded = "unloaded by a client" if model.is_unloaded else ""
    if not model.versions:
        yield IndexEntry(model.name, "", UNAVAILABLE, unloaded or "it has no version")
    for number, route in sorted(model.versions.items()):
        status = route.status
        yield IndexEntry(model.name, str(number), _state(status), _reason(status, unloaded))


def _state(status: VersionStatus) -> str:
    is_failed = bool(status.error_code) and status.state is State.LOADING
    return UNAVAILABLE if is_failed else _STATES[status.state]


def _reason(status: VersionStatus, unloaded: str) -> str:
    if status.error_message or status.state is not State.END:
        return status.error_message
    return unloaded or "unloaded"


async def load(
    service: Service, name: str, repository_name: str, parameters: Mapping[str, object], context: CallContext
) -> None:
    """Look at a model's directory now, and return when what its version policy wants is served.

    Raises:
        UnsupportedOperation: A repository is named, or a configuration or files of the client's.
        MalformedPayload: A parameter is not known.
        ModelNotFound: No such model.
        ModelLoadFailed: It is not served as wanted.
        OvmsError: See :meth:`~ovms_mp.front.service.Service.change`.
    """
    _refuse_repository(repository_name)
    shown = shortened(name, _LONGEST_SHOWN)
    for key in parameters:
        if key == "config" or key.startswith("file:"):
            what = "a configuration" if key == "config" else f"a file ({shortened(key, _LONGEST_SHOWN)})"
            raise UnsupportedOperation(
                f"failed to load '{shown}', {what} in the request is not supported; change the server's configuration "
                f"file and the model's directory, and leave the parameters empty"
            )
        _refuse_parameter("load", shown, key, "")
    await service.change(LoadNamed(name), context)


async def unload(
    service: Service, name: str, repository_name: str, parameters: Mapping[str, object], context: CallContext
) -> None:
    """Serve nothing of a model any more; returns when it has answered what it had and is gone.

    ``unload_dependents`` means nothing here, as no model depends on another.

    Raises:
        UnsupportedOperation: A repository is named.
        MalformedPayload: A parameter is not known, or not of its type.
        ModelNotFound: No such model.
        OvmsError: See :meth:`~ovms_mp.front.service.Service.change`.
    """
    _refuse_repository(repository_name)
    shown = shortened(name, _LONGEST_SHOWN)
    for key, value in parameters.items():
        if key != _UNLOAD_DEPENDENTS:
            _refuse_parameter("unload", shown, key, _UNLOAD_DEPENDENTS)
        if not isinstance(value, bool):
            raise MalformedPayload(f"failed to unload '{shown}', parameter {_UNLOAD_DEPENDENTS!r} is no bool")
    await service.change(UnloadNamed(name), context)


def _refuse_parameter(verb: str, name: str, key: str, known: str) -> None:
    raise MalformedPayload(
        f"failed to {verb} '{name}', parameter {shortened(key, _LONGEST_SHOWN)!r} is unknown; accepted: "
        f"{known or 'none'}"
    )


def _refuse_repository(name: str) -> None:
    if name:
        raise UnsupportedOperation(
            f"'repository_name' specification is not supported ({shortened(name, _LONGEST_SHOWN)!r}); leave it empty"
        )
