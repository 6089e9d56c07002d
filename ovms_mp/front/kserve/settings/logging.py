# SPDX-License-Identifier: Apache-2.0
"""Triton's log settings and what they mean here; see :mod:`ovms_mp.log_levels`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ovms_mp.errors import MalformedPayload, UnsupportedOperation, shortened
from ovms_mp.log_levels import FORMS
from ovms_mp.wire.changes import SetLog

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ovms_mp.front.call_context import CallContext
    from ovms_mp.front.service import Service

METHOD = "LogSettings"
FILE, INFO, WARNING, ERROR, VERBOSE, FORM = (
    "log_file",
    "log_info",
    "log_warning",
    "log_error",
    "log_verbose_level",
    "log_format",
)
_OTHER_NAMES = {"log_warnings": WARNING}
"""An example in Triton's document has it."""
_MOST_VERBOSE = (1 << 32) - 1
_LONGEST_SHOWN = 64


def log_settings(service: Service) -> dict[str, bool | int | str]:
    """What is logged, in every process."""
    snapshot = service.table.snapshot
    levels = snapshot.levels
    return {
        FILE: snapshot.log_file,
        INFO: levels.info,
        WARNING: levels.warning,
        ERROR: levels.error,
        VERBOSE: levels.verbose,
        FORM: levels.form,
    }


async def set_log(service: Service, given: Mapping[str, object], context: CallContext) -> None:
    """Log something else from now on; a setting whose value is None stays as it is.

    Raises:
        MalformedPayload: A setting is not known, or its value is none that it can have.
        UnsupportedOperation: The file is to be another one.
        OvmsError: See :meth:`~ovms_mp.front.service.Service.change`.
    """
    settings = {_OTHER_NAMES.get(name, name): value for name, value in given.items() if value is not None}
    now = log_settings(service)
    for name, value in settings.items():
        if name not in now:
            accepted = ", ".join(entry for entry in now if entry != FILE)
            raise MalformedPayload(f"log setting {_shown(name)} is unknown; accepted: {accepted}")
        if name == FILE and value != now[FILE]:
            raise UnsupportedOperation(
                "log file location can not be updated through network protocol; set --log_path and start again"
            )
    settings.pop(FILE, None)
    if settings:
        change = SetLog(
            _switch(settings, INFO),
            _switch(settings, WARNING),
            _switch(settings, ERROR),
            _verbosity(settings),
            _form(settings),
        )
        await service.change(change, context)


def _switch(settings: Mapping[str, object], name: str) -> bool | None:
    value = settings.get(name)
    if value is None or isinstance(value, bool):
        return value
    raise MalformedPayload(f"log setting {name!r}: {_shown(value)} is no bool")


def _verbosity(settings: Mapping[str, object]) -> int | None:
    value = settings.get(VERBOSE)
    if value is None:
        return None
    if isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= _MOST_VERBOSE:
        return value
    raise MalformedPayload(
        f"log setting {VERBOSE!r}: {_shown(value)} is no number from 0 to {_MOST_VERBOSE}; 0 is off"
    )


def _form(settings: Mapping[str, object]) -> str | None:
    value = settings.get(FORM)
    if value is None or (isinstance(value, str) and value in FORMS):
        return value
    raise MalformedPayload(f"log setting {FORM!r}: {_shown(value)} is unknown; accepted: {', '.join(FORMS)}")


def _shown(value: object) -> str:
    return shortened(repr(value), _LONGEST_SHOWN)
