# SPDX-License-Identifier: Apache-2.0
"""New versions that cannot be loaded, in every way that we could think of: each is a status with a reason, no more.

Beside each bad version 2 serves a good version 1, under load, from the same worker process as before.
"""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
import threading
import time
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import psutil
import pytest

from tests.support import rest_client
from tests.support.ledger import Ledger, assert_nothing_left
from tests.support.server import Server
from tests.support.version_load import VersionLoad, adder_weights, install_adder
from tests.support.waiting import eventually

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.support.models import ModelZoo
    from tests.support.tfs_client import TfsClient

LOAD_TIMEOUT_S = 10
TOLD_WITHIN_S = 60.0
SERVED_WITHIN_S = 15.0
"""The aim is 3 s; this is for a machine whose cores are busy with the tests."""
X = np.arange(10, dtype=np.float32)[None]
Files = dict[str, bytes]


# What can be wrong with a version. Its files are given those of the good model ``tiny`` and ONNX's.


@dataclass(frozen=True)
class Bad:
    """A version that cannot be loaded.

    Attributes:
        files: Makes its files from those of a good one.
        texts: What the reason must have, whatever their case.
    """

    files: Callable[[Files], Files]
    texts: tuple[str, ...]


def named(name: str) -> Callable[[Files], Files]:
    """A good model whose file name tells the preloaded library what to do."""
    return lambda good: {f"{name}.xml": good["model.xml"], f"{name}.bin": good["model.bin"]}


def one_file(name: str, content: bytes) -> Callable[[Files], Files]:
    return lambda good: {name: content}


