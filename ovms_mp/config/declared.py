# SPDX-License-Identifier: Apache-2.0
"""All server-wide settings as they are declared, for flags, help and pages."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING

from ovms_mp.config.access import AccessConfig
from ovms_mp.config.metrics import MetricsConfig
from ovms_mp.config.server import EngineConfig, LimitsConfig, LogConfig, RepositoryConfig, SupervisionConfig
from ovms_mp.config.transports import ClientsConfig, GrpcConfig, RestConfig, TlsConfig, UnixSocketConfig

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from ovms_mp.config.setting import Setting


SECTIONS: Mapping[str, type] = MappingProxyType(
    {
        "grpc": GrpcConfig,
        "rest": RestConfig,
        "unix": UnixSocketConfig,
        "tls": TlsConfig,
        "clients": ClientsConfig,
        "access": AccessConfig,
        "limits": LimitsConfig,
        "supervision": SupervisionConfig,
        "repository": RepositoryConfig,
        "engine": EngineConfig,
        "log": LogConfig,
        "metrics": MetricsConfig,
    }
)


@dataclass(frozen=True, slots=True)
class DeclaredSetting:
    """A setting with its place in the tree."""

    section: str
    name: str
    kind: type
    default: object
    setting: Setting

    @property
    def default_text(self) -> str:
        """The default as a flag would give it; empty for none."""
        return str(self.default).lower() if self.kind is bool else str(self.default)


def declared_settings() -> Iterator[DeclaredSetting]:
    """All server-wide settings, in the order of the declarations."""
    for section, cls in SECTIONS.items():
        for entry in dataclasses.fields(cls):
            yield DeclaredSetting(
                section, entry.name, type(entry.default), entry.default, entry.metadata["setting"]
            )


def settings_table() -> str:
    """All server-wide settings as a Markdown table, which SETTINGS.md has between its markers."""
    lines = ["| flag | default | accepted | variable | meaning |", "|---|---|---|---|---|"]
    for declared in declared_settings():
        setting = declared.setting
        default = f"`{declared.default_text}`" if declared.default_text else "none"
        variable = f"`{setting.environment}`" if setting.environment else ""
        lines.append(
            f"| `--{setting.flag}` | {default} | {setting.accepted()} | {variable} | {setting.meaning} |"
        )
    return "\n".join(lines)
