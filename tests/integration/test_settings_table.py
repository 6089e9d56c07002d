# SPDX-License-Identifier: Apache-2.0
"""The acceptance table of model settings: every row is one model of a real server, asked over both protocols.

Rows are in ``tests/support/settings_rows_*.py``; together they are one configuration file. The expected
answers are those of OVMS, computed with numpy.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from ovms_mp import errors
from ovms_mp.codes import ExitCode
from tests.conformance.case import Answer, Refusal
from tests.support import rest_client, settings_rows_engine, settings_rows_files, settings_rows_inputs
from tests.support.ledger import Ledger, assert_nothing_left
from tests.support.refusals import refusal
from tests.support.server import Server, free_ports
from tests.support.settings_rows import (
    PLUS_ONE,
    Ask,
    Fails,
    OnDevice,
    Outcome,
    RefusedFile,
    Row,
    Serves,
    Spec,
    Versions,
    ramp,
)
from tests.support.version_load import install_adder
from tests.support.waiting import eventually

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    from ovms_mp.model.dtypes import AnyArray
    from tests.support.models import ModelZoo
    from tests.support.tensors import Document
    from tests.support.tfs_client import TfsClient

ROWS = (
    *settings_rows_files.FORMATS,
    *settings_rows_files.MAPPINGS,
    *settings_rows_files.POLICIES,
    *settings_rows_inputs.BATCHES,
    *settings_rows_inputs.SHAPES,
    *settings_rows_inputs.LAYOUTS,
    *settings_rows_inputs.PREPROCESSING,
    *settings_rows_engine.REQUESTS,
    *settings_rows_engine.PLUGIN_CONFIGS,
    *settings_rows_engine.DEVICES,
)
REFUSED = (*settings_rows_inputs.REFUSED_INPUTS, *settings_rows_engine.REFUSED_ENGINE)
STATUS_TELLS_WITHIN_S = 30.0
"""While a failed load is tried again, its status has no reason for a moment."""
LOADED_WITHIN_S = 300.0
RELATIVE_ERROR = 1e-5
pytestmark = pytest.mark.timeout(600)


@dataclass(frozen=True)
class Table:
    """The server with all rows."""

    server: Server
    tfs: TfsClient

    def versions(self, name: str) -> list[Document]:
        """The model's entry in ``GET /v1/status``."""
        document = rest_client.request(self.server.rest_port, "GET", "/v1/status").json()
        entries: list[Document] = document["models"][name]["versions"]
        return entries

    def is_loaded(self) -> bool:
        """Whether every version that was found serves or is known not to."""
        document = rest_client.request(self.server.rest_port, "GET", "/v1/status").json()
        entries = [entry for model in document["models"].values() for entry in model["versions"]]
        return all(entry["state"] not in ("START", "LOADING") or entry["error_message"] for entry in entries)


