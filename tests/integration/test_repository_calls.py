# SPDX-License-Identifier: Apache-2.0
"""Clients that change the server's state at one front and ask at another: what an answer says holds everywhere."""

from __future__ import annotations

import contextlib
import mmap
import os
import random
import signal
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import pytest

from tests.support import rest_client
from tests.support.fronts import Refused, RestFront, fronts_of
from tests.support.ledger import CLIENTS_MEMORY, Ledger, assert_nothing_left
from tests.support.load import Load
from tests.support.server import Server
from tests.support.waiting import eventually

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from tests.support.fronts import FrontClient
    from tests.support.models import ModelZoo

WITHIN_S = 60.0
REGION_BYTES = mmap.PAGESIZE
ARBITER_HEARS_WITHIN_S = 1.5
SWITCHES = ("log_info", "log_warning", "log_error")


class Site:
    """A server with two fronts of each protocol, the models ``tiny`` and ``other``, and shared memory of a client."""

    def __init__(self, root: Path, zoo: ModelZoo) -> None:
        for name in ("tiny", "other"):
            zoo.install("tiny", root / name, 1)
        self.root = root
        self.key = f"/{CLIENTS_MEMORY}{os.getpid()}-{root.name}"
        self.zoo = zoo
        config = zoo.config_file(root, [])
        config.write_text(
            '{"model_config_list": ['
            + ", ".join(
                f'{{"config": {{"name": "{name}", "base_path": "{root / name}"}}}}'
                for name in ("tiny", "other")
            )
            + "]}"
        )
        arguments = ["config", "--config_path", str(config), "--allow_client_shm", "true"]
        self.server = Server(arguments, root / "server.log", grpc_workers=2, rest_workers=2)

    def state(self, front: FrontClient, model: str = "other") -> str:
        return front.index()[model, "1"][0]


@contextlib.contextmanager
def served(root: Path, zoo: ModelZoo) -> Iterator[Site]:
    """A site whose server runs."""
    site = Site(root, zoo)
    path = f"/dev/shm{site.key}"  # noqa: S108  # where shared memory is
    with open(path, "wb") as region:
        region.truncate(REGION_BYTES)
    try:
        with site.server:
            yield site
    finally:
        os.unlink(path)


