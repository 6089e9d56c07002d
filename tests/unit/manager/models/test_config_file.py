# SPDX-License-Identifier: Apache-2.0
"""The configuration file over time."""

from __future__ import annotations

import json
import logging
from pathlib import Path

import pytest

from ovms_mp.manager.models.config_file import ConfigFile

from ..fakes import Clock


def text(*names: str) -> str:
    entries = [{"config": {"name": name, "base_path": f"/models/{name}"}} for name in names]
    return json.dumps({"model_config_list": entries})


@pytest.fixture
def clock() -> Clock:
    return Clock()


class Scene:
    """A file, and the manager's loop that reads it."""

    def __init__(self, path: Path, clock: Clock, content: str = text("a")) -> None:
        self.path, self.clock = path, clock
        path.write_text(content)
        self.file = ConfigFile(path, clock, is_strict=False)

    def read(self, *, is_asked: bool = False) -> list[str] | None:
        """Names of the models, None when there is nothing to do; without what comes later."""
        document, _ = self.file.read_if_changed(is_asked=is_asked)
        return None if document is None else [model.name for model in document.models]

    def read_out(self, *, is_asked: bool = False) -> list[str] | None:
        """Read as often as it asks to be."""
        for _ in range(20):
            document, again_at = self.file.read_if_changed(is_asked=is_asked)
            is_asked = False
            if again_at is None:
                return None if document is None else [model.name for model in document.models]
            assert document is None
            assert self.file.is_being_read
            assert self.clock.now < again_at <= self.clock.now + 1
            self.clock.now = again_at
        pytest.fail("it is read for ever")


@pytest.fixture
def scene(tmp_path: Path, clock: Clock) -> Scene:
    return Scene(tmp_path / "config.json", clock)


def test_an_unchanged_file_is_nothing_to_do(scene: Scene) -> None:
    assert scene.read() is None
    assert scene.read(is_asked=True) is None
    assert scene.file.refusal is None


def test_a_changed_file_is_read_once(scene: Scene) -> None:
    scene.path.write_text(text("a", "b"))

    assert scene.read() == ["a", "b"]
    assert scene.read() is None
    assert scene.file.refusal is None


def test_a_touched_file_is_not_changed(scene: Scene) -> None:
    scene.path.write_text(text("a"))

    assert scene.read() is None


def test_a_file_that_is_half_written_is_read_again(scene: Scene) -> None:
    scene.path.write_text(text("a", "b")[:20])
    models, again_at = scene.file.read_if_changed(is_asked=False)
    assert models is None
    assert again_at is not None
    assert scene.file.is_being_read
    assert scene.file.refusal is None
    scene.path.write_text(text("a", "b"))

    assert scene.read() == ["a", "b"]
    assert not scene.file.is_being_read


def test_a_bad_file_is_refused_after_a_few_tries_and_not_again_by_itself(
    scene: Scene, caplog: pytest.LogCaptureFixture
) -> None:
    scene.path.write_text('{"model_config_list": 7}')
    assert scene.read_out() is None
    assert not scene.file.is_being_read
    assert scene.file.refusal is not None
    assert scene.file.refusal.error.name == "ConfigError"
    assert "model_config_list" in scene.file.refusal.error.message
    assert caplog.text.count("event=config_refused") == 1
    assert scene.read_out() is None

    assert caplog.text.count("event=config_refused") == 1


def test_plans_for_other_reasons_do_not_use_up_the_tries(scene: Scene) -> None:
    # A version that becomes AVAILABLE makes the manager plan at any moment.
    scene.path.write_text(text("a", "b")[:20])
    for _ in range(10):
        assert scene.read() is None
    assert scene.file.refusal is None
    scene.clock.now += 0.1
    scene.path.write_text(text("a", "b"))

    assert scene.read() == ["a", "b"]


def test_who_asks_has_a_bad_file_read_again(scene: Scene) -> None:
    scene.path.write_text("{}")
    scene.read_out()
    before = scene.file.refusal
    assert before is not None
    assert scene.read_out(is_asked=True) is None
    assert scene.file.refusal is not None
    assert (scene.file.refusal.error, scene.file.refusal.is_whole) == (before.error, True)
    assert scene.file.refusal.at_s > before.at_s
    scene.path.write_text(text("c"))

    assert scene.read_out(is_asked=True) == ["c"]
    assert scene.file.refusal is None


def test_what_became_readable_without_changing_is_read_when_asked(scene: Scene, tmp_path: Path) -> None:
    scene.path.unlink()
    assert scene.read_out() is None
    assert scene.file.refusal is not None
    assert "No such file" in scene.file.refusal.error.message
    scene.path.write_text(text("a"))

    assert scene.read_out() == ["a"]
    assert scene.file.refusal is None


def test_a_file_that_vanishes_and_comes_back_within_the_tries_is_no_error(scene: Scene) -> None:
    # Editors write another file and rename it; some remove the old one before.
    scene.path.unlink()
    assert scene.read() is None
    assert scene.file.is_being_read
    scene.path.write_text(text("a", "b"))

    assert scene.read() == ["a", "b"]
    assert scene.file.refusal is None


def test_back_to_what_was_served_clears_the_error(scene: Scene) -> None:
    scene.path.write_text("{}")
    scene.read_out()
    scene.path.write_text(text("a"))

    assert scene.read_out() == ["a"]
    assert scene.file.refusal is None


def test_a_file_that_was_put_right_is_told(scene: Scene, caplog: pytest.LogCaptureFixture) -> None:
    """Even if it says the same as before."""
    caplog.set_level(logging.INFO)
    before = scene.path.read_text()
    scene.path.write_text(before + ",")
    assert scene.read_out() is None
    scene.path.write_text(before)
    assert scene.read_out() == ["a"]

    assert [message for message in caplog.messages if "everything stays" not in message] == [
        f"event=config_read path={scene.path} models=1",
        f"Read {scene.path}: 1 model",
    ]


def test_a_replaced_link_is_a_changed_file(tmp_path: Path, clock: Clock) -> None:
    scene = Scene(tmp_path / "first.json", clock)
    link = tmp_path / "config.json"
    link.symlink_to(scene.path)
    scene.file = ConfigFile(link, scene.clock, is_strict=False)
    assert scene.read() is None
    (tmp_path / "second.json").write_text(text("b"))
    link.unlink()
    link.symlink_to(tmp_path / "second.json")

    assert scene.read() == ["b"]


def test_odd_keys_are_told_or_refused(tmp_path: Path, clock: Clock, caplog: pytest.LogCaptureFixture) -> None:
    scene = Scene(tmp_path / "config.json", clock)
    odd = json.dumps({"model_config_list": [{"config": {"name": "a", "base_path": "/a", "nreq": 2}}]})
    scene.path.write_text(odd)
    assert scene.read() == ["a"]
    assert "nreq" in caplog.text
    scene.file = ConfigFile(scene.path, scene.clock, is_strict=True)
    scene.path.write_text(odd + " ")
    assert scene.read_out() is None

    assert scene.file.refusal is not None
    assert "nreq" in scene.file.refusal.error.message
