# SPDX-License-Identifier: Apache-2.0
"""Whatever raises, dies or hangs on a model's way from its store: the model comes, and clients notice nothing."""

from __future__ import annotations

import contextlib
import json
import os
import signal
from functools import partial
from typing import TYPE_CHECKING

import pytest

from tests.support import rest_client
from tests.support.injection import Injection
from tests.support.ledger import Ledger, assert_nothing_left
from tests.support.load import Load
from tests.support.object_stores import INSTALL, Moto
from tests.support.server import Server, free_ports
from tests.support.tcp_proxy import Proxy, Weather, proxy
from tests.support.waiting import eventually

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.support.models import ModelZoo

CLIENTS = 2
PAUSE_S = 0.02
WARM = 20
"""Answers until clients have opened what they open."""
WITHIN_S = 40.0
BALLAST = b"x" * (4 << 20)
SLOWLY = 1 << 20
COMING = "event=fetching model=aux"
FETCHER = [
    "fetcher.job:Job._synchronize",
    "fetcher.job:plan_versions",
    "fetcher.mirror:Mirror.put",
    "fetcher.opening:StoreOpener.open",
    "fetcher.parts:VersionDownload._fetch",
    "fetcher.parts:VersionDownload._verify",
    "fetcher.s3:S3Store.list",
    "fetcher.s3:S3Store.read",
]
MANAGER = [
    "manager.models.stores:Stores._begin",
    "manager.models.stores:Stores._ended",
    "manager.models.stores:Stores._fetch",
    "manager.models.stores:Stores._run_due",
    "manager.models.stores:Stores.follow",
    "manager.models.stores:Stores.progress",
    "manager.models.fetchers:FetcherProcess.send",
]
LOOP = [
    "fetcher.main:Fetcher._begin",
    "fetcher.main:Fetcher._report_ended",
    "fetcher.main:Fetcher._report_progress",
    "manager.child_events:ChildEvents.take_message",
    "manager.models.stores:Stores.done",
]
"""The fetcher ends by them, or is ended: nobody knows any more what it does."""
ENDINGS = ["manager.models.fetchers:FetcherProcess.ready", "manager.models.stores:Stores.exited"]
"""They are called where a fetcher begins or ends."""

pytestmark = pytest.mark.skipif(
    not Moto.is_installed(), reason=f"moto is not installed; {INSTALL} or the extra `test`"
)


class Rig:
    """A server under load with a model from a store; nobody asks that one."""

    def __init__(self, zoo: ModelZoo, directory: Path, store: Moto, network: Proxy) -> None:
        self._zoo = zoo
        self._version = 1
        self.store, self.network = store, network
        self._put()
        entries = [("aux", "s3://models/aux"), ("tiny", str(zoo.base_path("tiny")))]
        config = directory / "config.json"
        document = [{"config": {"name": name, "base_path": path}} for name, path in entries]
        config.write_text(json.dumps({"model_config_list": document}))
        targets = [f"ovms_mp.{target}" for target in (*FETCHER, *MANAGER, *LOOP, *ENDINGS)]
        self.injection = Injection(directory / "faults", targets)
        flags = ["--heartbeat_interval_s", "0.2", "--heartbeat_timeout_s", "3", "--settle_s", "0.05"]
        flags += ["--store_dir", str(directory / "mirrors"), "--file_system_poll_wait_seconds", "0.2"]
        self.server = Server(
            ["config", "--config_path", str(config), *flags],
            directory / "server.log",
            {**self.injection.environment, **store.environment(network.port)},
        )
        self.load: Load

    def _put(self) -> None:
        self.store.put_version(self._zoo.base_path("plus_two") / "1", "aux", self._version)

    def put_next(self, ballast: bytes = b"") -> None:
        """The store has another version."""
        self._version += 1
        if ballast:
            self.store.put({f"aux/{self._version}/ballast.dat": ballast})
        self._put()

    def wait_current(self) -> None:
        """The newest version is the only one that serves."""
        what = f"version {self._version} of aux is the only one that serves"
        eventually(self._is_current, WITHIN_S, what)

    def _is_current(self) -> bool:
        reply = rest_client.request(self.server.rest_port, "GET", "/v1/models/aux")
        if reply.status != 200:
            return False
        states = {entry["version"]: entry["state"] for entry in reply.json()["model_version_status"]}
        serving = {number for number, state in states.items() if state != "END"}
        return serving == {str(self._version)} and states[str(self._version)] == "AVAILABLE"

    def has_told_more(self, times: int) -> bool:
        """Whether the log has said more often than that that a version is coming."""
        return self.server.log().count(COMING) > times

    def fetcher(self) -> int:
        """Its process."""
        return int(eventually(lambda: (self.server.pids("fetcher") or [0])[0], WITHIN_S, "a fetcher"))

    def assert_nobody_noticed(self) -> None:
        """Clients have had right answers only."""
        assert set(self.load.outcome.counts) <= {"right"}, self.load.outcome


@contextlib.contextmanager
def running(zoo: ModelZoo, directory: Path) -> Iterator[Rig]:
    (port,) = free_ports(1)
    before = Ledger.take()
    with Moto.running(directory) as store, proxy(port, store.port, directory) as network:
        made = Rig(zoo, directory, store, network)
        with made.server, Load(made.server.port, made.server.rest_port, CLIENTS, PAUSE_S) as load:
            made.load = load
            made.wait_current()
            eventually(lambda: load.right_answers() > WARM, WITHIN_S, "clients are answered")
            yield made
            made.assert_nobody_noticed()
    assert_nothing_left(before)


@pytest.fixture(scope="module")
def rig(zoo: ModelZoo, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Rig]:
    """The server of all faults that no process ends by."""
    with running(zoo, tmp_path_factory.mktemp("fetcher")) as made:
        yield made


def inject(rig: Rig, target: str) -> None:
    """Have a function raise once, while the store has another version."""
    name = f"ovms_mp.{target}"
    is_slow = target.endswith("progress")
    if is_slow:
        rig.network.set(Weather(bytes_per_s=SLOWLY))
    rig.injection.arm(name)
    if target in ENDINGS:
        os.kill(rig.fetcher(), signal.SIGKILL)
    rig.put_next(BALLAST if is_slow else b"")
    rig.injection.wait_fired(name)
    rig.network.set(Weather())
    rig.wait_current()
    rig.assert_nobody_noticed()


@pytest.mark.parametrize("target", [*FETCHER, *MANAGER])
def test_what_raises_delays_a_version_at_most(rig: Rig, target: str) -> None:
    inject(rig, target)


def test_a_fetcher_that_ends_or_stops_is_replaced(zoo: ModelZoo, tmp_path: Path) -> None:
    with running(zoo, tmp_path) as rig:
        for target in (*LOOP, *ENDINGS):
            inject(rig, target)
        for number in (signal.SIGKILL, signal.SIGSEGV, signal.SIGSTOP):
            rig.network.set(Weather(bytes_per_s=SLOWLY))
            told = rig.server.log().count(COMING)
            rig.put_next(BALLAST)
            eventually(partial(rig.has_told_more, told), WITHIN_S, "it is coming")
            fetcher = rig.fetcher()
            os.kill(fetcher, number)
            rig.network.set(Weather())
            rig.wait_current()
            assert rig.fetcher() != fetcher
