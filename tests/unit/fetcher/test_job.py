# SPDX-License-Identifier: Apache-2.0
"""A mirror becomes what its store holds, whatever the store does. The store is in memory."""

from __future__ import annotations

import itertools
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from ovms_mp.errors import StoreRefused, StoreUnavailable
from ovms_mp.fetcher import parts
from ovms_mp.fetcher.job import Job
from ovms_mp.fetcher.mirror import Mirror
from ovms_mp.fetcher.secrets import Secrets
from ovms_mp.model.store_url import parse_store_url
from ovms_mp.storage.local import list_versions
from ovms_mp.wire.messages import Fetch

from .memory import MemoryStore

if TYPE_CHECKING:
    from ovms_mp.wire.messages import FetchDone

LATEST: dict[str, dict[str, Any]] = {"latest": {"num_versions": 1}}
ALL: dict[str, dict[str, Any]] = {"all": {}}


@dataclass
class Scene:
    """A store, and the server's side of it."""

    root: Path
    store: MemoryStore = field(default_factory=MemoryStore)
    url: str = "s3://bucket/m"
    environment: dict[str, str] = field(default_factory=dict)

    @property
    def path(self) -> Path:
        return self.root / parse_store_url(self.url).mirror_of("m")

    def fetch(
        self,
        policy: dict[str, dict[str, Any]] = LATEST,
        serving: tuple[int, ...] = (),
        failed: tuple[int, ...] = (),
        limit_bytes: int = 0,
        in_use: tuple[str, ...] = (),
        file_limit_bytes: int = 0,
    ) -> FetchDone:
        url = parse_store_url(self.url)
        fetch = Fetch(
            job=1,
            model="m",
            url=url,
            policy=policy,
            serving=serving,
            failed=failed,
            store_dir=str(self.root),
            mirror=url.mirror_of("m"),
            in_use=in_use,
            limit_bytes=limit_bytes,
            file_limit_bytes=file_limit_bytes,
        )
        opener: Any = self.store
        self.job = Job(fetch, opener, Secrets(self.environment))
        return self.job.run()

    def fetch_well(self, policy: dict[str, dict[str, Any]] = LATEST, **options: Any) -> tuple[int, ...]:
        done = self.fetch(policy, **options)
        assert done.error is None, done.error
        assert done.versions == tuple(list_versions(self.path).versions), "what the server sees"
        return done.versions

    def content(self, name: str = "1/model.onnx") -> bytes:
        return (self.path / name).read_bytes()