NOISE = np.random.default_rng(7).bytes(4096)
BAD = {
    "abort": Bad(named("abort_me"), ("SIGABRT",)),
    "crash": Bad(named("crash_me"), ("SIGSEGV",)),
    "exit": Bad(named("exit_me"), ("ended without a word",)),
    "hang": Bad(named("hang_me"), (f"not over within {LOAD_TIMEOUT_S} s", "--load_timeout_s")),
    "xml_empty": Bad(lambda good: {**good, "model.xml": b""}, ("model.xml",)),
    "xml_noise": Bad(lambda good: {**good, "model.xml": NOISE}, ("model.xml",)),
    "xml_half": Bad(
        lambda good: {**good, "model.xml": good["model.xml"][: len(good["model.xml"]) // 2]}, ("model.xml",)
    ),
    "xml_of_something_else": Bad(lambda good: {**good, "model.xml": b"<html></html>"}, ("model.xml",)),
    "bin_empty": Bad(lambda good: {**good, "model.bin": b""}, ("model.xml", "weights")),
    "bin_truncated": Bad(lambda good: {**good, "model.bin": good["model.bin"][:3]}, ("model.xml", "weights")),
    "ir_9": Bad(
        lambda good: {
            **good,
            "model.xml": re.sub(rb'version="1\d"', b'version="9"', good["model.xml"], count=1),
        },
        ("model.xml",),
    ),
    "unknown_operation": Bad(
        lambda good: {**good, "model.xml": good["model.xml"].replace(b'type="Add"', b'type="Bdd"')}, ("Bdd",)
    ),
    "rankless": Bad(lambda good: good, ("number of dimensions", "shape")),
    "onnx_noise": Bad(one_file("model.onnx", NOISE), ("model.onnx",)),
    "onnx_empty": Bad(one_file("model.onnx", b""), ("model.onnx",)),
    "pb_memory": Bad(one_file("model.pb", b"*/_ORT_MEM_ADDR_/*"), ("model.pb", "memory address")),
    "pb_noise": Bad(one_file("model.pb", NOISE), ("model.pb",)),
    "saved_model_noise": Bad(one_file("saved_model.pb", NOISE), ("cannot read 2: ",)),
    "tflite_noise": Bad(one_file("model.tflite", NOISE), ("model.tflite",)),
    "paddle_noise": Bad(lambda good: {"m.pdmodel": NOISE, "m.pdiparams": NOISE}, ("m.pdmodel",)),
}
OTHERS = ("half_copied", "truncated", "changed", "removed", "copied", "renamed")


@dataclass(frozen=True)
class Place:
    """The server, and where its models are; each test has a model of its own."""

    server: Server
    root: Path
    good: Files
    rankless: Files
    tfs: TfsClient

    def statuses(self, model: str) -> list[dict[int, tuple[str, str, str]]]:
        """State, error code and message of each version: over REST, and over gRPC."""
        document = rest_client.request(self.server.rest_port, "GET", f"/v1/models/{model}").json()
        reply = self.tfs.call(self.server.port, "GetModelStatus", {"modelSpec": {"name": model}})
        return [
            {
                int(entry["version"]): (
                    entry["state"],
                    entry["status"].get("error_code", "OK"),
                    entry["status"].get("error_message", ""),
                )
                for entry in found["model_version_status"]
            }
            for found in (document, reply.response)
        ]

    def wait_for(self, model: str, version: int, state: str) -> None:
        eventually(
            lambda: all(found.get(version, ("",))[0] == state for found in self.statuses(model)),
            TOLD_WITHIN_S,
            f"{model} version {version} is {state}",
        )

    def reason(self, model: str, *texts: str) -> str:
        """Why version 2 is not there: told alike over both protocols, as a failed load, with these words.

        A machine that is busy enough may have another reason the first time: the trial took too long.
        """

        def found() -> str:
            both = self.statuses(model)
            assert all(statuses[1] == ("AVAILABLE", "OK", "") for statuses in both), both
            entries = [statuses.get(2) for statuses in both]
            # While the load is tried again, its last reason is not shown.
            is_told = all(entry and entry[:2] == ("LOADING", "UNKNOWN") and entry[2] for entry in entries)
            reason = entries[0][2] if is_told and entries[0] else ""
            seen.append(reason)
            return reason if all(text.lower() in reason.lower() for text in texts) else ""

        seen: list[str] = []
        try:
            return eventually(found, TOLD_WITHIN_S, f"{model} version 2 has failed, with a reason")
        except AssertionError as error:
            raise AssertionError(f"{error}; wanted {texts}, seen {set(seen)}") from None

    def amounts(self, model: str, version: int = 0) -> tuple[float, float]:
        """What the version adds, asked over REST and then over gRPC."""
        answer = rest_client.predict(self.server.rest_port, model, {"inputs": X.tolist()}, version)
        assert answer.status == 200, answer.text()
        reply = self.tfs.predict(self.server.port, model, {"x": X}, version=version)
        assert reply.code == "OK", reply.details
        differences = [
            set((array - X).ravel().tolist())
            for array in (
                np.asarray(answer.json()["outputs"], np.float32),
                reply.outputs()["y"].astype(np.float32),
            )
        ]
        assert [len(found) for found in differences] == [1, 1], differences
        return differences[0].pop(), differences[1].pop()

    def amount(self, model: str, version: int = 0) -> float:
        """The same, where both answers must come from the same version."""
        over_rest, over_grpc = self.amounts(model, version)
        assert over_rest == over_grpc
        return over_rest

    def lines(self, *words: str) -> list[str]:
        """Lines of the log with all these words."""
        return [line for line in self.server.log().splitlines() if all(word in line for word in words)]

    def load(self, model: str) -> VersionLoad:
        """Two clients, one of each protocol."""
        return VersionLoad(self.server.port, self.server.rest_port, [model], clients=2)


@pytest.fixture(scope="module")
def place(
    zoo: ModelZoo, settings_models: Path, tfs: TfsClient, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Place]:
    root = tmp_path_factory.mktemp("bad")
    library = compile_library(root)
    for model in (*BAD, *OTHERS):
        install_adder(zoo, root / model, 1)
    entries: list[dict[str, Any]] = [
        {"name": model, "base_path": str(root / model)} for model in (*BAD, *OTHERS)
    ]
    next(entry for entry in entries if entry["name"] == "removed")["model_version_policy"] = {"all": {}}
    config = root / "config.json"
    config.write_text(json.dumps({"model_config_list": [{"config": entry} for entry in entries]}))
    before = Ledger.take()
    arguments = ["config", "--config_path", str(config), "--load_timeout_s", str(LOAD_TIMEOUT_S)]
    environment = {"LD_PRELOAD": str(library)}
    with Server(arguments, root / "server.log", environment, start_within_s=120.0) as server:
        good, rankless = files_of(zoo.base_path("tiny")), files_of(settings_models / "rankless")
        yield Place(server, root, good, rankless, tfs)
        tfs.forget(server.port)
    assert_nothing_left(before)
    assert not list(Path("/tmp").glob(f"ovms_mp-compiled-{server.process.pid}-*"))  # noqa: S108  # looked at, not used


def compile_library(directory: Path) -> Path:
    """The library that makes probes fail; see its source."""
    gcc = shutil.which("gcc")
    assert gcc is not None
    source, library = Path(__file__).parents[1] / "support" / "bad_files.c", directory / "bad_files.so"
    command = [gcc, "-Wall", "-Werror", "-shared", "-fPIC", "-o", str(library), str(source), "-ldl"]
    subprocess.run(command, check=True, timeout=60)
    return library


def files_of(base_path: Path) -> Files:
    return {path.name: path.read_bytes() for path in (base_path / "1").iterdir()}


def install(files: Files, base_path: Path, version: int) -> Path:
    """Make them a version; it appears at once, by a rename."""
    half_done = base_path.parent / f".{base_path.name}-{version}"
    half_done.mkdir()
    for name, content in files.items():
        (half_done / name).write_bytes(content)
    return half_done.rename(base_path / str(version))


def pause(seconds: float) -> None:
    """The pace of somebody who copies; waits for nothing."""
    threading.Event().wait(seconds)


def assert_served_by_one(load: VersionLoad, model: str) -> None:
    """Not one request failed, and all that were asked so far were answered by version 1."""
    assert not load.failures(), load.failures()[:5]
    assert {answer.version for answer in load.answers if answer.model == model} == {1}


@pytest.mark.parametrize("model", BAD)
@pytest.mark.timeout(240)
def test_bad_version_is_only_a_status(place: Place, zoo: ModelZoo, model: str) -> None:
    """And when its files are replaced by good ones, it serves."""
    bad, base_path, server = BAD[model], place.root / model, place.server
    workers = server.pids("worker")
    with place.load(model) as load:
        eventually(lambda: load.count(model) > 20, 20.0, "load under way")
        install(bad.files(place.rankless if model == "rankless" else place.good), base_path, 2)
        reason = place.reason(model, *bad.texts)
        before = load.count(model)
        eventually(lambda: load.count(model) > before + 20, 20.0, "answers after the failure")
        assert_served_by_one(load, model)
        assert place.tfs.predict(server.port, model, {"x": X}, version=2).code == "UNAVAILABLE"
        assert rest_client.predict(server.rest_port, model, {"inputs": X.tolist()}, 2).status == 503
        shutil.rmtree(base_path / "2")
        install_adder(zoo, base_path, 2)
        place.wait_for(model, 2, "AVAILABLE")
        eventually(lambda: load.count(model, 2) > 20, 20.0, "answers of the good version 2")
    assert not load.failures(), load.failures()[:5]
    assert server.pids("worker") == workers
    assert "Traceback" not in reason
    if model == "hang":  # Which takes longer than the time between two reports.
        words = (
            "version=hang/2 ",
            "doing='trial, reading' pid=",
            " memory_mb=",
            f" timeout_s={LOAD_TIMEOUT_S} ",
        )
        assert place.lines("event=loading ", *words)


@pytest.mark.timeout(240)
def test_bad_versions_are_tried_again_less_and_less(place: Place) -> None:
    """Also where the trial crashes: what is wrong with a machine may pass."""
    models = ("abort", "xml_noise")
    for model in models:
        install(BAD[model].files(place.good), place.root / model, 4)
    started = time.monotonic()

    def delays(model: str) -> list[str]:
        lines = place.lines("event=load_failed ", f"model={model} ", "version=4 ")
        return [found[1] for line in lines if (found := re.search(r"retry_in_s=(\S+)", line))]

    def has_four(model: str) -> bool:
        return len(delays(model)) >= 4

    for model in models:
        eventually(partial(has_four, model), TOLD_WITHIN_S, "the fourth failure")
        took_s = time.monotonic() - started
        shutil.rmtree(place.root / model / "4")
        assert delays(model)[:4] == ["1", "2", "4", "8"]
        assert took_s >= 7.0
        assert len(place.lines("event=trying ", f"model={model} ", "version=4 ")) == 4
        # It never began to serve, but it was seen.
        place.wait_for(model, 4, "END")


@pytest.mark.timeout(120)
def test_trial_that_hangs_does_not_hold_up_other_models(
    zoo: ModelZoo, tfs: TfsClient, tmp_path: Path, log_path: Path
) -> None:
    """Nor other versions of its own model, as long as it may take until it is given up."""
    entries = []
    for model in ("hanging", "other"):
        install_adder(zoo, tmp_path / model, 1)
        entries.append({"config": {"name": model, "base_path": str(tmp_path / model)}})
    config = tmp_path / "config.json"
    config.write_text(json.dumps({"model_config_list": entries}))
    arguments = ["config", "--config_path", str(config), "--load_timeout_s", "600"]
    with Server(arguments, log_path, {"LD_PRELOAD": str(compile_library(tmp_path))}) as server:
        place = Place(server, tmp_path, files_of(zoo.base_path("tiny")), {}, tfs)
        install(BAD["hang"].files(place.good), tmp_path / "hanging", 2)
        eventually(
            lambda: place.lines("event=trying ", "model=hanging ", "version=2 "), 30.0, "the trial that hangs"
        )
        install_adder(zoo, tmp_path / "other", 2)
        eventually(
            lambda: place.amounts("other") == (2, 2), 3 * SERVED_WITHIN_S, "the other model's version 2"
        )
        install_adder(zoo, tmp_path / "hanging", 3)
        eventually(lambda: place.amounts("hanging") == (3, 3), 3 * SERVED_WITHIN_S, "version 3")
        tfs.forget(server.port)


def padded(good: Files, amount: int, padding: int) -> Files:
    """A model that adds ``amount``, whose one weight lies behind a long padding: at the very end of its file."""
    xml = good["model.xml"].replace(b'offset="0" size="4"', b'offset="%d" size="4"' % padding)
    assert xml != good["model.xml"]
    weight = np.float32(amount).tobytes()
    assert len(good["model.bin"]) == len(weight)
    return {"model.xml": xml, "model.bin": bytes(padding) + weight}


@pytest.mark.timeout(120)
def test_half_copied_version_is_loaded_only_when_it_is_complete(
    place: Place, capsys: pytest.CaptureFixture[str]
) -> None:
    """A copy as ``cp -r`` does it, the small file first, over a slow line."""
    model, server = "half_copied", place.server
    files = padded(place.good, 2, 4 << 20)
    directory = place.root / model / "2"
    workers = server.pids("worker")
    with place.load(model) as load:
        eventually(lambda: load.count(model) > 20, 20.0, "load under way")
        directory.mkdir()
        (directory / "model.xml").write_bytes(files["model.xml"])
        pause(0.3)
        with (directory / "model.bin").open("wb") as file:
            step = len(files["model.bin"]) // 20 + 1
            for start in range(0, len(files["model.bin"]), step):
                assert not place.lines("event=trying ", f"model={model} ", "version=2 ")
                assert_served_by_one(load, model)
                file.write(files["model.bin"][start : start + step])
                file.flush()
                pause(0.2)
            statuses = place.statuses(model)
        copied_at = time.monotonic()
        eventually(lambda: load.count(model, 2) > 0, SERVED_WITHIN_S, "version 2 answers")
        took_s = time.monotonic() - copied_at
    # While it came it was there to see, without an error.
    assert all(found[2] == ("START", "OK", "") for found in statuses), statuses
    assert not load.failures(), load.failures()[:5]
    assert len(place.lines("event=trying ", f"model={model} ", "version=2 ")) == 1
    assert not place.lines("event=load_failed ", f"model={model} ")
    assert server.pids("worker") == workers
    report(capsys, "a version copied over 4 s", took_s)


def report(capsys: pytest.CaptureFixture[str], what: str, seconds: float) -> None:
    """Tell a measurement, whatever pytest captures."""
    with capsys.disabled():
        sys.stdout.write(f"\n{what} served {seconds:.2f} s after the end of its copy (aim: 3 s)\n")


@pytest.mark.timeout(120)
def test_version_that_is_truncated_while_it_is_read(place: Place, zoo: ModelZoo) -> None:
    """The probe has the file open when it shrinks."""
    model, server, base_path = "truncated", place.server, place.root / "truncated"
    files = padded(place.good, 2, 4 << 20)
    workers = server.pids("worker")
    with place.load(model) as load:
        version = install(
            {"wait_me.xml": files["model.xml"], "wait_me.bin": files["model.bin"]}, base_path, 2
        )
        eventually(lambda: is_open_in_a_probe(version / "wait_me.bin"), 30.0, "a probe has the file open")
        with (version / "wait_me.bin").open("r+b") as file:
            file.truncate(1 << 20)
        assert place.reason(model)
        assert_served_by_one(load, model)
        shutil.rmtree(version)
        install_adder(zoo, base_path, 2)
        eventually(lambda: load.count(model, 2) > 20, TOLD_WITHIN_S, "answers of the good version 2")
    assert not load.failures(), load.failures()[:5]
    assert server.pids("worker") == workers


def is_open_in_a_probe(path: Path) -> bool:
    for process in psutil.process_iter(["cmdline"]):
        if "ovms_mp.worker.probe" in (process.info["cmdline"] or []):
            try:
                if any(file.path == str(path) for file in process.open_files()):
                    return True
            except psutil.NoSuchProcess:
                continue
    return False


@pytest.mark.timeout(120)
def test_files_changed_in_place_are_told_and_loaded_on_request(place: Place, zoo: ModelZoo) -> None:
    """What was loaded serves on, and nothing is loaded half."""
    model = "changed"
    weights = place.root / model / "1" / "model.bin"
    assert place.amount(model) == 1
    handles = place.lines("event=available ", f"model={model} ")
    weights.write_bytes(adder_weights(zoo.base_path("tiny") / "1" / "model.bin", 7))

    def is_told() -> bool:
        return all(
            found[1][:2] == ("AVAILABLE", "OK") and "changed on disk" in found[1][2]
            for found in place.statuses(model)
        )

    eventually(is_told, TOLD_WITHIN_S, "the change is told")
    assert place.amount(model) == 1
    assert place.lines("event=available ", f"model={model} ") == handles
    assert len(place.lines("event=changed_on_disk ", f"model={model} ")) == 1
    reply = rest_client.request(place.server.rest_port, "POST", "/v1/config/reload")
    assert reply.status == 201, (reply.status, reply.text())
    assert place.amount(model) == 7
    assert place.statuses(model) == [{1: ("AVAILABLE", "OK", "")}] * 2


@pytest.mark.timeout(120)
def test_files_changed_in_place_for_worse_leave_what_serves(place: Place) -> None:
    """A reload that fails says so, and the version goes on."""
    model = "changed"
    xml = place.root / model / "1" / "model.xml"
    before, amount = xml.read_bytes(), place.amount(model)
    xml.write_bytes(NOISE)
    reply = rest_client.request(place.server.rest_port, "POST", "/v1/config/reload")
    assert reply.status == 400, (reply.status, reply.text())
    assert "Reloading models versions failed" in reply.text()
    assert "model.xml" in reply.text()
    assert place.amount(model) == amount
    for found in place.statuses(model):
        assert found[1][:2] == ("AVAILABLE", "OK")
        assert found[1][2]
    xml.write_bytes(before)
    reply = rest_client.request(place.server.rest_port, "POST", "/v1/config/reload")
    assert reply.status in (200, 201), (reply.status, reply.text())
    assert place.amount(model) == amount
    eventually(
        lambda: place.statuses(model) == [{1: ("AVAILABLE", "OK", "")}] * 2, TOLD_WITHIN_S, "no message left"
    )


@pytest.mark.timeout(120)
def test_version_directory_that_is_removed_and_restored(place: Place, zoo: ModelZoo) -> None:
    model, server, base_path = "removed", place.server, place.root / "removed"
    hidden = place.root / ".hidden"
    install_adder(zoo, base_path, 2)
    place.wait_for(model, 2, "AVAILABLE")
    for _ in range(2):
        assert place.amount(model) == place.amount(model, 2) == 2
        (base_path / "2").rename(hidden)
        place.wait_for(model, 2, "END")
        assert all(found[1] == ("AVAILABLE", "OK", "") for found in place.statuses(model))
        assert place.amount(model) == 1
        answer = rest_client.predict(server.rest_port, model, {"inputs": X.tolist()}, 2)
        assert (answer.status, f"Specific({model}, 2)" in answer.text()) == (404, True)
        assert place.tfs.predict(server.port, model, {"x": X}, version=2).code == "NOT_FOUND"
        hidden.rename(base_path / "2")
        place.wait_for(model, 2, "AVAILABLE")


@pytest.mark.timeout(120)
@pytest.mark.parametrize("model", ["copied", "renamed"])
def test_new_version_serves_soon_after_its_copy(
    place: Place, zoo: ModelZoo, model: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert place.amount(model) == 1
    if model == "renamed":
        install_adder(zoo, place.root / model, 2)
    else:
        directory = place.root / model / "2"
        directory.mkdir()
        for name, content in padded(place.good, 2, 1 << 20).items():
            (directory / name).write_bytes(content)
    copied_at = time.monotonic()
    eventually(lambda: place.amounts(model) == (2, 2), SERVED_WITHIN_S, "version 2 serves")
    report(capsys, f"a version that was {model}", time.monotonic() - copied_at)
