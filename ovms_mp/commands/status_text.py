# SPDX-License-Identifier: Apache-2.0
"""The status document as text for people.

Fields that this release does not know are skipped, and those that are missing are left empty, so that it reads
the status of an older or newer server as well.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import msgspec

from ovms_mp.commands.printing import table
from ovms_mp.model.core_lists import core_text

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

_CELLS = 5
"""In a version's row, after its state."""
_WHOLE_FROM = 100.0
"""Requests a second; more have no decimals."""


class Worker(msgspec.Struct, frozen=True):
    """An inference worker."""

    name: str = ""
    device: str = ""
    pid: int = 0
    cores: tuple[int, ...] = ()


class Configuration(msgspec.Struct, frozen=True):
    """What is wrong with the configuration file."""

    refused_at: str = ""
    is_refused_whole: bool = True
    reason: str = ""


class Version(msgspec.Struct, frozen=True):
    """A version of a model."""

    version: int
    state: str = ""
    is_failed: bool = False
    is_being_loaded: bool = False
    next_try_in_s: float | None = None
    error_message: str = ""
    nireq: int = 0
    workers: int = 0
    requests: int = 0
    failures: int = 0
    cancelled: int = 0
    detail: str = ""


class Model(msgspec.Struct, frozen=True):
    """A model."""

    default_version: int = 0
    versions: tuple[Version, ...] = ()
    notes: tuple[str, ...] = ()
    is_unloaded: bool = False


class Status(msgspec.Struct, frozen=True):
    """A status document."""

    configuration: Configuration | None = None
    configuration_notes: tuple[str, ...] = ()
    plan: tuple[str, ...] = ()
    workers: tuple[Worker, ...] = ()
    models: dict[str, Model] = {}


def read_status(document: bytes) -> Status:
    """The document's meaning.

    Raises:
        msgspec.MsgspecError: It is no status document.
    """
    try:
        return msgspec.json.decode(document, type=Status)
    except RecursionError:
        raise msgspec.DecodeError("it is nested too deeply") from None


def status_text(document: bytes) -> str:
    """The status document as aligned lines.

    Raises:
        msgspec.MsgspecError: It is no status document.
    """
    return "\n".join(status_lines(read_status(document)))


def status_lines(status: Status, rates: Mapping[tuple[str, int], float] | None = None) -> list[str]:
    """The status as aligned lines.

    Args:
        status: Of one moment.
        rates: Requests a second by model and version, where that is known.
    """
    rates = rates or {}
    lines = [
        *_refusal_lines(status.configuration),
        *(f"configuration file: ! {note}" for note in status.configuration_notes),
        *status.plan,
    ]
    if status.workers:
        lines += ["", "workers"]
        lines += table(
            [
                (worker.name, worker.device, f"pid {worker.pid}", _cores(worker.cores))
                for worker in status.workers
            ]
        )
    for name, model in status.models.items():
        default = (
            f"default version {model.default_version}" if model.default_version else "no default version"
        )
        unloaded = ", unloaded by a client" if model.is_unloaded else ""
        lines += ["", f"{name}: {default}{unloaded}"]
        rows = table(
            [_version_row(version, rates.get((name, version.version))) for version in model.versions]
        )
        for row, version in zip(rows, model.versions, strict=True):
            lines.append(row)
            lines += [f"    {line}" for line in version.detail.splitlines()]
            lines += [f"    ! {line}" for line in version.error_message.splitlines()]
        lines += [f"  ! {note}" for note in model.notes]
    if not status.models:
        lines += ["", "no models"]
    while lines and not lines[0]:
        del lines[0]
    return lines


def _refusal_lines(found: Configuration | None) -> list[str]:
    if found is None:
        return []
    how = "refused; the one before it is followed" if found.is_refused_whole else "refused in part"
    at = found.refused_at.replace("T", " ")
    return [
        f"configuration file of {at}: {how}",
        *(f"    ! {line}" for line in found.reason.splitlines()),
        "",
    ]


def _version_row(version: Version, rate: float | None) -> tuple[str, ...]:
    state = "FAILED" if version.is_failed else version.state
    cells = []
    if version.workers:
        workers = f"{version.workers} worker{'s' if version.workers > 1 else ''}"
        requests = f"{version.nireq} infer request{'s' if version.nireq != 1 else ''}"
        cells = [workers, f"{requests} each" if version.workers > 1 else requests]
    cells += _request_cells(version)
    if rate is not None:
        cells.append(f"{rate:.1f}/s" if rate < _WHOLE_FROM else f"{rate:,.0f}/s")
    if version.is_failed and version.is_being_loaded:
        cells.append("being tried again")
    elif version.is_being_loaded and version.workers:
        cells.append("being reloaded")
    elif version.next_try_in_s is not None:
        cells.append(f"next try in {math.ceil(version.next_try_in_s)} s")
    return (str(version.version), state, *cells, *("",) * (_CELLS - len(cells)))


def _request_cells(version: Version) -> list[str]:
    """What became of the requests that there were; nothing before the first."""
    if not version.requests:
        return []
    parts = [
        f"{version.requests - version.failures - version.cancelled} answered",
        *([f"{version.failures} failed"] if version.failures else ()),
        *([f"{version.cancelled} cancelled"] if version.cancelled else ()),
    ]
    return [", ".join(parts)]


def _cores(cores: Sequence[int]) -> str:
    """Cores for people, e.g. ``cores 0-3,8``; empty where they are not known."""
    return f"core{'s' if len(cores) > 1 else ''} {core_text(cores)}" if cores else ""
