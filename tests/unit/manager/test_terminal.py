# SPDX-License-Identifier: Apache-2.0
"""What a SIGHUP means, by what the kernel says of the terminal, under a clock of the test's own."""

from __future__ import annotations

import signal
from typing import TYPE_CHECKING

import pytest

from ovms_mp.manager.terminal import Terminal, has_terminal

from .fakes import Clock

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

NONE, SOME = "0", "34816"


class Scene:
    """A process as ``/proc/self/stat`` shows it."""

    def __init__(self, stat: Path, clock: Clock) -> None:
        self.stat, self.clock = stat, clock
        self.show(SOME)

    def show(self, terminal: str) -> None:
        self.stat.write_text(f"4 (a) name) S 1 4 4 {terminal} 4 4194304 0 0\n")


@pytest.fixture
def scene(tmp_path: Path) -> Scene:
    return Scene(tmp_path / "stat", Clock())


@pytest.fixture(autouse=True)
def default_hangup() -> Iterator[None]:
    """Also where the tests themselves run with nohup."""
    before = signal.signal(signal.SIGHUP, signal.SIG_DFL)
    yield
    signal.signal(signal.SIGHUP, before)


@pytest.fixture
def ignored_hangup(default_hangup: None) -> None:
    signal.signal(signal.SIGHUP, signal.SIG_IGN)


@pytest.mark.parametrize(("shown", "expected"), [(NONE, False), (SOME, True), ("-1", True)])
def test_whether_there_is_a_terminal(shown: str, expected: bool, scene: Scene) -> None:
    scene.show(shown)

    assert has_terminal(scene.stat) is expected


@pytest.mark.parametrize("content", [None, "", "4 (x) S"])
def test_a_kernel_that_does_not_tell(content: str | None, scene: Scene) -> None:
    scene.stat.unlink()
    if content is not None:
        scene.stat.write_text(content)

    assert not has_terminal(scene.stat)


def test_it_is_closed(scene: Scene) -> None:
    terminal = Terminal(scene.clock, scene.stat)
    assert not terminal.is_closed()
    scene.show(NONE)

    assert terminal.hang_up()
    assert terminal.is_closed()


def test_somebody_asks_for_a_reload(scene: Scene) -> None:
    terminal = Terminal(scene.clock, scene.stat)
    for _ in range(3):
        assert not terminal.hang_up()
        scene.clock.now += 10
        assert not terminal.is_closed()


def test_a_shell_hangs_up_a_moment_before_its_terminal_goes(scene: Scene) -> None:
    terminal = Terminal(scene.clock, scene.stat)
    assert not terminal.hang_up()
    scene.clock.now += 1
    scene.show(NONE)

    assert terminal.is_closed()


def test_a_shell_hangs_up_a_moment_after_its_terminal_is_gone(scene: Scene) -> None:
    terminal = Terminal(scene.clock, scene.stat)
    scene.show(NONE)
    assert not terminal.is_closed()
    scene.clock.now += 1

    assert terminal.hang_up()


def test_it_was_left_behind_before(scene: Scene) -> None:
    terminal = Terminal(scene.clock, scene.stat)
    scene.show(NONE)
    for _ in range(5):
        assert not terminal.is_closed()
        scene.clock.now += 1

    assert not terminal.hang_up()


def test_without_one_it_is_always_a_reload(scene: Scene) -> None:
    scene.show(NONE)
    terminal = Terminal(scene.clock, scene.stat)

    assert not terminal.is_awaited
    assert not terminal.hang_up()


@pytest.mark.usefixtures("ignored_hangup")
def test_with_nohup_it_is_always_a_reload(scene: Scene) -> None:
    terminal = Terminal(scene.clock, scene.stat)
    scene.show(NONE)

    assert not terminal.hang_up()
    assert not terminal.is_closed()
