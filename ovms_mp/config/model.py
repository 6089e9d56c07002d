# SPDX-License-Identifier: Apache-2.0
"""One model as the server is told to serve it."""

from __future__ import annotations

from dataclasses import dataclass, field
from types import MappingProxyType
from typing import TYPE_CHECKING, TypeAlias

from ovms_mp.model.batching import AUTO_BATCHING
from ovms_mp.model.input_settings import InputSettings
from ovms_mp.model.versions import Latest, VersionPolicy

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from ovms_mp.model.store_url import StoreUrl

PropertyValue: TypeAlias = str | int | float | bool
"""What an OpenVINO property may be set to."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelConfig:
    """One model.

    Attributes:
        name: What clients call it.
        base_path: Directory of the version directories; of what was downloaded, where they come from a store.
        store: The object store that they come from; None for this machine.
        nireq: Infer requests for each version; 0 takes the device's optimal number.
        weight: Its time on the device in proportion to that of others, while several have requests.
        batching: See :mod:`ovms_mp.model.batching`.
        target_device: OpenVINO device string, passed through.
        plugin_config: OpenVINO properties for compiling.
        version_policy: Which versions to serve.
        inputs: Batch, shapes, layouts and preprocessing.
        allow_cache: Keep compiled models in ``cache_dir`` also where shapes are ``auto``.
    """

    name: str
    base_path: Path
    store: StoreUrl | None = None
    nireq: int = 0
    weight: int = 1
    batching: int = AUTO_BATCHING
    target_device: str = "CPU"
    plugin_config: Mapping[str, PropertyValue] = field(default_factory=lambda: MappingProxyType({}))
    version_policy: VersionPolicy = field(default_factory=Latest)
    inputs: InputSettings = field(default_factory=InputSettings)
    allow_cache: bool = False

    @property
    def source(self) -> str:
        """Where it comes from, as its user said it."""
        return str(self.base_path if self.store is None else self.store)


@dataclass(frozen=True, slots=True)
class RefusedModel:
    """An entry of the configuration file that cannot be served; the others are.

    Attributes:
        name: The model's; empty where the entry has none.
        reasons: What is wrong with it, for the log, one line each.
        client_text: The same for the model's status, without what the file holds.
    """

    name: str
    reasons: tuple[str, ...]
    client_text: str
