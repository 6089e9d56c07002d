# SPDX-License-Identifier: Apache-2.0
"""Triton's trace settings, and what they mean where spans are sent to a collector (``--trace``).

``trace_level`` switches tracing, and ``trace_rate`` says of how many requests that begin a trace one has spans: a
request that comes with a trace goes the way of that. They hold for all models. Nothing makes this server write files,
and without ``--trace`` all that can be read is that nothing is traced.
"""

from __future__ import annotations

from types import MappingProxyType
from typing import TYPE_CHECKING

from ovms_mp.errors import MalformedPayload, UnsupportedOperation, shortened
from ovms_mp.wire.changes import SetTrace
from ovms_mp.wire.records import TraceSettings

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ovms_mp.front.call_context import CallContext
    from ovms_mp.front.service import Service

METHOD = "TraceSetting"
LEVEL, RATE = "trace_level", "trace_rate"
OFF, TIMESTAMPS = "OFF", "TIMESTAMPS"
SETTINGS: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        LEVEL: (OFF,),
        RATE: ("1000",),
        "trace_count": ("-1",),
        "log_frequency": ("0",),
        "trace_file": ("",),
    }
)
"""Of a server that does not trace."""
_HIGHEST_RATE = 1 << 31
_LONGEST_SHOWN = 64


def trace_settings(service: Service) -> Mapping[str, tuple[str, ...]]:
    """The settings, which are the same for all models."""
    now = service.table.snapshot.trace
    if now is None:
        return SETTINGS
    return {**SETTINGS, LEVEL: (TIMESTAMPS if now.is_on else OFF,), RATE: (str(now.rate),)}


async def set_trace(
    service: Service, model_name: str, given: Mapping[str, object], context: CallContext
) -> Mapping[str, tuple[str, ...]]:
    """Trace more or less from now on, in every process; the settings as they are then.

    Args:
        service: Knows the models, and the manager.
        model_name: Whose settings; empty for those of the server.
        given: What they are to be, each None for what it is at the start, a text, a number or a list of these.
        context: The call.

    Raises:
        ModelNotFound: No such model.
        MalformedPayload: A setting is not known, or its value is none that it can have.
        UnsupportedOperation: One is to be something that is not there, or of one model only.
        OvmsError: See :meth:`~ovms_mp.front.service.Service.change`.
    """
    if model_name:
        service.table.model(model_name)
    now = trace_settings(service)
    wanted = {name: values for name, values in _wanted(service, given).items() if values != now[name]}
    if wanted:
        if service.table.snapshot.trace is None:
            name, values = next(iter(wanted.items()))
            raise UnsupportedOperation(
                f"trace setting {name!r}: {_shown(list(values))} is not supported, as this server was started without "
                f"--trace; accepted: {list(now[name])}"
            )
        change = SetTrace(_level(wanted[LEVEL]) if LEVEL in wanted else None, _rate(wanted.get(RATE)))
        for name, values in wanted.items():
            if name not in (LEVEL, RATE):
                raise UnsupportedOperation(
                    f"trace setting {name!r}: {_shown(list(values))} is not supported, as traces are sent to a "
                    f"collector and never end; accepted: {list(now[name])}"
                )
        if model_name:
            raise UnsupportedOperation(
                f"trace settings are those of the server; set them without a model, not for {model_name!r}"
            )
        await service.change(change, context)
    return trace_settings(service)


def _wanted(service: Service, given: Mapping[str, object]) -> dict[str, tuple[str, ...]]:
    """Values by name."""
    first = {**SETTINGS, LEVEL: (TIMESTAMPS,), RATE: (str(TraceSettings().rate),)}
    found = {}
    for name, value in given.items():
        if name not in SETTINGS:
            raise MalformedPayload(
                f"trace setting {_shown(name)} is unknown; accepted: {', '.join(SETTINGS)}"
            )
        if value is None or value == []:
            # Back to what it is without a client's wish.
            found[name] = (SETTINGS if service.table.snapshot.trace is None else first)[name]
        else:
            found[name] = tuple(map(str, value)) if isinstance(value, list) else (str(value),)
    return found


def _level(values: tuple[str, ...]) -> bool:
    if values in ((OFF,), (TIMESTAMPS,)):
        return values == (TIMESTAMPS,)
    if set(values) <= {OFF, TIMESTAMPS, "TENSORS"}:
        raise UnsupportedOperation(
            f"trace setting {LEVEL!r}: {_shown(list(values))} is not supported; accepted: [{OFF!r}] or [{TIMESTAMPS!r}]"
        )
    raise MalformedPayload(
        f"trace setting {LEVEL!r}: {_shown(list(values))} is unknown; accepted: [{OFF!r}] or [{TIMESTAMPS!r}]"
    )


def _rate(values: tuple[str, ...] | None) -> int | None:
    if values is None:
        return None
    text = values[0] if len(values) == 1 else ""
    if (
        text.isascii()
        and text.isdigit()
        and len(text) <= len(str(_HIGHEST_RATE))
        and 0 < int(text) <= _HIGHEST_RATE
    ):
        return int(text)
    raise MalformedPayload(
        f"trace setting {RATE!r}: {_shown(list(values))} is no number from 1 to {_HIGHEST_RATE}; one request in so "
        f"many is traced"
    )


def _shown(value: object) -> str:
    return shortened(repr(value), _LONGEST_SHOWN)
