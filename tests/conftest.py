# SPDX-License-Identifier: Apache-2.0
"""Fixtures of all tests.

Session and module fixtures are set up before a test's own, so what outlives a test is in its ledger from the
beginning.
"""

from __future__ import annotations

import functools
import gc
import json
import os
import signal
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import HealthCheck, settings
from xdist.scheduler import LoadFileScheduling  # type: ignore[import-untyped]  # has no types

from ovms_mp.config.transports import GrpcConfig
from ovms_mp.demo import digits
from tests.support import rest_client
from tests.support.ledger import MARK, Ledger, assert_nothing_left
from tests.support.models import ModelCache, ModelZoo
from tests.support.server import Server
from tests.support.tfs_client import TfsClient
from tests.support.turns import turn
from tests.support.waiting import eventually

if TYPE_CHECKING:
    from collections.abc import Generator, Iterator, Mapping

os.environ[MARK[0]] = MARK[1]
# How long an example takes says how busy the machine is.
settings.register_profile("ovms_mp", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("ovms_mp")
PROCESS_TESTS = ("integration", "fault", "conformance", "clients", "image")
FRONTS = ("native", "grpcio")
ASK_FOR_THE_SHARED_SERVERS = (
    "shared_server: Server",
    "fronts: Mapping[str, Server]",
    "case: str, outcomes: ",
)
"""Parameters of tests, as they stand in their files."""
LONGEST = (
    "test_cases",
    "test_bad_versions",
    "test_settings_table",
    "test_injected_faults",
    "test_rest_attacks",
)


def pytest_configure() -> None:
    """Have everything that tests start take Ctrl-C, also where a shell that runs them in the background does not."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session")
def model_cache(pytestconfig: pytest.Config) -> ModelCache:
    """Models that are built once, by processes of their own."""
    cache = pytestconfig.cache
    assert cache is not None
    return ModelCache(cache.mkdir("models"))


@pytest.fixture(scope="session")
def clients_cache(pytestconfig: pytest.Config) -> Path:
    """Where clients of others are installed, once."""
    cache = pytestconfig.cache
    assert cache is not None
    return cache.mkdir("clients")


@pytest.fixture(scope="session")
def zoo(model_cache: ModelCache) -> ModelZoo:
    """Small real models."""
    return ModelZoo(model_cache.get("tests.support.build_models"))


@pytest.fixture(scope="session")
def resnet50(model_cache: ModelCache) -> Path:
    """Base path of the ResNet-50 topology with fixed random weights. Input ``image`` f32 [1,3,224,224]."""
    return model_cache.get("perf.models.model_builder", "resnet50", "--root") / "models" / "resnet50"


@pytest.fixture(scope="session")
def formats(model_cache: ModelCache) -> Path:
    """Base paths of one model in formats that are not OpenVINO's; TensorFlow takes half a minute for them."""
    return model_cache.get("tests.support.build_formats")


@pytest.fixture(scope="session")
def settings_models(model_cache: ModelCache) -> Path:
    """Base paths of the models that only the settings need."""
    return model_cache.get("tests.support.build_settings_models")


@pytest.fixture(scope="session")
def shared_server(
    zoo: ModelZoo, resnet50: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Server]:
    """One server for all tests that only ask: every model of the zoo but the slow one, and more.

    ``resnet50`` and ``digits``; ``versions``: 1 is tiny, 3 is plus_two, both served; ``broken``: its one version
    cannot be read; ``absent``: its base path does not exist; ``org/tiny``, ``modèle b``: tiny.
    Two fronts of each protocol, with Unix sockets beside their ports, and clients' shared memory: ``grpc.sock``,
    ``rest.sock`` and ``shm.sock`` are beside its log.
    """
    directory = tmp_path_factory.mktemp("shared_server")
    zoo.install("tiny", directory / "versions", 1)
    zoo.install("plus_two", directory / "versions", 3)
    broken = directory / "broken" / "1"
    broken.mkdir(parents=True)
    (broken / "model.xml").write_text("this is no model")
    (broken / "model.bin").write_bytes(b"")
    base_paths = {
        **{path.name: path for path in sorted(zoo.root.iterdir()) if path.name != "slow"},
        "resnet50": resnet50,
        "digits": digits.model_directory(),
        "versions": directory / "versions",
        "broken": directory / "broken",
        "absent": directory / "absent",
        "org/tiny": zoo.base_path("tiny"),
        "modèle b": zoo.base_path("tiny"),
    }
    entries: list[dict[str, object]] = [
        {"name": name, "base_path": str(path)} for name, path in base_paths.items()
    ]
    next(entry for entry in entries if entry["name"] == "versions")["model_version_policy"] = {"all": {}}
    config = directory / "config.json"
    config.write_text(json.dumps({"model_config_list": [{"config": entry} for entry in entries]}))
    arguments = [
        *("config", "--config_path", str(config), "--allow_client_shm"),
        *("--client_shm_socket", f"{directory}/shm.sock"),
        *("--grpc_bind_address", f"[::],unix:{directory}/grpc.sock"),
        *("--rest_bind_address", f"[::],unix:{directory}/rest.sock"),
        # Nothing changes, and it is there to the end: thirty directories a second would be looked at for nothing.
        *("--file_system_poll_wait_seconds", "10"),
    ]
    before = Ledger.take()
    with Server(arguments, directory / "server.log", grpc_workers=2, rest_workers=2) as server:
        yield server
    assert_nothing_left(before)


@pytest.fixture(scope="session")
def fronts(shared_server: Server, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mapping[str, Server]]:
    """Servers of the same models by what carries their gRPC; the shared one has the default, the other one sockets."""
    default = GrpcConfig().front
    (other,) = (front for front in FRONTS if front != default)
    directory = tmp_path_factory.mktemp(other)
    # It has no sockets of its own.
    hosts = ("--grpc_bind_address", "127.0.0.1", "--rest_bind_address", "127.0.0.1")
    arguments = [
        *shared_server.arguments,
        "--grpc_front",
        other,
        *hosts,
        "--client_shm_socket",
        f"{directory}/shm.sock",
    ]
    before = Ledger.take()
    with Server(arguments, directory / "server.log", grpc_workers=2, rest_workers=2) as server:
        for front in (shared_server, server):  # What they say is compared, so both have to have loaded all.
            eventually(functools.partial(_has_loaded_all, front), 60.0, "all versions")
        yield {default: shared_server, other: server}
    assert_nothing_left(before)


@pytest.fixture(scope="session")
def tfs() -> Iterator[TfsClient]:
    """The real TensorFlow Serving client; one process serves any number of servers."""
    with TfsClient() as client:
        yield client


@pytest.fixture
def log_path(tmp_path: Path) -> Path:
    """Where a test's server logs."""
    return tmp_path / "server.log"


@pytest.fixture(autouse=True)
def nothing_left_behind(request: pytest.FixtureRequest) -> Iterator[None]:
    """Fail a process test that leaves a process, a socket, shared memory or a descriptor behind."""
    if not _is_process_test(request.node) or request.node.get_closest_marker("replaces_processes"):
        yield
        return
    before = Ledger.take()
    yield
    assert_nothing_left(before, count_descriptors=True)


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Files that take long come first, and those that want quiet last; else the order of pytest-randomly remains."""
    if not config.getoption("--image"):
        for item in items:
            if item.get_closest_marker("image") is not None:
                item.add_marker(
                    pytest.mark.skip(reason="builds and runs the container image; ask by --image")
                )
    quiet = {item.path for item in items if item.get_closest_marker("quiet") is not None}
    items.sort(key=lambda item: (item.path in quiet, _haste(item)))


def pytest_collection_finish() -> None:
    """Keep tests and their modules, which stay to the end, from the garbage collector: it is asked in many tests."""
    gc.collect()
    gc.freeze()


def _haste(item: pytest.Item) -> int:
    """Whose files have to begin before others, so that none of them is still at it when all others have ended."""
    if item.path.stem in LONGEST:
        return LONGEST.index(item.path.stem)
    return len(LONGEST) + (not _is_process_test(item))


class LaneScheduling(LoadFileScheduling):  # type: ignore[misc]  # as above
    """A file's tests share a process, as xdist does it; so do all files of shared servers, which start slowly."""

    def _split_scope(self, nodeid: str) -> str:
        file: str = super()._split_scope(nodeid)
        return "shared servers" if _asks_for_a_shared_server(self.config.rootpath / file) else file


@functools.cache
def _asks_for_a_shared_server(file: Path) -> bool:
    # From the text, as who schedules the tests has not collected them.
    text = file.read_text()
    return any(parameter in text for parameter in ASK_FOR_THE_SHARED_SERVERS)


def pytest_xdist_make_scheduler(config: pytest.Config, log: object) -> LaneScheduling | None:
    """Our own where ``--dist=loadfile`` asks for it."""
    return LaneScheduling(config, log) if config.getoption("dist") == "loadfile" else None


def pytest_xdist_auto_num_workers(config: pytest.Config) -> int:
    """How many processes share the tests: one more than cores, as most tests wait most of their time.

    With two more, deadlines of tests on two cores were missed now and then.
    """
    return min(len(os.sched_getaffinity(0)) + 1, 8)


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_protocol(item: pytest.Item) -> Generator[None, object, object]:
    """Wait for the test's turn; its time-out begins after that."""
    cache = item.config.cache
    if cache is None or not hasattr(item.config, "workerinput"):
        return (yield)
    with turn(cache.mkdir("turns"), alone=item.get_closest_marker("quiet") is not None):
        return (yield)


def _has_loaded_all(server: Server) -> bool:
    documents = rest_client.request(server.rest_port, "GET", "/v1/config").json()
    names = ("versions", *list(documents)[-1:])
    entries = [entry for name in names for entry in documents[name]["model_version_status"]]
    return len(entries) == len(names) + 1 and {entry["state"] for entry in entries} == {"AVAILABLE"}


def _is_process_test(item: pytest.Item) -> bool:
    return any(f"/tests/{kind}/" in str(item.path) for kind in PROCESS_TESTS)


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add our options."""
    parser.addoption(
        "--fault-seconds", default="8", help="how long each fault test injects faults (full run: 60)"
    )
    parser.addoption(
        "--update-page",
        action="store_true",
        help="write down anew what screen readers are told of the live page",
    )
    parser.addoption(
        "--graphs",
        type=int,
        default=120,
        help="how many random graphs are compared with the engine (full run: 10000)",
    )
    parser.addoption(
        "--state-changes",
        type=int,
        default=50,
        help="how many changes of the server's state clients ask for at random (full run: 1000)",
    )
    parser.addoption(
        "--metric-requests",
        type=int,
        default=4000,
        help="how many requests clients count, to compare with the server's metrics (full run: 100000)",
    )
    parser.addoption(
        "--rotations",
        type=int,
        default=5,
        help="how often certificates are replaced under load (full run: 50)",
    )
    parser.addoption(
        "--overload-seconds",
        type=float,
        default=3.0,
        help="how long each overload lasts (full run: 60)",
    )
    parser.addoption(
        "--openapi-examples",
        type=int,
        default=6,
        help="how many requests are made up for each call that the server describes (full run: 500)",
    )
    parser.addoption(
        "--fleet-rounds",
        type=int,
        default=1,
        help="how often each part of a fleet is killed under load, every other time without retries (full run: 40)",
    )
    parser.addoption("--fleet-results", help="file that each of those rounds is noted in, as a line of JSON")
    parser.addoption("--image", action="store_true", help="build the container image and test it")
