# SPDX-License-Identifier: Apache-2.0
"""The configuration file: OVMS's JSON document to model configurations, every error with its place in the document."""

from __future__ import annotations

import difflib
from types import MappingProxyType
from typing import TYPE_CHECKING

import msgspec

from ovms_mp.config import MAX_NIREQ, MODEL_KEYS, NOT_YET_KEYS, ModelConfig, PropertyValue
from ovms_mp.errors import ConfigError
from ovms_mp.model.versions import Latest, VersionPolicy, parse_policy

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path


def not_yet(name: str, value: object) -> ConfigError:
    """The error for a setting that has no effect yet."""
    return ConfigError(
        f"{name} {value!r}: not supported yet; prepare the model with this setting applied instead"
    )


def parse_config_file(path: Path) -> tuple[tuple[ModelConfig, ...], tuple[str, ...]]:
    """Read a configuration file in OVMS's JSON form.

    Returns:
        The models, and warnings for the log.

    Raises:
        ConfigError: Naming the JSON path, the value and what is accepted.
    """
    try:
        text = path.read_bytes()
    except OSError as error:
        raise ConfigError(f"--config_path {path}: {error.strerror or error}") from None
    try:
        document: object = msgspec.json.decode(text)
    except (msgspec.DecodeError, UnicodeError, RecursionError) as error:
        raise ConfigError(f"--config_path {path} is not JSON: {error}") from None
    return _FileReader(path.absolute().parent).read(document)


class _FileReader:
    """Walks a decoded configuration document and collects warnings on the way."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._warnings: list[str] = []

    def read(self, document: object) -> tuple[tuple[ModelConfig, ...], tuple[str, ...]]:
        """The models and warnings of a whole document."""
        root = _as_object(document, "$", "an object with model_config_list")
        self._warn_unknown(root, ("model_config_list",), "$")
        if "model_config_list" not in root:
            raise ConfigError("$: model_config_list is missing")
        entries = _as_array(root["model_config_list"], "$.model_config_list", 'an array of {"config": {...}}')
        models: dict[str, ModelConfig] = {}
        for index, entry in enumerate(entries):
            place = f"$.model_config_list[{index}]"
            body = _as_object(entry, place, '{"config": {...}}')
            self._warn_unknown(body, ("config",), place)
            place += ".config"
            model = self._model(_as_object(body.get("config"), place, "an object"), place)
            if model.name in models:
                raise ConfigError(f"{place}.name: {model.name!r} is there already; names must differ")
            models[model.name] = model
        return tuple(models.values()), tuple(self._warnings)

    def _model(self, body: dict[str, object], place: str) -> ModelConfig:
        for key in NOT_YET_KEYS:
            if body.get(key) not in (None, False):
                raise not_yet(f"{place}.{key}", body[key])
        self._warn_unknown(body, (*MODEL_KEYS, *NOT_YET_KEYS), place)
        for key in ("name", "base_path"):
            if not isinstance(body.get(key), str) or not body[key]:
                raise _rejected(f"{place}.{key}", body.get(key), "a text, not empty")
        nireq = body.get("nireq", 0)
        if not isinstance(nireq, int) or isinstance(nireq, bool) or not 0 <= nireq <= MAX_NIREQ:
            raise _rejected(f"{place}.nireq", nireq, f"0 to {MAX_NIREQ}")
        device = body.get("target_device", "CPU")
        if not isinstance(device, str) or not device:
            raise _rejected(f"{place}.target_device", device, "a device such as CPU or AUTO:GPU,CPU")
        policy: VersionPolicy = Latest()
        if body.get("model_version_policy") is not None:
            try:
                policy = parse_policy(body["model_version_policy"])
            except ConfigError as error:
                raise ConfigError(f"{place}.model_version_policy: {error.message}") from None
        return ModelConfig(
            name=str(body["name"]),
            base_path=self._directory / str(body["base_path"]),
            nireq=nireq,
            target_device=device,
            plugin_config=check_plugin_config(body.get("plugin_config"), f"{place}.plugin_config"),
            version_policy=policy,
        )

    def _warn_unknown(self, body: Mapping[str, object], known: tuple[str, ...], place: str) -> None:
        for key in body:
            if key not in known:
                near = difflib.get_close_matches(key, known, 1)
                hint = f"; did you mean {near[0]!r}?" if near else f"; known are {', '.join(known)}"
                self._warnings.append(f"{place}.{key} is unknown and has no effect{hint}")


def _rejected(place: str, value: object, accepted: str) -> ConfigError:
    return ConfigError(f"{place}: {value!r} is not valid; accepted: {accepted}")


def _as_object(value: object, place: str, accepted: str) -> dict[str, object]:
    if not isinstance(value, dict):
        raise _rejected(place, value, accepted)
    return value


def _as_array(value: object, place: str, accepted: str) -> list[object]:
    if not isinstance(value, list):
        raise _rejected(place, value, accepted)
    return value


def check_plugin_config(value: object, place: str) -> Mapping[str, PropertyValue]:
    """Hold decoded ``plugin_config`` against its form; the keys themselves are the device's business.

    Raises:
        ConfigError: Naming the place, the key and what is accepted.
    """
    if value is None:
        return MappingProxyType({})
    if not isinstance(value, dict):
        raise _rejected(place, value, 'an object such as {"NUM_STREAMS": "2"}')
    checked: dict[str, PropertyValue] = {}
    for key, entry in value.items():
        if not isinstance(entry, (str, int, float, bool)):
            raise _rejected(f"{place}.{key}", entry, "text, number or boolean")
        checked[str(key)] = entry
    return MappingProxyType(checked)
