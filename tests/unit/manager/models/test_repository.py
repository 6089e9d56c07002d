# SPDX-License-Identifier: Apache-2.0
"""What counts as settled, over real directories and under a clock of the test's own."""

from __future__ import annotations

import errno
import logging
import os
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from ovms_mp.config.model import ModelConfig
from ovms_mp.manager.models.repository import Repository

from ..fakes import Clock

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ovms_mp.manager.models.repository import Look

SETTLE_S = 0.5


class FileClock(Clock):
    """Runs with the time stamps of files: at rest, it is now."""

    def __init__(self) -> None:
        super().__init__()
        self.ahead = 0.0

    def monotonic(self) -> float:
        return self.now

    def time(self) -> float:
        return os.stat(self.stamp).st_ctime + self.ahead if self.stamp else super().time()

    stamp: Path | None = None

    def pass_time(self, seconds: float) -> None:
        self.now += seconds
        self.ahead += seconds


class Scene:
    """A base path that is looked at."""

    def __init__(self, base: Path, clock: FileClock, *, is_watching: bool = True) -> None:
        self.base, self.clock = base, clock
        self.repository = Repository(SETTLE_S, clock, is_watching=is_watching)
        self.config = ModelConfig(name="m", base_path=base)
        self.loaded: dict[int, tuple[tuple[str, int, int, int], ...]] = {}

    def put(self, version: int, content: bytes = b"x", age_s: float = 0.0) -> None:
        """A version whose files were last changed so long ago, by the scene's clock."""
        path = self.base / str(version) / "model.onnx"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
        self.clock.stamp = path
        self.clock.ahead = age_s

    def look(self, *, is_asked: bool = False) -> Look:
        return self.repository.look(self.config, self.loaded, is_asked=is_asked)

    def states(self, *, is_asked: bool = False) -> tuple[set[int], set[int]]:
        """(settled, arriving)."""
        look = self.look(is_asked=is_asked)
        assert look.is_certain
        assert (look.look_again_at is not None) == bool(look.arriving)
        return set(look.settled), set(look.arriving)


@pytest.fixture
def clock() -> FileClock:
    return FileClock()


@pytest.fixture
def scene(tmp_path: Path, clock: FileClock) -> Iterator[Scene]:
    made = Scene(tmp_path / "m", clock)
    yield made
    made.repository.close()


@pytest.fixture
def unwatched(tmp_path: Path, clock: FileClock) -> Scene:
    return Scene(tmp_path / "m", clock, is_watching=False)


# Settling.


def test_a_version_that_was_just_copied_arrives_until_it_was_left_alone(scene: Scene) -> None:
    scene.put(1)
    look = scene.look()
    assert set(look.arriving) == {1}
    assert look.look_again_at == pytest.approx(scene.clock.now + SETTLE_S)
    scene.clock.pass_time(SETTLE_S - 0.01)
    assert scene.states() == (set(), {1})
    scene.clock.pass_time(0.01)

    assert scene.states() == ({1}, set())


def test_a_version_that_was_there_for_long_is_settled_at_once(scene: Scene) -> None:
    scene.put(1, age_s=SETTLE_S)

    assert scene.states() == ({1}, set())


def test_a_younger_one_needs_only_the_rest(scene: Scene) -> None:
    scene.put(1, age_s=0.2)
    look = scene.look()

    assert look.look_again_at == pytest.approx(scene.clock.now + SETTLE_S - 0.2)


def test_each_change_begins_anew(scene: Scene) -> None:
    scene.put(1)
    for size in range(2, 6):
        assert scene.states() == (set(), {1})
        scene.clock.pass_time(SETTLE_S - 0.1)
        scene.put(1, b"x" * size)
    assert scene.states() == (set(), {1})
    scene.clock.pass_time(SETTLE_S)

    assert scene.states() == ({1}, set())