@pytest.fixture
def scene(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Scene:
    monkeypatch.setattr(parts, "PART_BYTES", 1000)
    monkeypatch.setattr(parts, "_FIRST_PAUSE_S", 0.0)
    return Scene(tmp_path / "store")


def test_only_what_the_policy_wants_is_downloaded(scene: Scene) -> None:
    scene.store.put(v1=b"one", v2=b"two", v3=b"three")

    assert scene.fetch_well() == (3,)
    assert scene.content("3/model.onnx") == b"three"
    assert {key for key, _, _ in scene.store.reads} == {"m/3/model.onnx"}
    assert scene.fetch_well({"specific": {"versions": [1, 7]}}, serving=(1,)) == (1,)
    assert scene.fetch_well(ALL) == (1, 2, 3)


def test_what_is_here_is_not_downloaded_again(scene: Scene) -> None:
    scene.store.put(v1=b"one")
    scene.fetch_well()
    scene.store.reads.clear()

    done = scene.fetch()
    assert (done.fetched_bytes, done.error, scene.store.reads) == (0, None, [])


def test_what_somebody_damaged_here_is_downloaded_again(scene: Scene) -> None:
    scene.store.put(v1=b"one")
    scene.fetch_well()
    (scene.path / "1" / "model.onnx").write_bytes(b"")
    scene.fetch_well()

    assert scene.content() == b"one"


def test_what_serves_stays_until_another_does(scene: Scene) -> None:
    scene.store.put(v1=b"one")
    scene.fetch_well()
    scene.store.put(v2=b"two")

    assert scene.fetch_well(serving=(1,)) == (1, 2)
    assert scene.fetch_well(serving=(2,)) == (2,)


def test_after_a_restart_nothing_is_removed_before_something_wanted_serves(scene: Scene) -> None:
    """The version that serves is not known yet then, and it may be the only one that can."""
    scene.store.put(v1=b"one")
    scene.fetch_well()
    scene.store.put(v2=b"broken")
    scene.fetch_well(serving=(1,))

    assert scene.fetch_well() == (1, 2)
    assert scene.fetch_well(serving=(1,), failed=(2,)) == (1, 2)


def test_what_has_failed_brings_the_next_one(scene: Scene) -> None:
    scene.store.put(v1=b"one", v2=b"broken")
    scene.fetch_well()

    assert scene.fetch_well(failed=(2,)) == (1, 2)


def test_what_vanished_goes_also_while_it_serves(scene: Scene) -> None:
    scene.store.put(v1=b"one", v2=b"two")
    scene.fetch_well(ALL)
    del scene.store.objects["m/2/model.onnx"]

    assert scene.fetch_well(ALL, serving=(1, 2)) == (1,)
    scene.store.objects.clear()
    done = scene.fetch(serving=(1,))
    assert done.versions == ()
    assert "is empty, or does not exist" in done.problems[0]


def test_a_store_that_cannot_be_listed_takes_nothing_away(scene: Scene) -> None:
    scene.store.put(v1=b"one")
    scene.fetch_well()
    for failure in (StoreUnavailable("gone"), StoreRefused("no")):
        scene.store.failure = failure
        done = scene.fetch()
        assert done.error is not None
        assert (done.error.name, done.versions) == (type(failure).__name__, (1,))


def test_content_that_changes_in_place_is_replaced_at_once(scene: Scene) -> None:
    scene.store.put(v1=b"one")
    scene.store.objects["m/1/old.json"] = b"{}"
    scene.fetch_well()
    before = os.stat(scene.path / "1").st_ino
    scene.store.put(v1=b"another")
    del scene.store.objects["m/1/old.json"]
    scene.fetch_well()

    assert scene.content() == b"another"
    assert not (scene.path / "1" / "old.json").exists()
    assert os.stat(scene.path / "1").st_ino != before


def test_a_download_that_breaks_off_goes_on_where_it_was(scene: Scene) -> None:
    scene.store.put(v1=bytes(range(250)) * 40)
    scene.store.cuts, scene.store.cut_after = 5, 400
    scene.fetch_well()

    assert scene.content() == scene.store.objects["m/1/model.onnx"]
    assert len(scene.store.reads) == len(set(scene.store.reads)) > 10, "none from its beginning again"
    assert scene.store.cuts == 0


def test_a_download_goes_on_after_its_process_has_ended(scene: Scene) -> None:
    scene.store.put(v1=bytes(range(250)) * 40)
    scene.store.cuts, scene.store.cut_after = 10**6, 0
    scene.store.objects["m/1/b.bin"] = b""
    assert scene.fetch().error is not None
    scene.store.cuts = 0
    original = scene.store.read
    turns = itertools.count()

    def few(*arguments: Any) -> Any:
        if next(turns) >= 7:
            raise StoreUnavailable("gone")
        return original(*arguments)

    scene.store.read = few  # type: ignore[assignment,method-assign]  # a store that goes away in the midst of it
    assert scene.fetch().error is not None
    scene.store.read = original  # type: ignore[method-assign]  # it is back
    scene.store.reads.clear()
    scene.fetch_well()

    assert len(scene.store.reads) == 3, "of ten parts seven were here"
    assert scene.job.progress.take() == (10_000, 10_000)
    assert scene.content() == scene.store.objects["m/1/model.onnx"]
    assert not list((scene.path / ".partial").iterdir())


def test_an_object_that_is_replaced_meanwhile_counts_for_nothing(scene: Scene) -> None:
    scene.store.put(v1=b"a" * 3000)
    scene.fetch_well()
    scene.store.put(v1=b"b" * 3000)
    scene.store.lies["m/1/model.onnx"] = b"c" * 3000
    done = scene.fetch()
    assert done.error is not None
    assert done.error.name == "StoreContentInvalid"
    assert scene.content() == b"a" * 3000

    scene.store.lies.clear()
    scene.fetch_well()
    assert scene.content() == b"b" * 3000


def test_one_version_that_cannot_be_had_leaves_the_others(scene: Scene) -> None:
    scene.store.put(v1=b"one", v2=b"two")
    scene.store.lies["m/2/model.onnx"] = b"TWO"
    done = scene.fetch(ALL)

    assert done.versions == (1,)
    assert done.error is not None
    assert done.error.message.startswith("version 2: model.onnx was damaged on its way")


@pytest.mark.parametrize(
    ("key", "problem"),
    [
        ("m/1/../../../escaped", "has `.` or `..`"),
        ("m//1/escaped", "an empty part"),
        ("m/1//etc/escaped", "an empty part"),
        ("m/1/esc\0aped", "cannot be printed"),
        ("m/1/" + "n" * 256, "longer than 255 bytes"),
        ("m/1/" + "n/" * 600 + "n", "longer than 1024 bytes"),
        ("m/1/model.onnx/inside", "is an object itself"),
        ("m/01/model.onnx", "is version 1, too"),
        ("m/2/model.bin", "model.bin is without model.xml"),
    ],
)
def test_odd_names_are_harmless_and_named(scene: Scene, key: str, problem: str) -> None:
    scene.store.put(v1=b"one")
    scene.store.objects[key] = b"harm"
    done = scene.fetch(ALL)

    assert done.versions == (1,)
    assert len(done.problems) == 1
    assert problem in done.problems[0]
    assert len(done.problems[0]) < 250
    files = [path for path in scene.root.rglob("*") if path.is_file() and not path.name.startswith(".")]
    assert files == [scene.path / "1" / "model.onnx"]


@pytest.mark.parametrize("key", ["m/", "m/1/", "m/7/", "m/1/.hidden", "m/notes.txt", "m/sub/2/model.onnx"])
def test_what_is_no_file_of_a_version_is_no_matter(scene: Scene, key: str) -> None:
    scene.store.put(v1=b"one")
    scene.store.objects[key] = b""

    assert scene.fetch(ALL).problems == ()
    assert scene.fetch_well(ALL) == (1,)


def test_a_saved_model_comes_with_its_directories(scene: Scene) -> None:
    for name in ("saved_model.pb", "variables/variables.index", "assets/empty"):
        scene.store.objects[f"m/1/{name}"] = name.encode() * (name != "assets/empty")

    assert scene.fetch_well() == (1,)
    assert scene.content("1/variables/variables.index") == b"variables/variables.index"
    assert scene.content("1/assets/empty") == b""


@pytest.mark.parametrize("path", ["m", "m/net.xml"])
def test_a_model_without_a_version_directory_is_version_1(scene: Scene, path: str) -> None:
    scene.url = f"s3://bucket/{path}"
    for name in ("net.xml", "net.bin", "other.txt"):
        scene.store.objects[f"m/{name}"] = name.encode()

    assert scene.fetch_well() == (1,)
    assert sorted(path.name for path in (scene.path / "1").iterdir()) == [".fetched", "net.bin", "net.xml"]


def test_the_least_recently_served_goes_when_there_is_no_room(scene: Scene) -> None:
    scene.store.put(v1=b"x" * 5000)
    names = []
    for number, bucket in enumerate(("old", "older", "used")):
        scene.url = f"s3://{bucket}/m"
        scene.fetch_well()
        os.utime(scene.path / ".served", (2000 - number, 2000 - number))
        names.append(scene.path)
    old, older, used = names
    scene.url = "s3://new/m"
    scene.fetch_well(limit_bytes=18_000, in_use=(used.name,))
    assert (old.exists(), older.exists(), used.exists()) == (True, False, True)

    scene.url = "s3://newest/m"
    done = scene.fetch(limit_bytes=16_000, in_use=(used.name, "s3-new-m"))
    assert done.error is None
    assert (old.exists(), used.exists()) == (False, True)
    done = scene.fetch({"specific": {"versions": [1]}}, limit_bytes=1)
    assert done.error is None, "nothing is to be downloaded"
    scene.url = "s3://one-more/m"
    done = scene.fetch(limit_bytes=5_100, in_use=tuple(path.name for path in scene.root.iterdir()))
    assert done.error is not None
    assert done.error.name == "StoreDirFull"
    assert "--store_limit_mb" in done.error.message


def test_two_servers_do_not_download_the_same_at_once(scene: Scene) -> None:
    scene.store.put(v1=b"one")
    with Mirror(scene.path).locked():
        done = scene.fetch()
    assert done.error is not None
    assert "another server on this machine" in done.error.message

    assert scene.fetch_well() == (1,)


def test_a_hundred_thousand_objects_are_sorted_in_a_moment(scene: Scene) -> None:
    scene.store.put(v1=b"one")
    for number in range(100_000):
        scene.store.objects[f"m/data/{number}"] = b""

    assert scene.fetch_well() == (1,)


def test_credentials_are_not_in_what_is_said(scene: Scene) -> None:
    scene.environment = {"AWS_SECRET_ACCESS_KEY": "hush-hush"}
    scene.store.failure = StoreUnavailable(
        "GET https://u:p@proxy/x?X-Amz-Signature=abc123&n=1 with hush-hush"
    )
    done = scene.fetch()

    assert done.error is not None
    assert done.error.message == "GET https://***@proxy/x?X-Amz-Signature=***&n=1 with ***"


def config_of(scene: Scene) -> str | bytes:
    """The configuration file after a fetch, or why it is not there."""
    scene.url = "s3://bucket/configs/config.json"
    done = scene.fetch(file_limit_bytes=20)
    return done.error.message if done.error else scene.content("1/config.json")


def test_a_configuration_file_is_mirrored(scene: Scene) -> None:
    objects = scene.store.objects
    objects.update({"configs/config.json": b"one", "configs/config.json.bak": b"no", "configs/config": b"no"})
    assert config_of(scene) == b"one"
    scene.store.reads.clear()
    assert config_of(scene) == b"one"
    assert scene.store.reads == [], "nothing has changed"
    objects["configs/config.json"] = b"two"
    assert config_of(scene) == b"two"


def test_a_configuration_file_that_is_gone_stays_here(scene: Scene) -> None:
    objects = scene.store.objects
    objects["configs/config.json"] = b"one"
    config_of(scene)
    del objects["configs/config.json"]
    objects["configs/config.json/1"] = b"no"

    assert config_of(scene) == "configs/config.json does not exist"
    assert scene.content("1/config.json") == b"one"


def test_a_configuration_file_may_not_be_long(scene: Scene) -> None:
    scene.store.objects["configs/config.json"] = b"x" * 21

    text = "configs/config.json has 21 bytes; a configuration file may have 20"
    assert config_of(scene) == text
    assert scene.store.reads == []
