# SPDX-License-Identifier: Apache-2.0
"""The configuration file: OVMS's JSON document to model configurations, every error with its place in the document.

All errors are found and told at once. Reading has no effect but on the file's access time, so the manager may read a
file that is being written as often as it likes: half a document is an error like any other.
"""

from __future__ import annotations

import os
import stat
from typing import TYPE_CHECKING

from ovms_mp.errors import ConfigError, ConfigUnreadable
from ovms_mp.json_document import Findings, child_place
from ovms_mp.model_keys import MODEL_KEYS, UNSUPPORTED_MODEL_KEYS, UNSUPPORTED_ROOT_KEYS
from ovms_mp.model_settings import read_model, refuse_unsupported

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from ovms_mp.config import ModelConfig

_MAX_BYTES = 16 << 20
_LIST = '"model_config_list": [{"config": {"name": "m", "base_path": "/models/m"}}]'
_ENTRY = '{"config": {"name": "m", "base_path": "/models/m"}}'


def parse_config_file(
    path: Path, *, is_strict: bool = False
) -> tuple[tuple[ModelConfig, ...], tuple[str, ...]]:
    """Read a configuration file in OVMS's JSON form.

    Args:
        path: The file; relative base paths start at its directory.
        is_strict: Unknown keys are errors, not notices.

    Returns:
        The models, and notices for the log.

    Raises:
        ConfigError: One line for each error, with the JSON path, the value and what is accepted.
        ConfigUnreadable: The file cannot be read.
    """
    findings = Findings(is_strict=is_strict)
    document = findings.decode(_read(path), "$")
    findings.finish()
    models = _FileReader(path.absolute().parent, findings).read(document)
    findings.finish()
    return models, tuple(findings.notices)


def _read(path: Path) -> bytes:
    try:
        # Non-blocking, as opening a FIFO would wait for a writer.
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        with open(descriptor, "rb") as file:
            if not stat.S_ISREG(os.fstat(descriptor).st_mode):
                raise ConfigUnreadable(f"--config_path {path}: is no file; give a JSON file with {_LIST}")
            content = file.read(_MAX_BYTES + 1)
    except (OSError, ValueError) as error:
        reason = (error.strerror if isinstance(error, OSError) else None) or error
        raise ConfigUnreadable(f"--config_path {path}: {reason}; give a JSON file with {_LIST}") from None
    if len(content) > _MAX_BYTES:
        raise ConfigError(f"--config_path {path}: is too long; accepted: {_MAX_BYTES >> 20} MiB")
    return content


class _FileReader:
    """Walks a decoded configuration document."""

    def __init__(self, directory: Path, findings: Findings) -> None:
        self._directory = directory
        self._findings = findings

    def read(self, document: object) -> tuple[ModelConfig, ...]:
        """The models of a whole document that are right."""
        if not isinstance(document, dict):
            self._findings.refuse("$", document, "{" + _LIST + "}")
            return ()
        known = ("model_config_list", "monitoring")
        self._note_unknown(document, (*known, *UNSUPPORTED_ROOT_KEYS), known, "$")
        refuse_unsupported(document, UNSUPPORTED_ROOT_KEYS, self._findings, lambda key: child_place("$", key))
        self._check_monitoring(document.get("monitoring"))
        entries = document.get("model_config_list")
        place = "$.model_config_list"
        if "model_config_list" not in document:
            self._findings.errors.append(
                f"$: model_config_list is missing; accepted: {_LIST}, or an empty list"
            )
        elif not isinstance(entries, list):
            self._findings.refuse(place, entries, f"a list of {_ENTRY}")
        else:
            return self._models(entries, place)
        return ()

    def _models(self, entries: list[object], place: str) -> tuple[ModelConfig, ...]:
        models: list[ModelConfig] = []
        places: dict[object, str] = {}
        for index, entry in enumerate(entries):
            where = child_place(place, index)
            body = entry.get("config") if isinstance(entry, dict) else None
            if not isinstance(entry, dict) or not isinstance(body, dict):
                self._findings.refuse(where, entry, _ENTRY)
                continue
            self._note_unknown(entry, ("config",), ("config",), where)
            where += ".config"
            self._note_unknown(body, (*MODEL_KEYS, *UNSUPPORTED_MODEL_KEYS), MODEL_KEYS, where)
            model = self._model(body, where)
            if model is not None:
                models.append(model)
            name = body.get("name")
            if isinstance(name, str) and name in places:
                self._findings.refuse(
                    f"{where}.name",
                    name,
                    "another name for one of them",
                    f"it is the name of {places[name]} too",
                )
            elif isinstance(name, str):
                places[name] = where
        return tuple(models)

    def _model(self, body: dict[str, object], place: str) -> ModelConfig | None:
        return read_model(
            body, self._findings, self._directory, lambda key: child_place(place, key), may_climb=False
        )

    def _check_monitoring(self, monitoring: object) -> None:
        """OVMS's metrics: checked, so that a file is right once there are any."""
        if monitoring is None:
            return
        place = "$.monitoring"
        accepted = '{"metrics": {"enable": true, "metrics_list": ["ovms_requests_success"]}}'
        if not isinstance(monitoring, dict) or not isinstance(monitoring.get("metrics"), dict):
            self._findings.refuse(place, monitoring, accepted)
            return
        self._note_unknown(monitoring, ("metrics",), ("metrics",), place)
        metrics, place = monitoring["metrics"], "$.monitoring.metrics"
        known = ("enable", "metrics_list")
        self._note_unknown(metrics, known, known, place)
        names = metrics.get("metrics_list", [])
        if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
            self._findings.refuse(f"{place}.metrics_list", names, "a list of texts")
        is_enabled = metrics.get("enable")
        if not isinstance(is_enabled, bool):
            self._findings.refuse(f"{place}.enable", is_enabled, "true or false")
        elif is_enabled:
            self._findings.notices.append(f"{place}.enable has no effect: there are no metrics yet")

    def _note_unknown(
        self, body: dict[str, object], known: Iterable[str], told: Iterable[str], place: str
    ) -> None:
        """Note keys that are not known; ``told`` are those worth a hint."""
        names = set(known)
        for key in body:
            if key not in names:
                self._findings.unknown_key(place, key, told)