def test_time_stamps_of_the_future_only_mean_waiting(scene: Scene) -> None:
    scene.put(1, age_s=-3600.0)
    look = scene.look()
    assert look.look_again_at == pytest.approx(scene.clock.now + SETTLE_S)
    scene.clock.pass_time(SETTLE_S)

    assert scene.states() == ({1}, set())


def test_what_is_loaded_as_it_is_needs_no_time(scene: Scene) -> None:
    scene.put(1, age_s=1.0)
    scene.loaded[1] = scene.look().settled[1].fingerprint
    scene.clock.ahead = 0.0

    assert scene.states() == ({1}, set())


def test_what_is_loaded_and_was_changed_arrives_anew(scene: Scene) -> None:
    scene.put(1, age_s=1.0)
    scene.loaded[1] = scene.look().settled[1].fingerprint
    scene.put(1, b"other")
    assert scene.states() == (set(), {1})
    scene.clock.pass_time(SETTLE_S)

    assert scene.states() == ({1}, set())


def test_versions_settle_each_by_itself(scene: Scene) -> None:
    scene.put(1, age_s=1.0)
    assert scene.states() == ({1}, set())
    scene.put(2)
    look = scene.look()

    assert (set(look.settled), set(look.arriving)) == ({1}, {2})


def test_a_version_that_went_and_came_back_is_met_for_the_first_time(scene: Scene) -> None:
    scene.put(1)
    scene.look()
    shutil.rmtree(scene.base / "1")
    assert scene.states() == (set(), set())
    scene.put(1, age_s=SETTLE_S + 1)

    assert scene.states() == ({1}, set())


def test_models_do_not_settle_for_each_other(scene: Scene) -> None:
    scene.put(1)
    scene.look()
    scene.clock.pass_time(0.3)
    other = ModelConfig(name="other", base_path=scene.base)
    scene.clock.ahead = 0.0
    look = scene.repository.look(other, {}, is_asked=False)

    assert look.look_again_at == pytest.approx(scene.clock.now + SETTLE_S)


def test_a_forgotten_model_begins_anew(scene: Scene) -> None:
    scene.put(1)
    scene.look()
    scene.repository.forget("m")
    scene.repository.forget("never known")
    scene.clock.pass_time(SETTLE_S + 1)

    assert scene.states() == ({1}, set())


# Without watching.


def test_without_watching_it_is_looked_at_once_and_then_only_when_asked(unwatched: Scene) -> None:
    unwatched.put(1, age_s=1.0)
    assert unwatched.repository.fileno() is None
    assert not unwatched.repository.has_hint()
    assert unwatched.states() == ({1}, set())
    unwatched.put(2, age_s=1.0)
    assert unwatched.states() == ({1}, set())
    assert unwatched.states(is_asked=True) == ({1, 2}, set())
    shutil.rmtree(unwatched.base / "2")

    assert unwatched.states() == ({1, 2}, set())


def test_without_watching_what_arrived_at_first_is_still_waited_for(unwatched: Scene) -> None:
    unwatched.put(1)
    assert unwatched.states() == (set(), {1})
    unwatched.clock.pass_time(SETTLE_S)
    assert unwatched.states() == ({1}, set())
    unwatched.put(2, age_s=1.0)

    assert unwatched.states() == ({1}, set())


def test_without_watching_another_base_path_is_looked_at(unwatched: Scene, tmp_path: Path) -> None:
    unwatched.put(1, age_s=1.0)
    unwatched.look()
    unwatched.base = tmp_path / "other"
    unwatched.put(5, age_s=1.0)
    unwatched.config = ModelConfig(name="m", base_path=unwatched.base)

    assert unwatched.states() == ({5}, set())


def test_without_watching_a_look_that_failed_is_repeated(unwatched: Scene) -> None:
    # Nobody would ask for it: the catalogue waits for the next look to be certain.
    unwatched.base.symlink_to(unwatched.base)
    assert not unwatched.look().is_certain
    unwatched.base.unlink()
    unwatched.put(1, age_s=1.0)

    assert unwatched.states() == ({1}, set())


# What is odd.


