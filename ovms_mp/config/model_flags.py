# SPDX-License-Identifier: Apache-2.0
"""Flags that say which models to serve: one by ``--model_name`` and its like, or a file by ``--config_path``."""

from __future__ import annotations

import argparse
import json
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ovms_mp.config.file import read_config_file
from ovms_mp.config.json_document import Findings, config_error
from ovms_mp.config.model_keys import MODEL_KEYS, UNSUPPORTED_MODEL_KEYS
from ovms_mp.config.model_settings import read_model
from ovms_mp.errors import ConfigError, ConfigUnreadable
from ovms_mp.model.store_url import StoreUrl, is_url, parse_store_url, without_secrets
from ovms_mp.places import absolute_path, start_of

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from ovms_mp.config.metrics import MetricsConfig
    from ovms_mp.config.model import ModelConfig, RefusedModel

_FLAGS: Mapping[str, str] = {key: declared.flag or key for key, declared in MODEL_KEYS.items()}
_SWITCHES = frozenset({"allow_cache", *UNSUPPORTED_MODEL_KEYS})
"""Flags that may stand alone."""
_METAVARS = {"plugin_config": "JSON", "model_version_policy": "JSON", "batching": "auto|off|JSON"}
_LONGEST_NUMBER = 18


def flag_of(key: str) -> str:
    """The flag of a model's key in the configuration file, without the dashes."""
    return _FLAGS[key]


def add_model_flags(parser: argparse.ArgumentParser) -> None:
    """Declare the flags of a single model."""
    group = parser.add_argument_group("one model")
    for key, flag in _FLAGS.items():
        declared = MODEL_KEYS[key]
        # Without a default the flag must be given, and the group's usage says so.
        default = f"default {declared.default}; " if declared.default else ""
        text = f"{declared.meaning} ({default}accepted {declared.accepted})"
        metavar = _METAVARS.get(key, flag.rpartition("_")[2].upper())
        nargs, const = ("?", "true") if key in _SWITCHES else (None, None)
        group.add_argument(
            f"--{flag}", help=text.replace("%", "%%"), metavar=metavar, nargs=nargs, const=const
        )
    for name in UNSUPPORTED_MODEL_KEYS:
        group.add_argument(f"--{name}", help=argparse.SUPPRESS, nargs="?", const="true")


def add_file_flag(parser: argparse.ArgumentParser) -> None:
    """Declare the flag of the configuration file."""
    group = parser.add_argument_group("several models")
    group.add_argument(
        "--config_path",
        metavar="FILE",
        help="JSON file with model_config_list, here or in an object store (s3://bucket/config.json); read again when "
        "it changes.",
    )


@dataclass(frozen=True, slots=True)
class NamedModels:
    """What the flags name.

    Attributes:
        models: To be served.
        refused: Entries of the file that cannot be.
        config_path: The file that they came from, or None.
        config_store: Where that file is mirrored from, or None; it is not read here then.
        metrics: What the file says of ``/metrics``, or None.
    """

    models: tuple[ModelConfig, ...]
    refused: tuple[RefusedModel, ...] = ()
    config_path: Path | None = None
    config_store: StoreUrl | None = None
    metrics: MetricsConfig | None = None


def read_models(
    given: Mapping[str, str | None],
    command: str,
    notices: list[str],
    *,
    is_strict: bool,
    store_dir: str,
    is_check: bool = False,
) -> NamedModels:
    """Read what the flags name.

    Args:
        given: Values of the flags; None for those that were not given.
        command: ``model``, ``config``, or empty for the flat form.
        notices: Gets what the user should know.
        is_strict: Unknown keys of the file are errors, and entries that cannot be served.
        store_dir: Where models from object stores are downloaded to.
        is_check: Only the latter are.

    Raises:
        ConfigError: Naming the flag or JSON path, the value and what is accepted.
    """
    single_flags = [
        flag for flag in (*_FLAGS.values(), *UNSUPPORTED_MODEL_KEYS) if given.get(flag) is not None
    ]
    path = given.get("config_path")
    if path is not None and single_flags:
        raise ConfigError(
            f"Model parameters in CLI are exclusive with the config file; --{single_flags[0]} belongs into "
            f"{without_secrets(path)}"
        )
    if path is not None and is_url(path):
        return _in_a_store(path, store_dir, is_check=is_check)
    if path is not None:
        absolute = absolute_path(path, "--config_path")
        try:
            document = read_config_file(absolute, is_strict=is_strict, store_dir=store_dir)
            if document.refused and (is_check or not document.models):
                raise document.error()
            if document.metrics_faults:
                raise config_error(document.metrics_faults)
        except ConfigUnreadable:
            raise  # It names the file.
        except ConfigError as error:
            raise ConfigError(f"{path} is not valid:\n{error.message}") from None
        notices.extend(document.notices)
        return NamedModels(document.models, document.refused, absolute, metrics=document.metrics)
    missing = [name for name in ("model_name", "model_path") if not given.get(name)]
    if missing:
        if command == "config":
            raise ConfigError("--config_path is missing; give the JSON file with model_config_list")
        alternative = "" if command == "model" else ", or --config_path FILE"
        raise ConfigError(f"--{missing[0]} is missing; give --model_name and --model_path{alternative}")
    return NamedModels((_single_model(given, notices, store_dir),))


def _in_a_store(text: str, store_dir: str, *, is_check: bool) -> NamedModels:
    """A configuration file that the server will download.

    Raises:
        ConfigError: The URL is none, or the file was to be checked.
    """
    try:
        url = parse_store_url(text)
        if not url.path:
            raise ConfigError("it names no object, e.g. config.json")
    except ConfigError as error:
        raise ConfigError(f"--config_path {without_secrets(text)}: {error.message}") from None
    if is_check:
        raise ConfigError(f"--check {url}: only a file on this machine can be checked; download it first")
    return NamedModels((), (), url.file_in(store_dir), url)


def model_body(given: Mapping[str, str | None]) -> dict[str, object]:
    """The keys that the flags of a single model give, with the values that a configuration file would have."""
    body: dict[str, object] = {}
    for key, flag in (*_FLAGS.items(), *((name, name) for name in UNSUPPORTED_MODEL_KEYS)):
        text = given.get(flag)
        # Scripts pass empty variables on; only to a device they mean something.
        if text or (text is not None and key == "target_device"):
            body[key] = _as_json_has_it(key, text)
    return body


def _single_model(given: Mapping[str, str | None], notices: list[str], store_dir: str) -> ModelConfig:
    body = model_body(given)
    path = given.get("model_path") or "/"
    if is_url(path):
        path = "/"
    absolute_path(path, "--model_path")
    findings = Findings()
    directory = start_of(path, "--model_path")
    model = read_model(
        body,
        findings,
        directory,
        lambda key: f"--{_FLAGS.get(key, key)}",
        may_climb=True,
        store_dir=store_dir,
    )
    notices.extend(findings.notices)
    findings.finish()
    if model is None:
        raise ConfigError("--model_name: the model cannot be read")
    return model


def _as_json_has_it(key: str, text: str) -> object:
    """The value as the configuration file would have it, where its type is not text there."""
    if key in ("nireq", "weight"):
        is_number = text.isascii() and text.isdecimal() and len(text) <= _LONGEST_NUMBER
        return int(text) if is_number else text
    if key in _SWITCHES:
        try:
            value: object = json.loads(text.lower())
        except ValueError:
            return text
        return value
    return text
