# SPDX-License-Identifier: Apache-2.0
"""Compiled models that are kept, in a real worker: when they are taken, when not, and that nothing else changes."""

from __future__ import annotations

import fcntl
import itertools
import json
import os
import shutil
import zlib
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest

from ovms_mp.model.input_settings import InputSettings, InputShape
from ovms_mp.wire.messages import LoadModel, ModelStateChanged, UnloadModel
from tests.support.worker import WorkerUnderTest, settings

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.support.models import ModelCache, ModelZoo

HANDLES = itertools.count(1)
TAKEN = "cache=used"
X = np.arange(10, dtype=np.float32)[None]


@pytest.fixture(scope="module")
def worker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[WorkerUnderTest]:
    with WorkerUnderTest(tmp_path_factory.mktemp("worker") / "log") as worker:
        yield worker


@pytest.fixture(scope="module")
def exact_models(model_cache: ModelCache) -> Path:
    return model_cache.get("tests.support.build_exact_models")


@pytest.fixture(scope="module")
def worker_models(model_cache: ModelCache) -> Path:
    return model_cache.get("tests.support.build_worker_models")


@pytest.fixture
def model(zoo: ModelZoo, tmp_path: Path) -> Path:
    """A model of the test's own: y = x + 1."""
    shutil.copytree(zoo.base_path("tiny") / "1", tmp_path / "model")
    return tmp_path / "model" / "model.xml"


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    return tmp_path / "cache"


def load(worker: WorkerUnderTest, model_file: Path, cache: Path) -> tuple[int, ModelStateChanged]:
    handle = next(HANDLES)
    loaded = worker.load(handle, model_file, settings(), str(cache))
    assert loaded.error is None, loaded.error
    return handle, loaded


def is_taken(worker: WorkerUnderTest, model_file: Path, cache: Path) -> bool:
    """Load it, ask it, and let it go; whether it came from the cache."""
    handle, loaded = load(worker, model_file, cache)
    assert worker.infer(handle, X)[0].tolist() == [[value + 1 for value in range(10)]]
    worker.tell(UnloadModel(handle))
    return TAKEN in loaded.detail


def entry(cache: Path) -> Path:
    """The one that is kept; nothing else is there."""
    (found,) = cache.iterdir()
    assert sorted(path.name for path in found.iterdir()) == ["1.blob", "entry.json"]
    return found


def notices(loaded: ModelStateChanged) -> str:
    return loaded.detail.partition("\n")[2]


# What is taken.


@pytest.mark.parametrize("name", ["wide", "mapped", "clash", "free", "double"])
def test_a_kept_version_is_as_it_was(
    worker: WorkerUnderTest, exact_models: Path, cache: Path, name: str
) -> None:
    """Names, shapes, exact ranges and notices."""
    model_file = exact_models / name / "1" / "model.xml"
    first, kept = (load(worker, model_file, cache)[1] for _ in range(2))

    assert TAKEN not in first.detail
    assert TAKEN in kept.detail
    assert (kept.inputs, kept.outputs, kept.nireq) == (first.inputs, first.outputs, first.nireq)
    assert notices(kept) == notices(first)
    assert ("outputs=" in kept.detail) == ("outputs=" in first.detail)


def test_models_with_states_which_openvino_cannot_import_are_read_every_time(
    worker: WorkerUnderTest, exact_models: Path, cache: Path
) -> None:
    """And not written again and again; they answer as they do without a cache."""
    model_file = exact_models / "counter" / "1" / "model.xml"
    ones = np.ones((1, 2), np.float32)
    load(worker, model_file, cache)
    name = entry(cache).name
    for _ in range(2):
        handle, loaded = load(worker, model_file, cache)
        assert TAKEN not in loaded.detail
        assert "states" in notices(loaded)
        assert [worker.infer(handle, ones)[0].tolist() for _ in range(3)] == [[[1, 1]]] * 3
        assert [path.name for path in cache.iterdir()] == [f"{name}.refused"]


