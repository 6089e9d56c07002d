# SPDX-License-Identifier: Apache-2.0
"""``ovms_mp status``: what a running server says of itself (``GET /v1/status``), for people.

Fields that this release does not know are skipped, and those that are missing are left empty, so that it reads
the status of an older or newer server as well.
"""

from __future__ import annotations

import http.client
import sys
import urllib.error
import urllib.request
from typing import TYPE_CHECKING

import msgspec

from ovms_mp.errors import ExitCode
from ovms_mp.log import printable, say

if TYPE_CHECKING:
    from collections.abc import Sequence

_DEADLINE_S = 5.0
_MAX_BYTES = 64 << 20


class _Worker(msgspec.Struct, frozen=True):
    name: str = ""
    device: str = ""
    pid: int = 0
    cores: tuple[int, ...] = ()


class _Version(msgspec.Struct, frozen=True):
    version: int
    state: str = ""
    error_message: str = ""
    nireq: int = 0
    workers: int = 0
    detail: str = ""


class _Model(msgspec.Struct, frozen=True):
    default_version: int = 0
    versions: tuple[_Version, ...] = ()


class _Status(msgspec.Struct, frozen=True):
    plan: tuple[str, ...] = ()
    workers: tuple[_Worker, ...] = ()
    models: dict[str, _Model] = {}


def run_status(host: str, port: int) -> int:
    """Ask the server and print what it says; the exit code."""
    url = f"http://{f'[{host}]' if ':' in host else host}:{port}/v1/status"
    # A proxy that the environment names is for the world outside.
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(url, timeout=_DEADLINE_S) as answer:
            document = answer.read(_MAX_BYTES)
        text = "\n".join(printable(line) for line in status_text(document).split("\n"))
    except urllib.error.HTTPError as error:
        error.close()
        return _failed(f"{url} answers {error.code}: no ovms_mp of this release listens there")
    except msgspec.MsgspecError as error:
        return _failed(f"{url} answers something else than a status: {error}")
    except (OSError, ValueError, http.client.HTTPException) as error:
        # URLError and a deadline are OSErrors; a host that makes no URL, or no HTTP in the answer, are the others.
        reason = getattr(error, "reason", error)
        return _failed(f"nothing answers at {url} ({reason}); give the server's --rest_port and --host")
    sys.stdout.write(text + "\n")
    return ExitCode.CLEAN


def status_text(document: bytes) -> str:
    """The status document as aligned lines.

    Raises:
        msgspec.MsgspecError: It is no status document.
    """
    status = msgspec.json.decode(document, type=_Status)
    lines = list(status.plan)
    if status.workers:
        lines += ["", "workers"]
        lines += _table(
            [
                (worker.name, worker.device, f"pid {worker.pid}", _cores(worker.cores))
                for worker in status.workers
            ]
        )
    for name, model in status.models.items():
        default = (
            f"default version {model.default_version}" if model.default_version else "no default version"
        )
        lines += ["", f"{name}: {default}"]
        rows = _table([_version_row(version) for version in model.versions])
        for row, version in zip(rows, model.versions, strict=True):
            lines.append(row)
            lines += [f"    {line}" for line in version.detail.splitlines()]
            lines += [f"    ! {line}" for line in version.error_message.splitlines()]
    if not status.models:
        lines += ["", "no models"]
    return "\n".join(lines).strip("\n")


def _version_row(version: _Version) -> tuple[str, ...]:
    if not version.workers:
        return (str(version.version), version.state, "", "")
    workers = f"{version.workers} worker{'s' if version.workers > 1 else ''}"
    return (str(version.version), version.state, workers, f"{version.nireq} infer requests each")


def _cores(cores: Sequence[int]) -> str:
    """Cores with runs drawn together: ``cores 0-3,8``; empty where they are not known."""
    runs: list[list[int]] = []
    for core in sorted(cores):
        if runs and core == runs[-1][1] + 1:
            runs[-1][1] = core
        else:
            runs.append([core, core])
    if not runs:
        return ""
    text = ",".join(str(first) if first == last else f"{first}-{last}" for first, last in runs)
    return f"cores {text}" if len(cores) > 1 else f"core {text}"


def _table(rows: Sequence[tuple[str, ...]]) -> list[str]:
    """Rows with aligned columns, indented by two."""
    widths = [max(len(cell) for cell in column) for column in zip(*rows, strict=True)]
    return [
        "  " + "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in rows
    ]


def _failed(message: str) -> int:
    say(printable(f"ovms_mp: error: {message}"))
    return ExitCode.BOOT_FAILED
