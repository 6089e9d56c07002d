# SPDX-License-Identifier: Apache-2.0
"""Triton's trace settings: they can be read, and say that nothing is traced. Nothing makes this server write files."""

from __future__ import annotations

from types import MappingProxyType
from typing import TYPE_CHECKING

from ovms_mp.errors import MalformedPayload, UnsupportedOperation, shortened

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ovms_mp.front.service import Service

METHOD = "TraceSetting"
LEVEL = "trace_level"
SETTINGS: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        LEVEL: ("OFF",),
        "trace_rate": ("1000",),
        "trace_count": ("-1",),
        "log_frequency": ("0",),
        "trace_file": ("",),
    }
)
_LONGEST_SHOWN = 64


def trace_settings(
    service: Service, model_name: str, given: Mapping[str, object]
) -> Mapping[str, tuple[str, ...]]:
    """The settings, which are the same for all models.

    Args:
        service: Knows the models.
        model_name: Whose settings; empty for those of the server.
        given: What they are to be, each None, a text, a number or a list of these; they stay as they are.

    Raises:
        ModelNotFound: No such model.
        MalformedPayload: A setting is not known.
        UnsupportedOperation: One is to be something else.
    """
    if model_name:
        service.table.model(model_name)
    for name, value in given.items():
        if name not in SETTINGS:
            raise MalformedPayload(
                f"trace setting {_shown(name)} is unknown; accepted: {', '.join(SETTINGS)}"
            )
        if value is None or value == []:
            continue  # Back to what it is without a client's wish.
        values = tuple(map(str, value)) if isinstance(value, list) else (str(value),)
        if values != SETTINGS[name]:
            raise UnsupportedOperation(
                f"trace setting {name!r}: {_shown(value)} is not supported, as this server writes no traces; accepted: "
                f"{list(SETTINGS[name])}"
            )
    return SETTINGS


def _shown(value: object) -> str:
    return shortened(repr(value), _LONGEST_SHOWN)
