# SPDX-License-Identifier: Apache-2.0
"""Whether spans can be exported, before a front tries: the extra is there, and no variable asks for what it has not."""

from __future__ import annotations

import importlib.util
from typing import TYPE_CHECKING

from ovms_mp.errors import BootError

if TYPE_CHECKING:
    from collections.abc import Mapping

_NEEDED = (
    "opentelemetry",
    "opentelemetry.sdk",
    "opentelemetry.exporter",
    "opentelemetry.exporter.otlp.proto.http",
)
_PROTOCOLS = ("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "OTEL_EXPORTER_OTLP_PROTOCOL")
_PROTOCOL = "http/protobuf"
_EXPORTER, _EXPORTERS = "OTEL_TRACES_EXPORTER", ("", "otlp")


def check_tracing(environment: Mapping[str, str]) -> None:
    """Look at what ``--trace`` needs.

    Raises:
        BootError: Something is missing, or asked for that there is not.
    """
    if not all(map(_is_installed, _NEEDED)):
        raise BootError("--trace needs OpenTelemetry: pip install 'ovms_mp[otel]'")
    exporter = environment.get(_EXPORTER, "")
    if exporter not in _EXPORTERS:
        raise BootError(f"--trace: {_EXPORTER}={exporter!r} is not supported; accepted: otlp")
    for name in _PROTOCOLS:
        protocol = environment.get(name, "")
        if protocol not in ("", _PROTOCOL):
            raise BootError(f"--trace: {name}={protocol!r} is not supported; accepted: {_PROTOCOL}")


def _is_installed(package: str) -> bool:
    try:
        return importlib.util.find_spec(package) is not None
    except ModuleNotFoundError:  # The package that it is in.
        return False