@pytest.fixture(scope="module")
def models(
    zoo: ModelZoo, settings_models: Path, formats: Path, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """A directory with the base paths of all test models."""
    root = tmp_path_factory.mktemp("settings") / "models"
    for built in (zoo.root, settings_models, formats):
        for base_path in built.iterdir():
            shutil.copytree(base_path, root / base_path.name)  # Fails where two have the same name.
    for version in (1, 2, 3):
        install_adder(zoo, root / "adders", version)
    return root


@pytest.fixture(scope="module")
def devices() -> frozenset[str]:
    """Devices that the server sees on this machine."""
    command = [sys.executable, "-m", "ovms_mp", "devices"]
    text = subprocess.run(command, check=True, timeout=120, capture_output=True, text=True).stdout
    # A line with nothing but the name; what is missing has a sentence.
    return frozenset(line for line in text.splitlines() if line and " " not in line)


@pytest.fixture(scope="module")
def table(
    request: pytest.FixtureRequest, models: Path, tfs: TfsClient, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Table]:
    """One server for all rows that this session runs."""
    directory = tmp_path_factory.mktemp("table")
    config = directory / "config.json"
    wanted = {item.callspec.id for item in request.session.items if hasattr(item, "callspec")}
    # What fails is tried again and again from then on, one after the other with what has not been tried yet.
    rows = sorted(ROWS, key=lambda row: isinstance(row.expected, Fails | OnDevice))
    entries = [entry_of(row, models, directory) for row in rows if row.name in wanted]
    config.write_text(json.dumps({"model_config_list": [{"config": entry} for entry in entries]}))
    before = Ledger.take()
    # The files of a hundred and fifty models would be looked at once a second while these are loaded.
    arguments = ["config", "--config_path", str(config), "--file_system_poll_wait_seconds", "10"]
    with Server(arguments, directory / "server.log", start_within_s=480.0) as server:
        found = Table(server, tfs)
        # The server does not wait for ever for a slow load before it opens its doors, and there are many here.
        eventually(found.is_loaded, LOADED_WITHIN_S, "every version has been loaded, or has a reason why not")
        yield found
        tfs.forget(server.port)
    assert_nothing_left(before)


def entry_of(row: Row, models: Path, directory: Path) -> dict[str, Any]:
    """The row's model in the configuration file, which lies in ``directory``."""
    base_path = models / row.model
    if row.mapping is not None or row.is_relative:
        base_path = shutil.copytree(base_path, directory / "models" / row.name)
    if row.mapping is not None:
        (base_path / "1" / "mapping_config.json").write_text(row.mapping)
    place = base_path.relative_to(directory) if row.is_relative else base_path
    return {"name": row.name, "base_path": str(place / row.path), **row.settings}


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
def test_row(table: Table, row: Row, devices: frozenset[str]) -> None:
    """What is sent in the configuration file comes out over both protocols."""
    expected = row.expected
    if isinstance(expected, OnDevice):
        expected = expected.there if expected.device in devices else expected.missing
    match expected:
        case Serves():
            assert_serves(table, row.name, expected)
        case Fails():
            assert_fails(table, row.name, expected)
        case Versions():
            assert_versions(table, row.name, expected)
    lines = table.server.log().splitlines()
    if row.log:
        assert [line for line in lines if all(word in line for word in row.log)], row.log


def assert_serves(table: Table, name: str, expected: Serves) -> None:
    (entry,) = table.versions(name)
    assert (entry["state"], entry["error_message"]) == ("AVAILABLE", "")
    assert [word for word in expected.detail if word not in entry["detail"].split()] == [], entry["detail"]
    assert expected.nireq in (None, entry["nireq"])
    assert metadata_over_grpc(table, name) == (expected.inputs, expected.outputs)
    assert metadata_over_rest(table, name) == (expected.inputs, expected.outputs)
    for ask in expected.asks:
        ask_over_grpc(table, name, ask)
        ask_over_rest(table, name, ask)


def assert_fails(table: Table, name: str, expected: Fails) -> None:
    """A status with the reason over both protocols, and a refusal with UNAVAILABLE; nobody waits for long."""

    def reasons() -> list[str]:
        document = rest_client.request(table.server.rest_port, "GET", f"/v1/models/{name}").json()
        reply = table.tfs.call(table.server.port, "GetModelStatus", {"modelSpec": {"name": name}})
        # The proto gives these fields the same names in both.
        entries = [*document["model_version_status"], *reply.response["model_version_status"]]
        told = [
            entry["status"]["error_message"]
            for entry in entries
            if (entry["state"], entry["status"].get("error_code")) == ("LOADING", "UNKNOWN")
        ]
        return told if len(told) == 2 else []

    for text in eventually(reasons, STATUS_TELLS_WITHIN_S, f"{name} is LOADING with a reason"):
        assert not [word for word in expected.texts if word.lower() not in text.lower()], text
        assert "Traceback" not in text
        assert not [part for part in text.split("; ") if part.startswith("Exception from src/")], text
    refusal = Ask({"x": ramp(1, 10)}, Refusal(errors.ModelNotReady))
    ask_over_grpc(table, name, refusal)
    ask_over_rest(table, name, refusal)


def assert_versions(table: Table, name: str, expected: Versions) -> None:
    """Those that serve answer for themselves, the default as the default; others are not found."""
    available = [entry["version"] for entry in table.versions(name) if entry["state"] == "AVAILABLE"]
    assert tuple(available) == expected.available
    for version in (0, 1, 2, 3):
        serving = version or expected.default
        wanted: Answer | Refusal = Refusal(errors.VersionNotFound, (f"Specific({name}, {version})",))
        if serving in expected.available:
            wanted = Answer({"y": ramp(1, 10) + np.float32(serving)})
        ask = Ask({"x": ramp(1, 10)}, wanted)
        ask_over_grpc(table, name, ask, version)
        ask_over_rest(table, name, ask, version)


def metadata_over_grpc(table: Table, name: str) -> tuple[dict[str, Spec], dict[str, Spec]]:
    request = {"modelSpec": {"name": name}, "metadataField": ["signature_def"]}
    reply = table.tfs.call(table.server.port, "GetModelMetadata", request)
    assert reply.code == "OK", reply.details
    return _specs(reply.response["metadata"]["signature_def"]["signatureDef"]["serving_default"])


def metadata_over_rest(table: Table, name: str) -> tuple[dict[str, Spec], dict[str, Spec]]:
    reply = rest_client.request(table.server.rest_port, "GET", f"/v1/models/{name}/metadata")
    assert reply.status == 200, reply.text()
    return _specs(reply.json()["metadata"]["signature_def"]["signatureDef"]["serving_default"])


def _specs(signature: Document) -> tuple[dict[str, Spec], dict[str, Spec]]:
    inputs, outputs = (
        {
            tensor: Spec(info["dtype"], tuple(int(dim["size"]) for dim in info["tensorShape"].get("dim", [])))
            for tensor, info in signature[side].items()
        }
        for side in ("inputs", "outputs")
    )
    return inputs, outputs


def ask_over_grpc(table: Table, name: str, ask: Ask, version: int = 0) -> None:
    reply = table.tfs.predict(table.server.port, name, ask.inputs, version=version)
    expected = ask.expected
    if isinstance(expected, Refusal):
        assert expected.error is not None
        assert reply.code == expected.error.code.name, (reply.code, reply.details)
        assert not [text for text in expected.texts if text not in reply.details], reply.details
        return
    assert reply.code == "OK", (reply.code, reply.details)
    outputs = reply.outputs()
    assert set(outputs) == set(expected.outputs)
    for tensor, array in expected.outputs.items():
        assert outputs[tensor].dtype == array.dtype
        assert_same(outputs[tensor], array)


def ask_over_rest(table: Table, name: str, ask: Ask, version: int = 0) -> None:
    body = {"inputs": {tensor: array.tolist() for tensor, array in ask.inputs.items()}}
    reply = rest_client.predict(table.server.rest_port, name, body, version)
    expected = ask.expected
    if isinstance(expected, Refusal):
        assert expected.error is not None
        assert reply.status == expected.error("").http_status, (reply.status, reply.text())
        assert not [text for text in expected.texts if text not in reply.text()], reply.text()
        return
    assert reply.status == 200, (reply.status, reply.text())
    outputs = reply.json()["outputs"]
    if len(expected.outputs) == 1:
        outputs = dict.fromkeys(expected.outputs, outputs)
    assert set(outputs) == set(expected.outputs)
    for tensor, array in expected.outputs.items():
        assert_same(np.asarray(outputs[tensor], array.dtype), array)


def assert_same(found: AnyArray, expected: AnyArray) -> None:
    assert found.shape == expected.shape
    assert np.allclose(
        found.astype(np.float64), expected.astype(np.float64), RELATIVE_ERROR, RELATIVE_ERROR
    ), found


@pytest.mark.parametrize("row", REFUSED, ids=lambda row: row.name)
def test_refused_at_the_start(
    row: RefusedFile, zoo: ModelZoo, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """Exit code 2; the message has the place in the file, the value, and what is allowed or what became of it."""
    config = tmp_path / "config.json"
    entry = {"name": "m", "base_path": str(zoo.base_path("tiny")), **row.settings}
    config.write_text(json.dumps({"model_config_list": [{"config": entry}]}))
    words = refusal(capfd, "config", "--config_path", str(config))
    assert not [text for text in row.texts if text not in words], words


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    """The program until its end, which it must find by itself."""
    port, rest_port = free_ports(2)
    return subprocess.run(
        [sys.executable, "-m", "ovms_mp", *arguments, "--port", str(port), "--rest_port", str(rest_port)],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


# The same settings as flags of a single model.


@dataclass(frozen=True)
class FlagRow:
    """Flags, and what must come out."""

    model: str
    flags: Mapping[str, str]
    expected: Outcome


FLAGS = {
    "sizes": FlagRow("tiny", {"shape": "(2,10)", "nireq": "3"}, settings_rows_inputs.FLAG_SHAPE),
    "batch": FlagRow(
        "tiny",
        {"batch_size": "1:8", "plugin_config": '{"NUM_STREAMS": "2"}', "target_device": "AUTO:CPU"},
        settings_rows_inputs.FLAG_BATCH,
    ),
    "image": FlagRow("image", settings_rows_inputs.EVERYTHING, settings_rows_inputs.FLAG_EVERYTHING),
    "policy": FlagRow(
        "adders", {"model_version_policy": '{"specific": {"versions": [1, 3]}}'}, Versions((1, 3), 3)
    ),
    "file": FlagRow("onnx_tiny/1/model.onnx", {}, PLUS_ONE),
}


@pytest.mark.parametrize("name", FLAGS)
def test_flags(name: str, models: Path, tfs: TfsClient, log_path: Path) -> None:
    row = FLAGS[name]
    flags = [part for flag, value in row.flags.items() for part in (f"--{flag}", value)]
    arguments = ["model", "--model_name", "m", "--model_path", str(models / row.model), *flags]
    with Server(arguments, log_path) as server:
        table = Table(server, tfs)
        if isinstance(row.expected, Serves):
            assert_serves(table, "m", row.expected)
        elif isinstance(row.expected, Versions):
            assert_versions(table, "m", row.expected)
        tfs.forget(server.port)


# Settings of the engine, for all models.


def blobs(directory: Path) -> set[str]:
    return {path.name for path in directory.rglob("*") if path.is_file()}


def test_cache_dir_fills_but_for_auto_without_allow_cache(
    models: Path, tmp_path: Path, log_path: Path
) -> None:
    """And a server that starts with a full cache adds nothing to it."""
    cache, config = tmp_path / "cache", tmp_path / "config.json"
    cache.mkdir()

    def write(**settings: Any) -> None:
        entry = {"name": "m", "base_path": str(models / "image"), **settings}
        config.write_text(json.dumps({"model_config_list": [{"config": entry}]}))

    def reload(server: Server) -> None:
        reply = rest_client.request(server.rest_port, "POST", "/v1/config/reload")
        assert reply.status == 201, (reply.status, reply.text())
        answer = rest_client.predict(server.rest_port, "m", {"inputs": settings_rows_inputs.NCHW.tolist()})
        assert answer.status == 200, answer.text()

    arguments = ["config", "--config_path", str(config), "--cache_dir", str(cache)]
    arguments += ["--file_system_poll_wait_seconds", "0"]
    write(shape="auto")
    with Server(arguments, log_path) as server:
        assert blobs(cache) == set()
        write(shape="auto", allow_cache=True)
        reload(server)
        of_auto = blobs(cache)
        assert of_auto
        write()
        reload(server)
        all_of_them = blobs(cache)
        assert all_of_them > of_auto
    with Server(arguments, tmp_path / "second.log") as server:
        answer = rest_client.predict(server.rest_port, "m", {"inputs": settings_rows_inputs.NCHW.tolist()})
        assert answer.status == 200, answer.text()
        assert blobs(cache) == all_of_them
    assert "event=loaded model=m version=1" in (second := (tmp_path / "second.log").read_text())
    assert "cache=used" in second


def test_missing_cpu_extension(models: Path, tmp_path: Path) -> None:
    missing = tmp_path / "missing.so"
    done = run(
        "model", "--model_name", "m", "--model_path", str(models / "tiny"), "--cpu_extension", str(missing)
    )
    assert done.returncode == ExitCode.USAGE
    text = f"File path provided as an --cpu_extension parameter does not exist in the filesystem: {missing}"
    assert text in done.stderr
    assert "Traceback" not in done.stderr


def test_cpu_extension_that_cannot_be_loaded(models: Path, tmp_path: Path) -> None:
    """Nothing is served without it, as models may need it; the linker's words say why."""
    library = tmp_path / "extension.so"
    library.write_bytes(b"this is no library")
    done = run(
        "model", "--model_name", "m", "--model_path", str(models / "tiny"), "--cpu_extension", str(library)
    )
    assert done.returncode == ExitCode.BOOT_FAILED
    assert f"--cpu_extension {library}" in done.stderr
    assert "Traceback" not in done.stderr


def test_cpu_extension_without_an_entry_point(models: Path, tmp_path: Path) -> None:
    """A library that is none of OpenVINO's, such as that of the old server."""
    source, library = tmp_path / "extension.c", tmp_path / "extension.so"
    source.write_text("int nothing(void) { return 0; }\n")
    gcc = shutil.which("gcc")
    assert gcc is not None
    subprocess.run([gcc, "-shared", "-fPIC", "-o", str(library), str(source)], check=True, timeout=60)
    done = run(
        "model", "--model_name", "m", "--model_path", str(models / "tiny"), "--cpu_extension", str(library)
    )
    assert done.returncode == ExitCode.BOOT_FAILED
    assert f"--cpu_extension {library}" in done.stderr
    assert "Traceback" not in done.stderr
