# SPDX-License-Identifier: Apache-2.0
"""``ovms_mp models``: what a server serves, with inputs and outputs in short.

Names, versions and states come from ``GET /v1/config``, which every OVMS of the C++ generations has, too, inputs and
outputs from KServe's model metadata. A server of this machine without a REST port is asked by its status socket, which
does not know inputs and outputs.
"""

from __future__ import annotations

import sys
import urllib.parse
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

import msgspec

from ovms_mp.codes import ExitCode
from ovms_mp.commands.http_target import NoAnswer, Target, target_of_url
from ovms_mp.commands.printing import failed, show, table
from ovms_mp.commands.status import add_place_flags, read_source
from ovms_mp.commands.status_source import Source, local_servers
from ovms_mp.commands.status_text import Status, read_status
from ovms_mp.config.argument_parser import Parser
from ovms_mp.errors import ConfigError
from ovms_mp.log import say
from ovms_mp.log_forms import printable

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

_DEADLINE_S = 10.0
_HEAD = ("MODEL", "VERSION", "STATE", "INPUTS", "OUTPUTS")
_OF_ONE_VERSION = (404, 503)
"""Statuses that say that a version has gone, or goes."""
_LACKS_KEY = (401, 403)
_Ends: TypeAlias = tuple[tuple[str, ...], tuple[str, ...]]
"""Inputs and outputs."""


@dataclass(frozen=True, slots=True)
class ServedVersion:
    """A row.

    Attributes:
        reason: Why it is not available; empty where it is or nobody says.
        inputs: Name, type and shape of each, where they are known.
        outputs: The same.
    """

    model: str
    version: int
    state: str
    reason: str = ""
    inputs: tuple[str, ...] = ()
    outputs: tuple[str, ...] = ()


def models_parser() -> Parser:
    """The flags."""
    parser = Parser(
        prog="ovms_mp models",
        operands="[URL]",
        description="Show the models of a running server, their versions with states, and their inputs and outputs. A "
        "server of this user on this machine is found automatically; one elsewhere is named by its URL.",
        examples=(
            ("the server on this machine", "ovms_mp models"),
            ("one elsewhere", "ovms_mp models http://10.0.0.1:8000"),
            ("for a program", "ovms_mp models --json"),
        ),
        closing="Exit codes: 0 shown, 2 usage, 3 nothing answers.",
    )
    parser.add_argument(
        "url", metavar="URL", nargs="?", help="REST port of the server, e.g. http://10.0.0.1:8000"
    )
    add_place_flags(parser)
    parser.add_argument("--json", action="store_true", help="print a list of objects as JSON")
    return parser


def run_models(arguments: Sequence[str], environment: Mapping[str, str]) -> int:
    """Ask a server and print its models; the exit code.

    Raises:
        ConfigError: A flag is wrong.
    """
    given = models_parser().read(arguments)
    note = ""
    try:
        if given["url"] is None:
            source = read_source(given, environment)
            found, note = _of_source(source)
        else:
            for flag in ("host", "port", "rest_port", "rest_prefix"):
                if given[flag] is not None:
                    raise ConfigError(f"--{flag} and URL: give one of them")
            found = _over_http(target_of_url(given["url"], given, environment))
    except NoAnswer as error:
        return failed(str(error))
    except (msgspec.MsgspecError, RecursionError, LookupError, TypeError, AttributeError, ValueError):
        return failed("the answer does not describe models; give the URL of a server's REST port")
    if given["json"]:
        sys.stdout.write(
            msgspec.json.format(msgspec.json.encode([asdict(row) for row in found])).decode() + "\n"
        )
    else:
        show(model_lines(found), environment)
    if note:
        sys.stdout.flush()
        say(printable(f"ovms_mp: note: inputs and outputs are not shown: {note}"))
    return ExitCode.CLEAN


