# SPDX-License-Identifier: Apache-2.0
"""The settings of one model, as decoded from the configuration file or collected from flags, to a ModelConfig.

Both sources share this reading, so a key means the same in both. What is wrong is noted in a
:class:`~ovms_mp.config.json_document.Findings`, and reading goes on: a user sees all errors at once.
"""

from __future__ import annotations

import os
from pathlib import Path, PurePath
from types import MappingProxyType
from typing import TYPE_CHECKING, TypeVar

from ovms_mp.config.json_document import child_place
from ovms_mp.config.layout_text import names_channels, parse_layout
from ovms_mp.config.model import ModelConfig
from ovms_mp.config.model_keys import (
    MAX_NAME_BYTES,
    MAX_NIREQ,
    MAX_WEIGHT,
    MODEL_KEYS,
    UNSUPPORTED_MODEL_KEYS,
    UnsupportedKey,
    asks_for_nothing,
)
from ovms_mp.config.preprocessing_text import parse_color_format, parse_mean, parse_precision, parse_scale
from ovms_mp.config.shape_text import parse_batch_size, parse_shape
from ovms_mp.errors import ConfigError
from ovms_mp.model.batching import AUTO_BATCHING, parse_batching
from ovms_mp.model.devices import DEFAULT_DEVICE, parse_device
from ovms_mp.model.input_settings import ChannelValues, Conversion, InputSettings, InputShape, Layout
from ovms_mp.model.store_url import StoreUrl, is_url, parse_store_url, without_secrets
from ovms_mp.model.versions import Latest, VersionPolicy, parse_policy

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from ovms_mp.config.json_document import Findings
    from ovms_mp.config.model import PropertyValue

ValueT = TypeVar("ValueT")

_MAX_INTEGER = (1 << 63) - 1
_PATH_PROPERTIES = frozenset({"CACHE_DIR", "WEIGHTS_PATH"})
"""OpenVINO's properties that name a file or directory; a relative one starts where the model's path does."""


def read_model(
    body: Mapping[str, object],
    findings: Findings,
    start: Path | StoreUrl,
    place_of: Callable[[str], str],
    *,
    may_climb: bool,
    store_dir: str = "",
) -> ModelConfig | None:
    """Read the settings of a model.

    Args:
        body: Values by the names of :data:`~ovms_mp.config.model_keys.MODEL_KEYS`; None is as if the key were absent.
        findings: Takes errors and notices.
        start: Where a relative path starts: a directory, or beside a URL.
        place_of: The place of a key, for messages.
        may_climb: Whether the path may have ``..``.
        store_dir: Where models from object stores are downloaded to.

    Returns:
        The model, or None if there were errors.
    """
    given = {key: value for key, value in body.items() if value is not None}
    refuse_unsupported(given, UNSUPPORTED_MODEL_KEYS, findings, place_of)
    count = len(findings.faults)
    reader = _Reader(given, findings, start, place_of)
    name = reader.name()
    base_path = reader.base_path(may_climb)
    store = base_path if isinstance(base_path, StoreUrl) else None
    policy: VersionPolicy = Latest()
    document = reader.json("model_version_policy")
    if document is not None:
        policy = reader.policy(document)
    model = ModelConfig(
        name=name,
        base_path=base_path if isinstance(base_path, Path) else Path(store_dir, base_path.mirror_of(name)),
        store=store,
        nireq=reader.whole("nireq", 0, MAX_NIREQ, 0),
        weight=reader.whole("weight", 1, MAX_WEIGHT, 1),
        batching=reader.batching(),
        target_device=reader.one("target_device", parse_device) or DEFAULT_DEVICE,
        plugin_config=reader.plugin_config(),
        version_policy=policy,
        inputs=reader.inputs(),
        allow_cache=reader.allow_cache(),
    )
    return model if count == len(findings.faults) else None


def refuse_unsupported(
    given: Mapping[str, object],
    unsupported: Mapping[str, UnsupportedKey],
    findings: Findings,
    place_of: Callable[[str], str],
) -> None:
    """Note keys that OVMS has and this server has not, unless their values ask for nothing."""
    for name, key in unsupported.items():
        if name in given and not asks_for_nothing(key, given[name]):
            findings.refuse(place_of(name), given[name], "nothing, leave it out", key.remedy)


