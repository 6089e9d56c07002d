# SPDX-License-Identifier: Apache-2.0
"""The configuration file: OVMS's JSON document to model configurations, every error with its place in the document.

All errors are found and told at once. Reading has no effect but on the file's access time, so the manager may read a
file that is being written as often as it likes: half a document is an error like any other.
"""

from __future__ import annotations

import errno
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ovms_mp.config.json_document import Fault, Findings, child_place, client_text, config_error, is_text
from ovms_mp.config.metrics import read_monitoring
from ovms_mp.config.model import RefusedModel
from ovms_mp.config.model_keys import (
    MAX_NAME_BYTES,
    MODEL_KEYS,
    UNSUPPORTED_MODEL_KEYS,
    UNSUPPORTED_ROOT_KEYS,
)
from ovms_mp.config.model_settings import read_model, refuse_unsupported
from ovms_mp.errors import ConfigError, ConfigUnreadable
from ovms_mp.files import read_regular

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from ovms_mp.config.metrics import MetricsConfig
    from ovms_mp.config.model import ModelConfig
    from ovms_mp.model.store_url import StoreUrl

MAX_BYTES = 16 << 20
_LIST = '"model_config_list": [{"config": {"name": "m", "base_path": "/models/m"}}]'
_ENTRY = '{"config": {"name": "m", "base_path": "/models/m"}}'


@dataclass(frozen=True, slots=True)
class ConfigDocument:
    """What a configuration file says.

    Attributes:
        models: Those that can be served, in the file's order.
        refused: Entries that cannot.
        notices: For the log.
        faults: All that is wrong with ``refused``.
        metrics: What is said of ``/metrics``; None where that is nothing, or wrong.
        metrics_faults: What is wrong with that; also among ``faults``.
    """

    models: tuple[ModelConfig, ...]
    refused: tuple[RefusedModel, ...]
    notices: tuple[str, ...]
    faults: tuple[Fault, ...]
    metrics: MetricsConfig | None = None
    metrics_faults: tuple[Fault, ...] = ()

    def error(self) -> ConfigError:
        """What is refused, as an error."""
        return config_error(self.faults)


def parse_config_file(
    path: Path, *, is_strict: bool = False, store_dir: str = ""
) -> tuple[tuple[ModelConfig, ...], tuple[str, ...]]:
    """Read a configuration file in OVMS's JSON form, all of which must be right.

    Args:
        path: The file; relative base paths start at its directory.
        is_strict: Unknown keys are errors, not notices.
        store_dir: Where models from object stores are downloaded to.

    Returns:
        The models, and notices for the log.

    Raises:
        ConfigError: One line for each error, with the JSON path, the value and what is accepted.
        ConfigUnreadable: The file cannot be read.
    """
    document = read_config_file(path, is_strict=is_strict, store_dir=store_dir)
    if document.faults:
        raise document.error()
    return document.models, document.notices


def read_config_file(
    path: Path, *, is_strict: bool = False, store_dir: str = "", origin: StoreUrl | None = None
) -> ConfigDocument:
    """Read a configuration file of which single entries may be wrong.

    Args:
        path: The file; relative base paths start at its directory.
        is_strict: Any error is one of the file.
        store_dir: Where models from object stores are downloaded to.
        origin: The URL that the file was downloaded from; relative base paths start beside it then.

    Raises:
        ConfigError: It is no configuration at all: no JSON, or without a list of models.
        ConfigUnreadable: The file cannot be read.
    """
    findings = Findings(is_strict=is_strict)
    document = findings.load(_read(path), "$")
    findings.finish()
    start = origin or path.absolute().parent
    reader = _FileReader(start, store_dir, findings, is_strict=is_strict)
    models = reader.read(document)
    notices, faults = tuple(findings.notices), tuple(reader.faults)
    refused, metrics_faults = tuple(reader.refused), tuple(reader.metrics_faults)
    found = ConfigDocument(models, refused, notices, faults, reader.metrics, metrics_faults)
    if is_strict and found.faults:
        raise found.error()
    return found


def _read(path: Path) -> bytes:
    try:
        return read_regular(path, MAX_BYTES)
    except (OSError, ValueError) as error:
        reason = (error.strerror if isinstance(error, OSError) else None) or error
        text = f"--config_path {path}: {reason}; give a JSON file with {_LIST}"
        told = f"the configuration file {path.name}: {reason}"
        if isinstance(error, OSError) and error.errno == errno.EFBIG:
            raise ConfigError(text, told) from None
        raise ConfigUnreadable(text, told) from None