def test_what_a_kept_dynamic_model_cannot_take_is_the_client_s_fault(
    worker: WorkerUnderTest, worker_models: Path, cache: Path, tmp_path: Path
) -> None:
    """The model is read then; if that is another one by now, nobody can say whose fault it is."""
    directory = tmp_path / "grouped"
    shutil.copytree(worker_models / "grouped" / "1", directory)
    load(worker, directory / "model.xml", cache)
    handle, loaded = load(worker, directory / "model.xml", cache)
    assert TAKEN in loaded.detail
    wrong, right = np.zeros((1, 3, 8, 8), np.float32), np.zeros((1, 4, 8, 8), np.float32)
    name, text = worker.error(worker.send(handle, wrong))
    assert (name, "could not be reshaped" in text) == ("ShapeMismatch", True)
    assert worker.infer(handle, right)
    handle, _ = load(worker, directory / "model.xml", cache)
    (directory / "note.txt").write_text("new")

    assert worker.error(worker.send(handle, wrong))[0] == "InferenceFailed"


@pytest.mark.parametrize("stays", [False, True])
def test_what_stays_is_mapped_and_may_be_removed_nevertheless(
    worker: WorkerUnderTest, model: Path, cache: Path, *, stays: bool
) -> None:
    load(worker, model, cache)
    handle = next(HANDLES)
    worker.tell(LoadModel(handle, "m", 1, str(model), settings(), str(cache), is_cache_kept=stays))
    loaded = worker.expect(ModelStateChanged, lambda message: message.handle == handle)
    maps = Path(f"/proc/{worker.process.pid}/maps").read_text()
    directory = entry(cache)
    shutil.rmtree(cache)

    assert TAKEN in loaded.detail
    assert (str(directory / "1.blob") in maps) is stays
    assert worker.infer(handle, X)[0].tolist() == [[value + 1 for value in range(10)]]


def test_the_number_of_infer_requests_is_not_part_of_it(
    worker: WorkerUnderTest, model: Path, cache: Path
) -> None:
    load(worker, model, cache)
    loaded = worker.load(next(HANDLES), model, settings(nireq=3), str(cache))

    assert TAKEN in loaded.detail
    assert loaded.nireq == 3


# What is another one.


@pytest.mark.parametrize(
    "wanted",
    [settings(inputs=InputSettings(shapes=(InputShape("", ((2, 2), (10, 10))),))), settings(NUM_STREAMS=1)],
    ids=["shape", "property"],
)
def test_other_settings_are_another_entry(
    worker: WorkerUnderTest, model: Path, cache: Path, wanted: object
) -> None:
    load(worker, model, cache)
    for is_known in (False, True):
        loaded = worker.load(next(HANDLES), model, wanted, str(cache))  # type: ignore[arg-type]  # settings
        assert loaded.error is None
        assert (TAKEN in loaded.detail) is is_known
    assert len(list(cache.iterdir())) == 2