def test_a_base_path_that_cannot_be_looked_at_says_nothing_about_its_versions(
    scene: Scene, caplog: pytest.LogCaptureFixture
) -> None:
    scene.base.symlink_to(scene.base)
    look = scene.look()

    assert (look.is_certain, look.settled, look.arriving) == (False, {}, {})
    assert "cannot be listed" in caplog.text


def test_a_base_path_that_appears_later(scene: Scene, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        assert scene.states() == (set(), set())
        assert scene.states() == (set(), set())
        assert len(caplog.records) == 1
        assert "does not exist; waiting for it" in caplog.text
        scene.base.mkdir()
        assert scene.states() == (set(), set())
        assert "holds no version" in caplog.text
    scene.put(1, age_s=1.0)

    assert scene.states() == ({1}, set())


def test_an_oddity_is_told_once_until_it_changes(scene: Scene, caplog: pytest.LogCaptureFixture) -> None:
    scene.put(1, age_s=1.0)
    odd = scene.base / "01"
    odd.mkdir()
    with caplog.at_level(logging.WARNING):
        scene.look()
        scene.look()
        assert sum("01" in record.message for record in caplog.records) == 1
        odd.rmdir()
        scene.look()
        odd.mkdir()
        scene.look()

    assert sum("01" in record.message for record in caplog.records) == 2


# Unreachable or removed.


class Mounts:
    """Devices of directories, as if file systems were mounted there; the directories themselves are real."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.devices: dict[str, int] = {}
        self._real = os.stat
        monkeypatch.setattr(os, "stat", self._stat)

    def _stat(self, path: Any, **options: Any) -> os.stat_result:
        state = self._real(path, **options)
        device = self.devices.get(str(path))
        if device is None:
            return state
        stamps = {name: getattr(state, name) for name in ("st_atime_ns", "st_ctime_ns", "st_mtime_ns")}
        return os.stat_result((*state[:2], device, *state[3:]), stamps)


@pytest.fixture
def mounts(monkeypatch: pytest.MonkeyPatch) -> Mounts:
    return Mounts(monkeypatch)


def events(caplog: pytest.LogCaptureFixture) -> list[str]:
    found = [record.getMessage() for record in caplog.records]
    caplog.clear()
    return found


@pytest.mark.parametrize("where", ["itself", "above", "far above"])
def test_a_mount_that_is_gone_is_unreachable_and_told_once(
    where: str, scene: Scene, mounts: Mounts, caplog: pytest.LogCaptureFixture
) -> None:
    """The mount is the base path, or a directory above it, which an unmount leaves empty."""
    caplog.set_level(logging.INFO)
    above = scene.base.parent / "models"
    base = {"itself": above, "above": above / "m", "far above": above / "a" / "m"}[where]
    scene.base = base
    scene.config = ModelConfig(name="m", base_path=base)
    mounts.devices[str(above)] = 777
    scene.put(1, age_s=1.0)
    assert scene.states() == ({1}, set())
    hidden = above.rename(above.with_name("unmounted"))
    above.mkdir()
    mounts.devices.clear()
    for _ in range(3):
        look = scene.look()
        assert (look.is_certain, look.settled) == (False, {})

    (text,) = events(caplog)
    assert "is not there, as the file system is not mounted any more; what is loaded goes on serving" in text
    assert str(above) in text
    above.rmdir()
    hidden.rename(above)
    mounts.devices[str(above)] = 778  # Another one of the same content.
    assert scene.states() == ({1}, set())
    assert events(caplog) == [f"event=reachable model=m base_path={base} can be looked at again"]
    shutil.rmtree(base)
    assert scene.states() == (set(), set())


@pytest.mark.parametrize("others", [set(), {1}, {1, 3}])
def test_a_version_that_is_a_mount_of_its_own(others: set[int], scene: Scene, mounts: Mounts) -> None:
    mounts.devices[str(scene.base / "2")] = 777
    for number in (*others, 2):
        scene.put(number, age_s=1.0)
    assert scene.states() == ({2, *others}, set())
    (scene.base / "2" / "model.onnx").unlink()
    assert scene.states() == (others, set()), "removed from what is mounted"
    scene.put(2, age_s=1.0)
    assert scene.states() == ({2, *others}, set())
    (scene.base / "2" / "model.onnx").unlink()
    mounts.devices.clear()

    look = scene.look()
    assert (look.is_certain, set(look.settled)) == (False, others)


@pytest.mark.parametrize("removed", ["base", "parent", "content", "replaced by a file"])
def test_what_was_removed_is_gone(removed: str, scene: Scene, mounts: Mounts) -> None:
    scene.base = scene.base.parent / "models" / "m"
    scene.config = ModelConfig(name="m", base_path=scene.base)
    mounts.devices[str(scene.base.parent)] = 777
    scene.put(1, age_s=1.0)
    assert scene.states() == ({1}, set())
    if removed == "parent":
        mounts.devices.clear()
        mounts.devices[str(scene.base.parent.parent)] = os.stat(scene.base.parent.parent).st_dev
    shutil.rmtree({"parent": scene.base.parent, "content": scene.base / "1"}.get(removed, scene.base))
    if removed == "replaced by a file":
        scene.base.write_text("")

    assert scene.states() == (set(), set())


@pytest.mark.parametrize("error", [errno.EIO, errno.ESTALE, errno.ENOTCONN, errno.EACCES])
def test_a_file_system_that_fails(
    error: int, scene: Scene, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    scene.put(1, age_s=1.0)
    assert scene.states() == ({1}, set())
    real = os.scandir

    def fail(path: object) -> object:
        raise OSError(error, os.strerror(error))

    monkeypatch.setattr(os, "scandir", fail)
    for _ in range(3):
        assert not scene.look().is_certain
    (text,) = events(caplog)
    assert text.startswith(f"event=repository model=m base_path={scene.base} cannot be listed: ")
    assert text.endswith(f"{os.strerror(error)}; what is loaded goes on serving")
    monkeypatch.setattr(os, "scandir", real)
    assert scene.states() == ({1}, set())
    assert events(caplog) == [f"event=reachable model=m base_path={scene.base} can be looked at again"]


def test_another_base_path_is_on_no_former_mount(scene: Scene, mounts: Mounts) -> None:
    mounts.devices[str(scene.base)] = 777
    scene.put(1, age_s=1.0)
    assert scene.states() == ({1}, set())
    other = scene.base.with_name("other")
    other.mkdir()
    scene.config = ModelConfig(name="m", base_path=other)

    assert scene.states() == (set(), set())


# Hints.


def test_a_new_version_is_worth_a_look(scene: Scene) -> None:
    scene.base.mkdir()
    scene.repository.arm([scene.config], None)
    assert not scene.repository.has_hint()
    scene.put(1)

    assert scene.repository.fileno() is not None
    assert scene.repository.has_hint()
    assert not scene.repository.has_hint()


def test_a_changed_configuration_file_is_worth_a_look(scene: Scene, tmp_path: Path) -> None:
    path = tmp_path / "config.json"
    path.write_text("{}")
    scene.repository.arm([], path)
    path.write_text("{ }")

    assert scene.repository.has_hint()


def test_without_watching_nothing_is_armed(unwatched: Scene) -> None:
    unwatched.repository.arm([unwatched.config], None)
    unwatched.put(1)

    assert not unwatched.repository.has_hint()
    unwatched.repository.close()


@pytest.mark.parametrize(
    ("took_s", "interval_s", "pause_s"),
    [(0.0, 1.0, 1.0), (0.01, 1.0, 1.0), (0.7, 1.0, 14.0), (0.7, 30.0, 30.0), (100.0, 1.0, 60.0)],
)
def test_the_more_there_is_to_look_at_the_longer_the_pause(
    took_s: float, interval_s: float, pause_s: float
) -> None:
    repository = Repository(0.5, Clock(), is_watching=False)
    repository.took_s = took_s

    assert repository.pause_s(interval_s) == pytest.approx(pause_s)