class _FileReader:
    """Walks a decoded configuration document. Each entry has findings of its own; ``findings`` are the rest's."""

    def __init__(
        self, start: Path | StoreUrl, store_dir: str, findings: Findings, *, is_strict: bool
    ) -> None:
        self._start = start
        self._store_dir = store_dir
        self._findings = findings
        self._is_strict = is_strict
        self.refused: list[RefusedModel] = []
        self.faults: list[Fault] = []
        self.metrics: MetricsConfig | None = None
        self.metrics_faults: list[Fault] = []

    def read(self, document: object) -> tuple[ModelConfig, ...]:
        """The models of a whole document that are right.

        Raises:
            ConfigError: It has no list of models, or what JSON may not have outside it.
        """
        findings = self._findings
        if not isinstance(document, dict):
            findings.look_over(document, "$")
            findings.refuse("$", document, "{" + _LIST + "}")
            findings.finish()
            return ()
        entries = document.get("model_config_list")
        is_list = isinstance(entries, list)
        findings.look_over(document, "$", but=entries if is_list else None)
        findings.finish()
        place = "$.model_config_list"
        if "model_config_list" not in document:
            text = f"$: model_config_list is missing; accepted: {_LIST}, or an empty list"
            findings.faults.append(Fault.at("$", text, "model_config_list is missing"))
        elif not is_list:
            findings.refuse(place, entries, f"a list of {_ENTRY}")
        known = ("model_config_list", "monitoring")
        beside = Findings(is_strict=self._is_strict)
        beside.unknown_keys("$", document, known, UNSUPPORTED_ROOT_KEYS)
        refuse_unsupported(document, UNSUPPORTED_ROOT_KEYS, beside, lambda key: child_place("$", key))
        monitoring = Findings(is_strict=self._is_strict)
        self.metrics = read_monitoring(document.get("monitoring"), monitoring)
        self.metrics_faults = monitoring.faults
        beside.notices += monitoring.notices
        beside.faults += monitoring.faults
        findings.notices += beside.notices
        if findings.faults:
            raise config_error([*beside.faults, *findings.faults])
        if beside.faults:
            self._refuse("", beside.faults)
        return self._models(entries, place) if isinstance(entries, list) else ()

    def _refuse(self, name: str, faults: Sequence[Fault]) -> None:
        self.faults += faults
        reasons = tuple(fault.text for fault in faults)
        self.refused.append(RefusedModel(name, reasons, client_text(faults)))

    def _models(self, entries: list[object], place: str) -> tuple[ModelConfig, ...]:
        models: list[ModelConfig] = []
        places: dict[str, str] = {}
        for index, entry in enumerate(entries):
            where = child_place(place, index)
            findings = Findings(is_strict=self._is_strict)
            body = entry.get("config") if isinstance(entry, dict) else None
            model = None
            if findings.look_over(entry, where, level=3):
                model = self._model(entry, body, where, findings)
            name = body.get("name") if isinstance(body, dict) else None
            if isinstance(name, str) and name in places:
                # The first one counts, whatever becomes of it: which of them is meant only their author knows.
                reason = f"{places[name]} has the same name"
                findings.refuse(f"{where}.config.name", name, "another name for one of them", reason)
            elif isinstance(name, str):
                places[name] = f"{where}.config"
            self._findings.notices += findings.notices
            if findings.faults:
                has_name = isinstance(name, str) and is_text(name) and len(name.encode()) <= MAX_NAME_BYTES
                self._refuse(str(name) if has_name else "", findings.faults)
            elif model is not None:
                models.append(model)
        return tuple(models)

    def _model(self, entry: object, body: object, where: str, findings: Findings) -> ModelConfig | None:
        if not isinstance(entry, dict) or not isinstance(body, dict):
            findings.refuse(where, entry, _ENTRY)
            return None
        findings.unknown_keys(where, entry, ("config",))
        where += ".config"
        findings.unknown_keys(where, body, MODEL_KEYS, UNSUPPORTED_MODEL_KEYS)
        return read_model(
            body,
            findings,
            self._start,
            lambda key: child_place(where, key),
            may_climb=False,
            store_dir=self._store_dir,
        )