def model_lines(found: Sequence[ServedVersion]) -> list[str]:
    """The table; reasons follow the version that has them."""
    if not found:
        return ["no models"]
    rows = [
        (
            row.model,
            str(row.version) if row.version else "-",
            row.state,
            *map(" ".join, (row.inputs, row.outputs)),
        )
        for row in found
    ]
    head, *lines = table([_HEAD, *rows], indent=0)
    text = [head]
    for row, line in zip(found, lines, strict=True):
        text += [line, *(f"  ! {reason}" for reason in row.reason.splitlines())]
    return text


def _of_source(source: Source) -> tuple[list[ServedVersion], str]:
    """The models of a server that flags name, and why inputs and outputs are missing; empty where they are not."""
    if source.host is not None:
        return _over_http(source.target()), ""
    status = read_status(source.document())
    return _rows(status, _rest_port_of(source))


def _rest_port_of(source: Source) -> Target | None:
    """The REST port of the server on this machine that is meant, as far as it is known."""
    for server in local_servers():
        if (
            source.port in (None, server.port)
            and source.rest_port in (None, server.rest_port)
            and server.rest_port
        ):
            return Target("127.0.0.1", server.rest_port, source.prefix, source.trust, source.key)
    return None if source.rest_port is None else source.target()


def _rows(status: Status, target: Target | None) -> tuple[list[ServedVersion], str]:
    found = []
    note = "" if target else "they are told over REST, and the server has no --rest_port"
    is_any_served = False
    for name, model in status.models.items():
        for version in model.versions:
            state = "FAILED" if version.is_failed else version.state
            ends: _Ends = ((), ())
            is_any_served |= version.state == "AVAILABLE"
            if target is not None and version.state == "AVAILABLE":
                try:
                    ends = _ends(target, name, version.version)
                except NoAnswer as error:
                    # It wants TLS, a key or a prefix; what is known is shown.
                    target, note = None, f"{error}{_hint(error)}"
            found.append(ServedVersion(name, version.version, state, version.error_message, *ends))
        if not model.versions:
            found.append(ServedVersion(name, 0, "-", "\n".join(model.notes)))
    return found, note if is_any_served else ""


def _hint(error: NoAnswer) -> str:
    """What would have a server answer."""
    if error.status in _LACKS_KEY:
        return "; give --api_key"
    return "" if error.status else "; give the URL of its REST port"


def _over_http(target: Target) -> list[ServedVersion]:
    try:
        document = target.ask_json("/v1/config", _DEADLINE_S)
    except NoAnswer as error:
        if error.status in _LACKS_KEY:
            raise NoAnswer(f"{error}{_hint(error)}", error.status) from None
        raise
    found = []
    lacks_metadata = False
    for name, model in document.items():
        versions = sorted(
            model["model_version_status"], key=lambda version: int(version["version"]), reverse=True
        )
        for version in versions:
            number, state = int(version["version"]), str(version["state"])
            reason = str(version.get("status", {}).get("error_message", ""))
            is_good = version.get("status", {}).get("error_code", "OK") == "OK"
            ends: _Ends = ((), ())
            if state == "AVAILABLE" and not lacks_metadata:
                try:
                    ends = _ends(target, name, number)
                except NoAnswer as error:
                    # It has gone meanwhile, or it is a server without KServe's API: what is known is shown.
                    lacks_metadata = error.status not in _OF_ONE_VERSION
            found.append(
                ServedVersion(name, number, state if is_good else "FAILED", "" if is_good else reason, *ends)
            )
        if not versions:
            found.append(ServedVersion(name, 0, "-"))
    return found


def _ends(target: Target, name: str, version: int) -> _Ends:
    """Inputs and outputs of a version, each such as ``image:FP32[-1,8,8]``."""
    path = f"/v2/models/{urllib.parse.quote(name, safe='')}/versions/{version}"
    metadata = target.ask_json(path, _DEADLINE_S)
    return _short(metadata["inputs"]), _short(metadata["outputs"])


def _short(tensors: Sequence[Mapping[str, Any]]) -> tuple[str, ...]:
    return tuple(
        f"{tensor['name']}:{tensor['datatype']}[{','.join(map(str, tensor['shape']))}]" for tensor in tensors
    )
