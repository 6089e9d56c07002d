# SPDX-License-Identifier: Apache-2.0
"""When stores are looked at, and what people hear of it. The fetcher is the test."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from ovms_mp.config.file import MAX_BYTES
from ovms_mp.config.model import ModelConfig
from ovms_mp.config.server import RepositoryConfig
from ovms_mp.errors import OvmsError, StoreRefused, StoreUnavailable
from ovms_mp.manager.models.rescan_request import RescanRequest
from ovms_mp.manager.models.stores import STANDSTILL_S, Stores
from ovms_mp.manager.timers import Timers
from ovms_mp.model.store_url import parse_store_url
from ovms_mp.model.versions import All, Latest
from ovms_mp.wire.messages import Fetch, FetchDone, FetchProgress
from ovms_mp.wire.records import ErrorRecord

from ..fakes import Clock

if TYPE_CHECKING:
    from ovms_mp.model.versions import VersionPolicy

URL = "s3://bucket/m"


@dataclass
class Scene:
    """Stores, and the fetcher and the catalogue in their place."""

    directory: Path
    poll_wait_s: float = 1.0
    clock: Clock = field(default_factory=Clock)
    sent: list[Fetch] = field(default_factory=list)
    ended: list[str] = field(default_factory=list)
    failures: list[ErrorRecord] = field(default_factory=list)
    is_refusing: bool = False
    is_dismissed: bool = False
    config_url: str = ""
    moved: list[tuple[int, int, int]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.timers = Timers(self.clock)
        self.request = RescanRequest()
        me: Any = self
        settings = RepositoryConfig(
            store_dir=str(self.directory), poll_wait_s=self.poll_wait_s, store_limit_mb=3
        )
        config_store = parse_store_url(self.config_url) if self.config_url else None
        self.stores = Stores(
            settings,
            me,
            me,
            self.request,
            self.timers,
            self.clock,
            config_store,
            on_moved=lambda *moved: self.moved.append(moved),
        )
        self.request.take()

    # The fetcher.
    def send(self, fetch: Fetch) -> bool:
        self.sent.append(fetch)
        return not self.is_refusing

    def dismiss(self) -> None:
        self.is_dismissed = True

    def end(self, reason: str, *, is_dismissed: bool = False) -> None:
        self.ended.append(reason)

    def exited(self, _child: object) -> bool:
        return True

    # The catalogue.
    def served_of(self, _name: str) -> tuple[tuple[int, ...], tuple[int, ...]]:
        return (1, 2), (3,)

    def note_failure(self, error: ErrorRecord) -> None:
        self.failures.append(error)

    def model(self, name: str = "m", url: str = URL, policy: VersionPolicy | None = None) -> ModelConfig:
        store = parse_store_url(url)
        path = self.directory / store.mirror_of(name)
        return ModelConfig(name=name, base_path=path, store=store, version_policy=policy or Latest(1))

    def follow(self, *configs: ModelConfig) -> None:
        self.stores.follow(configs or (self.model(),))

    def pass_time(self, seconds: float) -> None:
        self.clock.pass_time(seconds)
        self.timers.run_due()

    def take(self) -> list[Fetch]:
        sent, self.sent = self.sent, []
        return sent

    def one(self) -> Fetch:
        (fetch,) = self.take()
        return fetch

    def done(self, fetch: Fetch, error: OvmsError | None = None, took_s: float = 0.0, *problems: str) -> None:
        record = None if error is None else ErrorRecord.of(error)
        self.stores.done(FetchDone(fetch.job, (1,), 0, took_s, problems, record))

    def is_file_coming(self) -> bool:
        return self.stores.is_file_coming

    def is_awaited(self) -> bool:
        return self.stores.is_awaited

    def notes(self) -> str:
        return "; ".join(self.stores.notes().get("m", ()))

    def details(self) -> str:
        return "; ".join(self.stores.details().get("m", ()))


@pytest.fixture
def scene(tmp_path: Path) -> Scene:
    return Scene(tmp_path / "store")


def test_a_fetch_says_what_is_wanted_and_what_must_stay(scene: Scene) -> None:
    other = scene.model("other", "s3://bucket/other")
    scene.follow(scene.model(policy=All()), other)
    fetch, _ = scene.take()

    assert str(fetch.url) == URL
    assert fetch.policy == {"all": {}}
    assert (fetch.serving, fetch.failed) == ((1, 2), (3,))
    assert Path(fetch.store_dir, fetch.mirror) == scene.model().base_path
    assert set(fetch.in_use) == {fetch.mirror, other.base_path.name}
    assert fetch.limit_bytes == 3 << 20
    assert scene.directory.stat().st_mode & 0o777 == 0o700


def test_models_of_this_machine_need_no_fetcher(scene: Scene) -> None:
    scene.follow(ModelConfig(name="m", base_path=Path("/models/m")))

    assert scene.take() == []
    assert scene.is_dismissed
    assert not scene.directory.exists()


def test_a_store_is_looked_at_again_after_the_interval(scene: Scene) -> None:
    scene.follow()
    fetch = scene.one()
    scene.pass_time(5.0)
    assert scene.take() == [], "never while one runs"
    scene.done(fetch)
    assert scene.request.is_due
    scene.pass_time(0.9)
    assert scene.take() == []
    scene.pass_time(0.2)
    fetch = scene.one()

    scene.done(fetch, took_s=30.0)
    scene.pass_time(29.0)
    assert scene.take() == [], "a listing takes longer than the interval"
    scene.pass_time(2.0)
    scene.one()


def test_a_fetch_that_changes_nothing_makes_nobody_look_at_the_mirrors(scene: Scene) -> None:
    scene.follow()
    scene.done(scene.one())
    scene.request.take()
    looks = []
    for versions, fetched_bytes in (((1,), 0), ((1, 2), 10), ((1, 2), 5), ((1, 2), 0), ((2,), 0)):
        scene.pass_time(1.1)
        scene.stores.done(FetchDone(scene.one().job, versions, fetched_bytes, 0.0, (), None))
        looks.append(scene.request.is_due)
        scene.request.take()

    assert looks == [False, True, True, False, True]


def test_without_an_interval_only_who_asks_makes_it_look(tmp_path: Path) -> None:
    scene = Scene(tmp_path / "store", poll_wait_s=0.0)
    scene.follow()
    scene.done(scene.one())
    scene.request.take()
    scene.pass_time(1000.0)
    scene.follow()
    assert scene.take() == []

    scene.stores.fetch_now()
    fetch = scene.one()
    assert scene.is_awaited()
    scene.done(fetch)
    assert not scene.is_awaited()
    assert scene.request.take(), "files that changed in place are loaded"


def test_who_asks_while_one_runs_gets_another_one(scene: Scene) -> None:
    scene.follow()
    fetch = scene.one()
    scene.stores.fetch_now()
    assert scene.take() == []
    scene.done(fetch)
    assert scene.stores.is_awaited
    scene.pass_time(0.0)
    scene.done(scene.one())

    assert not scene.stores.is_awaited


def test_a_failure_is_told_once_and_tried_again_with_growing_pauses(
    scene: Scene, caplog: pytest.LogCaptureFixture
) -> None:
    scene.follow()
    assert scene.notes() == f"{URL}: being fetched"
    for pause_s in (1, 2, 4, 8, 16, 32, 60, 60):
        scene.done(scene.one(), StoreUnavailable("it is away"))
        assert scene.notes() == f"{URL}: it is away"
        assert f"{URL}: tried again at " in scene.details()
        scene.pass_time(pause_s - 0.1)
        assert scene.take() == []
        scene.pass_time(0.2)
    assert caplog.text.count("event=fetch_failed") == 1
    scene.done(scene.one())
    assert (scene.notes(), scene.details()) == ("", "")
    scene.pass_time(1.1)
    scene.done(scene.one(), StoreRefused("no"))
    scene.pass_time(1.1)
    scene.one()


def test_who_asks_hears_of_the_failure(scene: Scene) -> None:
    scene.follow()
    scene.done(scene.one(), StoreRefused("first"))
    assert scene.failures == []
    scene.stores.fetch_now()
    scene.done(scene.one(), StoreRefused("no"))

    assert scene.failures == [ErrorRecord("ModelLoadFailed", "model=m: no")]


def test_progress_is_shown(scene: Scene) -> None:
    scene.follow()
    fetch = scene.one()
    scene.stores.progress(FetchProgress(fetch.job, 3 << 20, 300 << 20))

    assert scene.details() == f"{URL}: 3.0 of 300.0 MiB are here"


def test_a_fetch_that_hangs_ends_with_its_process(scene: Scene) -> None:
    scene.follow()
    fetch = scene.one()
    for _ in range(4):
        scene.pass_time(STANDSTILL_S / 2)
        scene.stores.progress(FetchProgress(fetch.job, 0, 0))
    assert scene.ended == []
    for _ in range(20):
        scene.pass_time(STANDSTILL_S / 18)
    assert scene.ended
    assert "made no progress within" in scene.ended[0]
    child: Any = None
    scene.stores.exited(child, "killed by signal 9")

    assert scene.notes() == f"{URL}: the process that fetches ended: killed by signal 9"
    scene.pass_time(1.0)
    scene.one()


def test_a_process_that_cannot_be_started_is_a_failure(scene: Scene) -> None:
    scene.is_refusing = True
    scene.follow()
    scene.take()
    assert "could not be spawned" in scene.notes()
    scene.is_refusing = False
    scene.pass_time(1.0)
    scene.done(scene.one())

    assert scene.notes() == ""


def test_another_policy_is_followed_at_once_and_another_store_anew(scene: Scene) -> None:
    scene.follow()
    scene.done(scene.one())
    scene.follow(scene.model(policy=All()))
    assert scene.one().policy == {"all": {}}
    scene.follow(scene.model(url="s3://bucket/n"))
    fetch = scene.one()
    assert str(fetch.url) == "s3://bucket/n"
    scene.follow(replace(scene.model(url="s3://bucket/n"), nireq=2))
    assert scene.take() == []
    scene.follow(ModelConfig(name="m", base_path=Path("/models/m")))
    scene.done(fetch)
    scene.pass_time(100.0)

    assert scene.take() == []
    assert scene.notes() == ""


def test_after_the_stop_nothing_is_fetched(scene: Scene) -> None:
    scene.follow()
    fetch = scene.one()
    scene.stores.stop()
    scene.done(fetch)
    scene.follow()
    scene.pass_time(100.0)

    assert scene.take() == []
    assert scene.ended == ["the server stops"]


def test_what_is_odd_in_a_store_is_noted(scene: Scene) -> None:
    scene.follow()
    scene.done(scene.one(), None, 0.0, *(f"name {number}" for number in range(9)))

    assert scene.notes().split("; ") == [f"{URL}: name {number}" for number in range(5)]


CONFIG_URL = "s3://bucket/config.json"


@pytest.fixture(params=[1.0, 0.0])
def configured(tmp_path: Path, request: pytest.FixtureRequest) -> Scene:
    """One whose configuration file is in a store; with polling and without."""
    return Scene(tmp_path / "store", request.param, config_url=CONFIG_URL)


def follow_no_models(scene: Scene) -> None:
    scene.stores.follow(())


def test_the_configuration_file_is_fetched_before_it_is_read(configured: Scene) -> None:
    follow_no_models(configured)
    fetch = configured.one()
    url = parse_store_url(CONFIG_URL)

    assert (fetch.model, fetch.url, fetch.file_limit_bytes) == ("", url, MAX_BYTES)
    assert url.file_in(fetch.store_dir) == Path(fetch.store_dir, fetch.mirror, "1", "config.json")
    assert configured.is_file_coming()
    assert configured.is_awaited()
    assert not configured.is_dismissed, "a fetcher is needed, though no model comes from a store"
    assert configured.stores.file_notes() == [f"{CONFIG_URL}: being fetched"]

    configured.done(fetch)

    assert not configured.is_file_coming()
    assert configured.request.take(), "somebody waits for it, whether there is polling or not"
    assert configured.stores.file_notes() == []


def test_a_configuration_file_that_cannot_be_had_is_tried_again(configured: Scene) -> None:
    follow_no_models(configured)
    configured.done(configured.one(), StoreUnavailable("gone"))

    assert not configured.is_file_coming(), "what is here is read"
    assert configured.request.take()
    first, second = configured.stores.file_notes()
    assert first == f"{CONFIG_URL}: gone"
    assert second.startswith(f"{CONFIG_URL}: tried again at ")

    configured.pass_time(1.0)
    configured.done(configured.one())

    assert configured.request.take(), "it is read, whether there is polling or not"
    assert configured.stores.file_notes() == []


def test_who_asks_for_a_reload_has_the_configuration_file_fetched(configured: Scene) -> None:
    follow_no_models(configured)
    configured.done(configured.one())
    configured.stores.fetch_now()
    fetch = configured.one()
    assert configured.is_awaited()
    configured.done(fetch, StoreRefused("no"))

    (failure,) = configured.failures
    assert failure.message == "configuration file: no"


def test_mirrors_of_models_and_of_the_configuration_file_stay(configured: Scene) -> None:
    configured.follow()
    file, model = configured.take()

    assert file.in_use == model.in_use
    assert set(file.in_use) == {file.mirror, model.mirror}


def test_how_far_all_fetches_are_is_told_until_the_last_one_ends(scene: Scene) -> None:
    scene.follow(scene.model(), scene.model("other", "s3://bucket/other"))
    first, second = scene.take()
    assert scene.moved[-1] == (2, 0, 0)
    scene.stores.progress(FetchProgress(first.job, 10, 100))
    scene.stores.progress(FetchProgress(second.job, 5, 50))
    assert scene.moved[-1] == (2, 15, 150)
    scene.done(first)
    assert scene.moved[-1] == (1, 5, 50)
    scene.done(second)
    assert scene.moved[-1] == (0, 0, 0)
