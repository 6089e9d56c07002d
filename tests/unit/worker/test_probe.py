# SPDX-License-Identifier: Apache-2.0
"""A real probe process: what it reports, what it leaves in the cache, and that its death is only its own."""

from __future__ import annotations

import shutil
import signal
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from ovms_mp.child.specs import EngineSpec
from ovms_mp.wire.messages import LoadProgress, ProbeDone
from tests.support.worker import AUTO, ProbeUnderTest, WorkerUnderTest, settings

if TYPE_CHECKING:
    from tests.support.models import ModelZoo


def tiny(zoo: ModelZoo) -> Path:
    return zoo.base_path("tiny") / "1" / "model.xml"


def test_a_good_version_is_reported_with_its_plan(zoo: ModelZoo, tmp_path: Path) -> None:
    probe = ProbeUnderTest()
    code = probe.run(tiny(zoo), settings(nireq=4), tmp_path / "log")

    assert code == 0
    *stages, done = probe.mail
    assert stages == [LoadProgress(7, stage) for stage in ("reading", "compiling", "first inference")], (
        "each stage is told once, in order"
    )
    assert isinstance(done, ProbeDone)
    assert (done.handle, done.error) == (7, None)
    assert "nireq=1" in done.detail
    assert "devices=CPU" in done.detail


@pytest.mark.parametrize("content", [b"", b"<net", b"this is no model"])
def test_files_that_are_no_model_are_a_reason_not_a_death(tmp_path: Path, content: bytes) -> None:
    model = tmp_path / "model.xml"
    model.write_bytes(content)
    probe = ProbeUnderTest()

    assert probe.run(model, settings(), tmp_path / "log") == 0
    done = probe.mail[-1]
    assert isinstance(done, ProbeDone)
    assert done.error is not None
    assert done.error.name == "ModelLoadFailed"
    assert str(model) in done.error.message


def test_a_model_whose_weights_are_cut_short_is_a_reason(zoo: ModelZoo, tmp_path: Path) -> None:
    zoo.install("pair", tmp_path / "pair", 1)
    weights = tmp_path / "pair" / "1" / "model.bin"
    weights.write_bytes(weights.read_bytes()[: weights.stat().st_size // 2])
    probe = ProbeUnderTest()

    code = probe.run(tmp_path / "pair" / "1" / "model.xml", settings(), tmp_path / "log")
    if weights.stat().st_size:
        done = probe.mail[-1]
        assert isinstance(done, ProbeDone)
        assert done.error is not None
    assert code == 0


def test_a_device_that_is_not_there_is_a_reason(zoo: ModelZoo, tmp_path: Path) -> None:
    probe = ProbeUnderTest()

    assert probe.run(tiny(zoo), settings(device="NOSUCH"), tmp_path / "log") == 0
    done = probe.mail[-1]
    assert isinstance(done, ProbeDone)
    assert done.error is not None
    assert done.error.name == "DeviceUnavailable"


def contents(cache: Path) -> dict[Path, int]:
    return {path: path.stat().st_mtime_ns for path in sorted(cache.rglob("*")) if path.is_file()}


def test_the_worker_finds_what_the_probe_compiled(zoo: ModelZoo, tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    cache.mkdir()
    probe = ProbeUnderTest()
    assert probe.run(tiny(zoo), settings(), tmp_path / "log", cache_directory=str(cache)) == 0
    filled = contents(cache)
    with WorkerUnderTest(tmp_path / "worker.log") as worker:
        # Another number of infer requests must not be another compiled model.
        loaded = worker.load(1, tiny(zoo), settings(nireq=3), str(cache))
        assert loaded.error is None
        assert "cache=used" in loaded.detail

    assert [path.name for path in filled] == ["1.blob", "entry.json"]
    assert contents(cache) == filled


def test_auto_leaves_nothing_in_the_cache_unless_allowed(zoo: ModelZoo, tmp_path: Path) -> None:
    for is_allowed in (False, True):
        cache = tmp_path / f"cache-{is_allowed}"
        cache.mkdir()
        probe = ProbeUnderTest()
        wanted = settings(inputs=AUTO, allow_cache=is_allowed)
        assert probe.run(tiny(zoo), wanted, tmp_path / "log", cache_directory=str(cache)) == 0
        assert bool(list(cache.iterdir())) is is_allowed


def test_a_library_that_crashes_ends_the_probe_alone(zoo: ModelZoo, tmp_path: Path) -> None:
    source, library = tmp_path / "crash.c", tmp_path / "libcrash.so"
    source.write_text(
        "#include <stdlib.h>\n__attribute__((constructor)) static void crash(void) { abort(); }\n"
    )
    compiler = shutil.which("gcc") or "/usr/bin/gcc"
    subprocess.run([compiler, "-shared", "-fPIC", "-o", library, source], check=True, timeout=60)
    probe = ProbeUnderTest()
    code = probe.run(tiny(zoo), settings(), tmp_path / "log", engine=EngineSpec(cpu_extension=str(library)))

    assert code == -signal.SIGABRT
    assert probe.mail == []
