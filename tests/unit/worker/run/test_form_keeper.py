# SPDX-License-Identifier: Apache-2.0
"""When a second form is compiled and when it is not; what compiles it is a list of what it was asked for."""

from __future__ import annotations

import threading
from collections import deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, cast

import pytest

from ovms_mp.child.specs import CpuShare
from ovms_mp.errors import ModelLoadFailed
from ovms_mp.wire.channels import Wakeup
from ovms_mp.wire.run_page import SECOND_FORM, RunPage
from ovms_mp.worker.run.forms import FormKeeper
from ovms_mp.worker.run.pool import InferPool
from ovms_mp.worker.run.queues import VersionQueue
from ovms_mp.worker.run.served import ServedVersion
from tests.support.waiting import eventually

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ovms_mp.child.control import ControlLink
    from ovms_mp.wire.messages import PlanChanged
    from ovms_mp.worker.load.compiled import CompiledVersion
    from ovms_mp.worker.load.forms import FormLoader, LoadedForm
    from ovms_mp.worker.load.loader import Loader
    from ovms_mp.worker.run.form_state import Forms

MIB = 1 << 20
WITHIN_S = 10.0


@dataclass
class Compiling:
    """Stands for the loader of a version's forms: it compiles until it is told to fail."""

    limit_nbytes: int = 100 * MIB
    least_nbytes: int = 60 * MIB
    peak_nbytes: int = 180 * MIB
    asked: list[str] = field(default_factory=list)
    may_end: threading.Event = field(default_factory=threading.Event)

    def load(self, hint: str) -> LoadedForm:
        """Take its time."""
        self.asked.append(hint)
        self.may_end.wait(WITHIN_S)
        raise ModelLoadFailed("told to")


@dataclass
class Compiled:
    """Stands for a compiled model."""

    nireq: int = 1
    streams: int = 1
    slots: tuple[object, ...] = ()
    compiled: object = None


class Scene:
    """A keeper of forms, and versions that want second ones."""

    def __init__(self) -> None:
        self.available = 1000 * MIB
        self.page = RunPage()
        self.told: deque[PlanChanged] = deque()
        self.loaders: list[Compiling] = []
        self.released: list[object] = []
        link = type("Link", (), {"send": lambda _, message: self.told.append(message)})()
        loader = type("Loader", (), {"release": lambda _, compiled: self.released.append(compiled)})()
        self.keeper = FormKeeper(
            cast("ControlLink", link),
            cast("Loader", loader),
            Wakeup(),
            CpuShare(),
            self.page,
            lambda: self.available,
        )

    def add(self, handle: int, loader: Compiling) -> Forms[ServedVersion]:
        """A version that serves."""
        version = ServedVersion(handle, f"m version {handle}", VersionQueue(100, 1 << 20), run_time_s=0.005)
        version.pool = InferPool(version, cast("CompiledVersion", Compiled()), f"infer-{handle}")
        self.loaders.append(loader)
        return self.keeper.admit(version, cast("FormLoader", loader), "facts", ())

    def want(self, handle: int, forms: Forms[ServedVersion]) -> None:
        """Requests have come together for long."""
        forms.demand.concurrency = 4.0
        forms.due.append(handle)
        self.keeper.advance()

    def running(self) -> list[int]:
        """Versions whose second form is being compiled."""
        return [mark.handle for mark in self.page.running() if mark.task_id == SECOND_FORM]


@pytest.fixture
def scene() -> Iterator[Scene]:
    made = Scene()
    yield made
    for loader in made.loaders:
        loader.may_end.set()


def test_a_form_that_is_wanted_is_compiled_and_marked_meanwhile(scene: Scene) -> None:
    loader = Compiling()
    forms = scene.add(1, loader)
    scene.want(1, forms)

    eventually(lambda: loader.asked == ["THROUGHPUT"] and scene.running() == [1], WITHIN_S, "it compiles")
    loader.may_end.set()
    eventually(lambda: scene.running() == [], WITHIN_S, "it has ended")
    scene.keeper.take_outcomes()
    assert "second_form=none (told to)" in scene.told[-1].detail


def test_forms_that_are_being_compiled_count_against_the_limit(scene: Scene) -> None:
    first, second = Compiling(), Compiling()
    forms = [scene.add(1, first), scene.add(2, second)]
    scene.want(1, forms[0])
    scene.want(2, forms[1])

    assert forms[0].is_compiling
    assert not forms[1].is_compiling
    assert "second forms have 60 already, and --adaptive_memory_mb allows 100" in forms[1].refusal
    assert second.asked == []


@pytest.mark.parametrize(("available_mb", "is_compiled"), [(179, False), (181, True)])
def test_memory_of_the_machine_that_compiling_would_not_find(
    scene: Scene,
    available_mb: int,
    is_compiled: bool,
) -> None:
    loader = Compiling()
    forms = scene.add(1, loader)
    scene.available = available_mb * MIB
    scene.want(1, forms)

    assert forms.is_compiling is is_compiled
    assert is_compiled or "compiling it takes 180 MiB for a while" in scene.told[-1].detail


def test_a_version_that_ends_while_its_form_is_compiled_is_forgotten(scene: Scene) -> None:
    loader = Compiling()
    forms = scene.add(1, loader)
    scene.want(1, forms)
    eventually(lambda: scene.running() == [1], WITHIN_S, "it compiles")
    version = scene.keeper._versions[1]
    scene.keeper.forget(version)

    loader.may_end.set()
    eventually(lambda: scene.running() == [], WITHIN_S, "it has ended")
    scene.keeper.take_outcomes()
    assert version.forms is None
    assert scene.keeper.longest_wait_s() is None


def test_a_form_is_given_back_when_the_tasks_that_it_has_are_ended(scene: Scene) -> None:
    """Its compiled model was the broken one, or stands beside that."""
    forms = scene.add(1, Compiling())
    version = scene.keeper._versions[1]
    other = InferPool(version, cast("CompiledVersion", Compiled()), "infer-1-other")
    other.handed_over = 1
    forms.discarded.append(other)

    scene.keeper.advance()
    assert scene.released == []
    assert scene.keeper.longest_wait_s() is not None, "it is looked at again"
    other.handed_over = 0
    scene.keeper._release(forms)
    assert scene.released == [other.compiled]
