# SPDX-License-Identifier: Apache-2.0
"""Tables of HOW_TO.md, ERRORS.md and METRICS.md, derived from the code that they describe; a unit test compares."""

from __future__ import annotations

from ovms_mp.codes import Code, ExitCode
from ovms_mp.docs import grouped_pages
from ovms_mp.errors import ConfigError, OvmsError, error_classes
from ovms_mp.model.own_metrics import OWN
from ovms_mp.model.status import State

_MEANINGS = {
    Code.CANCELLED: "The client went away.",
    Code.UNKNOWN: "Only in the status of a version that failed to load, as OVMS has it.",
    Code.INVALID_ARGUMENT: "The request is wrong; another try does not help.",
    Code.DEADLINE_EXCEEDED: "The time that the client or `--request_timeout_s` gave is over.",
    Code.NOT_FOUND: "There is no such model, version, region or path.",
    Code.ALREADY_EXISTS: "There is one of this name.",
    Code.PERMISSION_DENIED: "Who asks may not.",
    Code.RESOURCE_EXHAUSTED: "A limit is reached; the message names its flag. Try again later, after `Retry-After`.",
    Code.FAILED_PRECONDITION: "What would have to be so is not, e.g. a version that failed to load.",
    Code.ABORTED: "Something changed meanwhile; try again.",
    Code.OUT_OF_RANGE: "A value is outside what there is.",
    Code.UNIMPLEMENTED: "The protocol has it, this server does not.",
    Code.INTERNAL: "The engine failed, or a defect of the server; its log has the details.",
    Code.UNAVAILABLE: "Not now: loading, stopping, or a process was lost. Try again, at another server perhaps.",
    Code.DATA_LOSS: "What was downloaded is not what was announced.",
    Code.UNAUTHENTICATED: "A key is missing or not known.",
}
_EXITS = {
    ExitCode.CLEAN: "A clean stop; of other commands: done.",
    ExitCode.USAGE: "The command line or the configuration is wrong; starting again changes nothing.",
    ExitCode.BOOT_FAILED: "It could not start: a port is taken; with `model` also a missing device, ... Of `status`, "
    "`models`, `predict`, `bench`, `tune` and `fleet`: nothing useful answers.",
    ExitCode.INTERNAL: "A defect of the server; the traceback is in the log.",
}
_STATES = {
    State.START: "It waits for its turn to be loaded.",
    State.LOADING: "It is being tried or loaded; with an error: it failed, and is tried again at growing intervals.",
    State.AVAILABLE: "It answers requests.",
    State.UNLOADING: "It takes no new requests and finishes those in flight.",
    State.END: "It has been unloaded.",
}


def codes_table() -> str:
    """Codes with their numbers and HTTP statuses."""
    rows = [
        f"| `{code.name}` | {code.number} | {code.http_status} | {_MEANINGS[code]} |"
        for code in sorted(Code, key=lambda code: code.number)
    ]
    return "\n".join(("| code | gRPC | HTTP | meaning |", "|---|---|---|---|", *rows))


def errors_table() -> str:
    """Failures by their names in logs, with what clients get."""
    rows = []
    for name, failure in sorted(error_classes().items()):
        if issubclass(failure, ConfigError) or "xit code" in (failure.__doc__ or ""):
            continue  # They end a process, and no client hears of them.
        status = _http_status(failure)
        meaning = (failure.__doc__ or "").partition("\n")[0]
        rows.append(f"| `{name}` | `{failure.code.name}` | {status} | {meaning} |")
    return "\n".join(("| failure | code | HTTP | meaning |", "|---|---|---|---|", *rows))


def _http_status(failure: type[OvmsError]) -> int:
    return failure.better_http_status or failure.code.http_status


def exit_codes_table() -> str:
    """Exit codes of all commands."""
    rows = [f"| {int(code)} | {_EXITS[code]} |" for code in ExitCode]
    last = "| 128+N | Ended by signal N: a second one, or one before the server had started. |"
    return "\n".join(("| code | meaning |", "|---|---|", *rows, last))


def states_table() -> str:
    """States of versions."""
    rows = [f"| `{state.name}` | {int(state)} | {_STATES[state]} |" for state in State]
    return "\n".join(("| state | number | meaning |", "|---|---|---|", *rows))


def pages_table() -> str:
    """All pages, as the index of the how-to page has them."""
    rows = [
        f"| [{topic}]({page.file}) | {group} | {page.about} |"
        for group, pages in grouped_pages()
        for topic, page in pages.items()
    ]
    return "\n".join(("| page | is | about |", "|---|---|---|", *rows))


def own_metrics_table() -> str:
    """The families that OVMS does not have."""
    rows = [
        f"| `{name}` | {metric.kind} | {metric.labels or '-'} | {metric.help} |"
        for name, metric in OWN.items()
    ]
    return "\n".join(("| name | kind | labels | meaning |", "|---|---|---|---|", *rows))