def test_a_file_that_changed_keeping_its_length_and_time_is_another_model(
    worker: WorkerUnderTest, model: Path, cache: Path
) -> None:
    weights = model.with_suffix(".bin")
    assert not is_taken(worker, model, cache)
    assert is_taken(worker, model, cache)
    before = weights.stat()
    with weights.open("r+b") as file:
        file.write(np.float32(7).tobytes())
    os.utime(weights, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert weights.stat().st_size == before.st_size
    handle, loaded = load(worker, model, cache)

    assert TAKEN not in loaded.detail
    assert worker.infer(handle, X)[0].tolist() == [[value + 7 for value in range(10)]]


def test_aliases_beside_the_model_are_part_of_it(worker: WorkerUnderTest, model: Path, cache: Path) -> None:
    load(worker, model, cache)
    (model.parent / "mapping_config.json").write_text(json.dumps({"inputs": {"x": "image"}}))
    _, loaded = load(worker, model, cache)

    assert TAKEN not in loaded.detail
    assert [spec.name for spec in loaded.inputs] == ["image"]


def test_links_to_directories_and_crowds_are_not_kept(
    worker: WorkerUnderTest, model: Path, cache: Path, tmp_path: Path
) -> None:
    (tmp_path / "elsewhere").mkdir()
    (model.parent / "link").symlink_to(tmp_path / "elsewhere")
    assert not is_taken(worker, model, cache)
    assert not is_taken(worker, model, cache)
    assert not cache.exists()


# What is of no use.


def flip(path: Path, place: int) -> None:
    path.chmod(0o600)
    content = bytearray(path.read_bytes())
    content[place] ^= 1
    path.write_bytes(content)


def cut(path: Path) -> None:
    path.chmod(0o600)
    os.truncate(path, path.stat().st_size // 2)


def no_file(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


def of_something_else(directory: Path) -> None:
    """Checksums that are right, of what OpenVINO cannot import."""
    blob = directory / "1.blob"
    blob.chmod(0o600)
    blob.write_bytes(content := bytes(5000))
    document = json.loads((directory / "entry.json").read_text().partition("\n")[2])
    document |= {"nbytes": len(content), "checksums": [zlib.crc32(content)]}
    text = json.dumps(document).encode()
    (directory / "entry.json").write_bytes(b"%08x\n%s\n" % (zlib.crc32(text), text))


def died_on(directory: Path) -> None:
    (directory / "trying-1").touch()


DAMAGE: dict[str, Callable[[Path], None]] = {
    "a bit of the compiled model": lambda directory: flip(directory / "1.blob", -100),
    "a bit of its header": lambda directory: flip(directory / "1.blob", 40),
    "half of it": lambda directory: cut(directory / "1.blob"),
    "all of it": lambda directory: (directory / "1.blob").unlink(),
    "a FIFO": lambda directory: no_file(directory / "1.blob"),
    "a bit of the facts": lambda directory: flip(directory / "entry.json", 60),
    "half of the facts": lambda directory: cut(directory / "entry.json"),
    "no facts": lambda directory: (directory / "entry.json").unlink(),
    "a death": died_on,
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_what_is_damaged_is_made_anew(worker: WorkerUnderTest, model: Path, cache: Path, damage: str) -> None:
    assert not is_taken(worker, model, cache)
    directory = entry(cache)
    DAMAGE[damage](directory)
    assert not is_taken(worker, model, cache)
    assert f"event=cache_discarded directory={directory} " in worker.log
    assert entry(cache) == directory
    assert is_taken(worker, model, cache)


def test_what_openvino_does_not_take_is_not_made_again(
    worker: WorkerUnderTest, model: Path, cache: Path
) -> None:
    assert not is_taken(worker, model, cache)
    directory = entry(cache)
    of_something_else(directory)
    for _ in range(2):
        assert not is_taken(worker, model, cache)
        assert [path.name for path in cache.iterdir()] == [f"{directory.name}.refused"]


def test_what_another_process_imports_is_no_death(worker: WorkerUnderTest, model: Path, cache: Path) -> None:
    load(worker, model, cache)
    with (entry(cache) / "trying-2").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        assert is_taken(worker, model, cache)


def test_what_another_process_fills_is_left_to_it(worker: WorkerUnderTest, model: Path, cache: Path) -> None:
    load(worker, model, cache)
    name = entry(cache).name
    shutil.rmtree(cache / name)
    filling = cache / f"{name}.filling"
    filling.mkdir()
    descriptor = os.open(filling, os.O_RDONLY)
    fcntl.flock(descriptor, fcntl.LOCK_EX)
    assert not is_taken(worker, model, cache)
    assert list(cache.iterdir()) == [filling]
    os.close(descriptor)
    # Its process has ended; what it left is in nobody's way.
    assert not is_taken(worker, model, cache)
    assert entry(cache).name == name


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")
def test_what_belongs_to_another_user_is_not_taken(worker: WorkerUnderTest, model: Path, cache: Path) -> None:
    load(worker, model, cache)
    directory = entry(cache)
    os.chown(directory, 12345, -1)
    before = {path: path.read_bytes() for path in directory.iterdir()}
    assert not is_taken(worker, model, cache)
    assert "is not a directory of this user" in worker.log
    assert {path: path.read_bytes() for path in directory.iterdir()} == before