@pytest.fixture(scope="module")
def site(zoo: ModelZoo, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    before = Ledger.take()
    with served(tmp_path_factory.mktemp("repository_calls"), zoo) as site:
        yield site
    assert_nothing_left(before)


@pytest.fixture
def fronts(site: Site) -> Iterator[list[FrontClient]]:
    with fronts_of(site.server) as found:
        assert len(found) == 4
        yield found


def change_models(site: Site, fronts: list[FrontClient], dice: random.Random) -> None:
    asked, other = dice.sample(fronts, 2)
    if site.state(dice.choice(fronts)) == "READY":
        asked.unload("other")
        assert other.index()["other", "1"] == ("UNAVAILABLE", "unloaded by a client"), (asked.pid, other.pid)
        if isinstance(other, RestFront):
            with pytest.raises(Refused, match="it was unloaded by a client"):
                other.ask("POST", "/v1/models/other:predict", {"inputs": [[0.0] * 10]})
            status = other.ask("GET", "/v1/models/other")
            assert status["model_version_status"][0]["state"] == "END"
    else:
        asked.load("other")
        assert other.index()["other", "1"] == ("READY", ""), (asked.pid, other.pid)
        if isinstance(other, RestFront):
            answer = other.ask("POST", "/v1/models/other:predict", {"inputs": [[0.0] * 10]})
            assert answer["outputs"] == [[1.0] * 10]


def change_regions(site: Site, fronts: list[FrontClient], dice: random.Random) -> None:
    asked, other = dice.sample(fronts, 2)
    name = dice.choice("abc")
    before = dice.choice(fronts).regions()
    if name in before and dice.random() < 0.7:
        asked.unregister(name)
        assert other.regions() == {key: value for key, value in before.items() if key != name}
    elif name in before:
        with pytest.raises(Refused, match=f"shared memory region '{name}' already in manager"):
            asked.register(name, site.key, 0, 1)
        assert other.regions() == before
    else:
        size = dice.randint(1, REGION_BYTES)
        asked.register(name, site.key, REGION_BYTES - size, size)
        assert other.regions() == before | {name: (site.key, REGION_BYTES - size, size)}


def change_log(site: Site, fronts: list[FrontClient], dice: random.Random) -> None:
    asked, other = dice.sample(fronts, 2)
    before = dice.choice(fronts).log()
    name = dice.choice([*SWITCHES, "log_verbose_level", "log_format"])
    value: Any
    match name:
        case "log_verbose_level":
            value = dice.randint(0, 3)
        case "log_format":
            value = dice.choice(["default", "ISO8601"])
        case _:
            value = dice.random() < 0.7
    assert asked.log(**{name: value}) == before | {name: value}
    assert other.log() == before | {name: value}


def test_what_is_changed_at_one_front_is_so_at_every_other(site: Site, pytestconfig: pytest.Config) -> None:
    """Three clients change models, regions and the log at random fronts, while four others predict."""
    count = pytestconfig.getoption("--state-changes")
    changes = (change_models, change_regions, change_log)
    left = iter(range(count))
    lock = threading.Lock()

    def go_on() -> bool:
        with lock:
            return next(left, None) is not None

    def work(change: Callable[[Site, list[FrontClient], random.Random], None], seed: int) -> int:
        dice = random.Random(seed)
        done = 0
        with fronts_of(site.server) as own:
            # Each kind at least a few times, however slow it is.
            while go_on() or done < count // 10:
                change(site, own, dice)
                done += 1
        return done

    seed = random.randrange(1 << 32)
    with (
        Load(site.server.port, site.server.rest_port, clients=4, pause_s=0.005) as load,
        ThreadPoolExecutor(len(changes)) as pool,
    ):
        futures = [pool.submit(work, change, seed + index) for index, change in enumerate(changes)]
        done = [future.result() for future in futures]
    assert sum(done) >= count, f"seed {seed}"
    assert load.outcome.counts["right"] == sum(load.outcome.counts.values()) > 0, load.outcome


@pytest.fixture(autouse=True)
def as_at_the_start(site: Site) -> Iterator[None]:
    """Each test finds both models served, no region, and the log as it begins."""
    yield
    with fronts_of(site.server) as (front, *_):
        front.load("other")
        front.unregister("")
        front.log(log_info=True, log_warning=True, log_error=True, log_verbose_level=0, log_format="default")


@pytest.mark.parametrize("kind", ["grpc", "rest"])
def test_a_front_that_is_killed_while_something_changes_holds_nobody_up(
    zoo: ModelZoo, tmp_path: Path, kind: str
) -> None:
    """It is stopped first, so that it cannot have applied the change; the caller of another one gets its answer."""
    with served(tmp_path, zoo) as site:
        with fronts_of(site.server) as own, ThreadPoolExecutor(1) as pool:
            victim = next(front.pid for front in own if front.pid in site.server.pids(kind))
            asked = next(front for front in own if front.pid != victim)
            os.kill(victim, signal.SIGSTOP)
            call = pool.submit(asked.register, "r", site.key, 0, 1)
            assert not call.done()
            os.kill(victim, signal.SIGKILL)
            call.result(WITHIN_S)
        eventually(lambda: victim not in site.server.pids(kind), WITHIN_S, "it is gone")
        eventually(lambda: len(site.server.pids(kind)) == 2, WITHIN_S, "a successor")
        # It has the state.
        with fronts_of(site.server) as after:
            assert [list(front.regions()) for front in after] == [["r"]] * 4


def test_every_process_follows_the_levels_and_so_do_successors(zoo: ModelZoo, tmp_path: Path) -> None:
    def replace(kind: str) -> None:
        victim = site.server.pids(kind)[0]
        os.kill(victim, signal.SIGKILL)
        eventually(lambda: victim not in site.server.pids(kind), WITHIN_S, "it is gone")
        eventually(lambda: len(site.server.pids(kind)) == count[kind], WITHIN_S, "a successor")
        with fronts_of(site.server):
            pass  # Whoever is new has answered.

    with served(tmp_path, zoo) as site:
        count = {kind: len(site.server.pids(kind)) for kind in ("rest", "grpc", "worker")}
        with fronts_of(site.server) as (first, second, *_):
            first.log(log_verbose_level=1, log_format="ISO8601")
            assert second.log()["log_format"] == "ISO8601"
        written = len(site.server.log())
        replace("rest")

        def started() -> list[str]:
            lines = site.server.log()[written:].splitlines()
            return [line for line in lines if "[rest " in line and "startup complete" in line]

        (line,) = eventually(started, WITHIN_S, "a line of the successor")
        assert line.partition(" - ")[0].endswith("Z")
        # With everything off nobody writes a line, whatever happens; the arbiter hears of it a moment later.
        with fronts_of(site.server) as (first, second, *_):
            quiet = {**dict.fromkeys(SWITCHES, False), "log_verbose_level": 0}
            assert first.log(**quiet) == second.log()
        moment = time.monotonic() + ARBITER_HEARS_WITHIN_S
        eventually(lambda: time.monotonic() > moment, WITHIN_S, "a turn of the arbiter's loop")
        written = len(site.server.log())
        for kind in count:
            replace(kind)
        news = site.server.log()[written:].splitlines()
        # A front that is forked logs as the arbiter's command line says until its first snapshot.
        assert [line for line in news if "[rest " not in line] == []


def test_a_load_fails_in_words_that_clients_match(site: Site, fronts: list[FrontClient]) -> None:
    for front in fronts:
        with pytest.raises(Refused, match=r"^failed to load 'nobody', model is not configured$"):
            front.load("nobody")
        with pytest.raises(Refused, match=r"^failed to unload 'nobody', model is not configured$"):
            front.unload("nobody")
    bad = site.root / "other" / "2"
    bad.mkdir()
    try:
        (bad / "model.xml").write_text("<net></net>")
        (bad / "model.bin").write_bytes(b"\0" * 64)
        with pytest.raises(
            Refused, match=r"^failed to load 'other', version 2: .*; versions that are served: 1$"
        ):
            fronts[0].load("other")
        for front in fronts:
            assert front.index()["other", "1"] == ("READY", "")
            assert front.index()["other", "2"][0] == "UNAVAILABLE"
    finally:
        for path in bad.iterdir():
            path.unlink()
        bad.rmdir()


def test_an_unloaded_model_stays_so_though_its_files_change(site: Site, fronts: list[FrontClient]) -> None:
    fronts[0].unload("other")
    site.zoo.install("plus_two", site.root / "other", 2)
    try:
        reply = rest_client.request(site.server.rest_port, "POST", "/v1/config/reload")
        assert reply.status in (200, 201)
        assert [site.state(front) for front in fronts] == ["UNAVAILABLE"] * 4
        fronts[1].load("other")
        assert {front.index()["other", "2"][0] for front in fronts} == {"READY"}
    finally:
        for path in sorted((site.root / "other" / "2").iterdir()):
            path.unlink()
        (site.root / "other" / "2").rmdir()
        with contextlib.suppress(Refused):
            fronts[0].load("other")