class _Reader:
    """Reads the keys of one model, each into its value or, after noting an error, into something harmless."""

    def __init__(
        self,
        given: Mapping[str, object],
        findings: Findings,
        start: Path | StoreUrl,
        place_of: Callable[[str], str],
    ) -> None:
        self._given = given
        self._findings = findings
        self._start = start
        self._place_of = place_of

    def _refuse(self, key: str, reason: str = "") -> None:
        self._findings.refuse(self._place_of(key), self._given.get(key), MODEL_KEYS[key].accepted, reason)

    def text(self, key: str) -> str:
        value = self._given.get(key)
        if isinstance(value, str) and value.strip():
            return value
        self._refuse(key, "" if key in self._given else "it is required")
        return ""

    def name(self) -> str:
        name = self.text("name")
        size = len(name.encode(errors="surrogatepass"))
        if size > MAX_NAME_BYTES:
            self._refuse("name", f"it has {size} bytes")
        return name

    def base_path(self, may_climb: bool) -> Path | StoreUrl:
        path = self.text("base_path")
        is_relative_to_url = isinstance(self._start, StoreUrl) and not os.path.isabs(path)
        if is_url(path) or (is_relative_to_url and path):
            return self._in_a_store(path)
        if "\0" in path:
            self._refuse("base_path", "a path must not contain a NUL character")
        elif not may_climb and ".." in PurePath(path).parts:
            self._refuse("base_path", "it contains `..`; give the path that it leads to")
        else:
            return self._directory() / path
        return Path()

    def _in_a_store(self, path: str) -> Path | StoreUrl:
        try:
            if isinstance(self._start, StoreUrl) and not is_url(path):
                return self._start.beside(PurePath(path).as_posix())
            return parse_store_url(path)
        except ConfigError as error:
            place, accepted = self._place_of("base_path"), MODEL_KEYS["base_path"].accepted
            self._findings.refuse(place, without_secrets(path), accepted, error.message)
            return Path()

    def _directory(self) -> Path:
        """Where other paths start that may be relative."""
        return self._start if isinstance(self._start, Path) else Path("/")

    def json(self, key: str) -> object:
        """A value that may be written as JSON inside a text, as flags and OVMS's own files do."""
        value = self._given.get(key)
        if not isinstance(value, str):
            return value
        return self._findings.decode(value, self._place_of(key), MODEL_KEYS[key].accepted)

    def policy(self, document: object) -> VersionPolicy:
        try:
            return parse_policy(document)
        except ConfigError:
            self._refuse("model_version_policy")
            return Latest()

    def one(self, key: str, parse: Callable[[object], ValueT]) -> ValueT | None:
        if key not in self._given:
            return None
        found = []
        value = self._given[key]
        with self._findings.refusing(self._place_of(key), value, MODEL_KEYS[key].accepted):
            found.append(parse(value))
        return found[0] if found else None

    def named(self, key: str, parse: Callable[[object], ValueT]) -> list[tuple[str, ValueT]]:
        """A setting that is either one value for the only input, or an object of them by tensor name."""
        value = self.json(key) if self._is_object(key) else self._given.get(key)
        if value is None:
            return []
        place = self._place_of(key)
        entries = {"": value}
        if isinstance(value, dict):
            entries = value
            if "" in value:
                self._refuse(key, "a tensor has no name")
        found = []
        for name, entry in entries.items():
            where = child_place(place, name) if name else place
            with self._findings.refusing(where, entry, MODEL_KEYS[key].accepted):
                found.append((name, parse(entry)))
        return found

    def whole(self, key: str, low: int, high: int, default: int) -> int:
        value = self._given.get(key, default)
        if isinstance(value, int) and not isinstance(value, bool) and low <= value <= high:
            return value
        self._refuse(key, "" if isinstance(value, int) else "an integer without quotes is expected")
        return default

    def batching(self) -> int:
        is_object = self._is_object("batching")
        found = parse_batching(self.json("batching") if is_object else self._given.get("batching"))
        if found is None:
            self._refuse("batching")
        return AUTO_BATCHING if found is None else found

    def _is_object(self, key: str) -> bool:
        """Whether a value is an object inside a text, as flags have it."""
        value = self._given.get(key)
        return isinstance(value, str) and value.lstrip().startswith("{")

    def allow_cache(self) -> bool:
        value = self._given.get("allow_cache", False)
        if not isinstance(value, bool):
            self._refuse("allow_cache")
        return value is True

    def plugin_config(self) -> Mapping[str, PropertyValue]:
        document = self.json("plugin_config")
        if document is None:
            return MappingProxyType({})
        if not isinstance(document, dict):
            self._refuse("plugin_config")
            return MappingProxyType({})
        checked: dict[str, PropertyValue] = {}
        for name, value in document.items():
            reason = _property_reason(name, value)
            is_path = name in _PATH_PROPERTIES and isinstance(value, str) and bool(value)
            if is_path and isinstance(self._start, StoreUrl) and not os.path.isabs(str(value)):
                reason = "a relative path means nothing where the configuration file is in an object store"
            if reason is None and isinstance(value, (str, int, float)):
                checked[name] = str(self._directory() / str(value)) if is_path else value
            else:
                place = child_place(self._place_of("plugin_config"), name)
                self._findings.refuse(place, value, "a string, a number, true or false", reason or "")
        return MappingProxyType(checked)

    def inputs(self) -> InputSettings:
        batch_size = self.one("batch_size", parse_batch_size)
        shapes = self.named("shape", parse_shape)
        if batch_size is not None and self._given.get("shape"):
            self._findings.notices.append(
                f"{self._place_of('batch_size')} has no effect, as shape takes precedence"
            )
            batch_size = None
        layouts = self.named("layout", parse_layout)
        mean = self.named("mean", parse_mean)
        scale = self.named("scale", parse_scale)
        colors = self.named("color_format", parse_color_format)
        precisions = self.named("precision", parse_precision)
        sides = {name: client + model for name, (client, model) in layouts}
        for key, values in (("mean", mean), ("scale", scale)):
            self._need_layout(
                key, (name for name, numbers in values if len(numbers) > 1), sides, channels=True
            )
        self._need_layout("color_format", (name for name, _ in colors), sides, channels=True)
        self._need_layout("precision", (name for name, _ in precisions), sides, channels=False)
        return InputSettings(
            batch_size=batch_size,
            shapes=tuple(InputShape(name, bounds) for name, bounds in shapes),
            layouts=tuple(Layout(name, client, model) for name, (client, model) in layouts),
            mean=tuple(ChannelValues(name, numbers) for name, numbers in mean),
            scale=tuple(ChannelValues(name, numbers) for name, numbers in scale),
            color_format=tuple(Conversion(name, model, client) for name, (client, model) in colors),
            precision=tuple(Conversion(name, model, client) for name, (client, model) in precisions),
        )

    def _need_layout(
        self, key: str, names: Iterable[str], sides: Mapping[str, str], *, channels: bool
    ) -> None:
        """Refuse what cannot be placed without a layout; OVMS refuses all four keys without one."""
        for name in names:
            # A name belongs to the only input as well as no name does.
            fitting = [side for other, side in sides.items() if not name or not other or name == other]
            if any(names_channels(side) or not channels for side in fitting):
                continue
            if "layout" in self._given and not sides:
                return  # Its own error is enough.
            layout = self._place_of("layout")
            need = "that says with C which dimension the channels are" if channels else "beside it"
            tensor = f" of {name!r}" if name else ""
            self._refuse(
                key, f"it needs {layout}{tensor} {need}, e.g. NCHW, or NHWC:NCHW for clients that send NHWC"
            )
            return


def _property_reason(name: str, value: object) -> str | None:
    """Why a property cannot be passed on; None when it can."""
    if name == "DEVICE_PROPERTIES" and not (isinstance(value, str) and '"' not in value):
        # OpenVINO 2026.4 takes names with quotes inside this text without complaint and ignores them.
        return 'OpenVINO takes it as a string without inner quotes, as in "{CPU:{NUM_STREAMS:2},GPU:{NUM_STREAMS:1}}"'
    if isinstance(value, int) and abs(value) > _MAX_INTEGER:
        return "the number is out of range"
    return None if isinstance(value, (str, int, float)) else ""
