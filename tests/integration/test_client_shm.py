# SPDX-License-Identifier: Apache-2.0
"""Clients' shared memory, with two fronts of each protocol: registered anywhere it is known everywhere, and what a client
does to its memory is its own affair.
"""

from __future__ import annotations

import os
import shutil
import threading
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import psutil
import pytest

from tests.support.load import Load
from tests.support.server import Server
from tests.support.shm_client import (
    GrpcShmClient,
    Input,
    Place,
    Refused,
    RestShmClient,
    ShmClient,
    get,
    put,
    shared_memory,
)
from tests.support.waiting import eventually

if TYPE_CHECKING:
    from collections.abc import Iterator
    from multiprocessing.shared_memory import SharedMemory

    from tests.support.models import ModelZoo

DIRECTORY = Path("/dev/shm")  # noqa: S108  # where the tests' clients have their memory
X = np.arange(10, dtype=np.float32)
NBYTES = X.nbytes
ASKED = 12
"""Calls, each on a connection of its own, after which every front has very likely been asked."""
REFUSALS = {"INVALID_ARGUMENT": "400", "NOT_FOUND": "404", "PERMISSION_DENIED": "403", "UNIMPLEMENTED": "501"}


@pytest.fixture(scope="module")
def server(zoo: ModelZoo, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    directory = tmp_path_factory.mktemp("client_shm")
    config = zoo.config_file(directory, ["tiny", "pair", "slow", "id_f32"])
    arguments = ["config", "--config_path", str(config), "--allow_client_shm"]
    with Server(arguments, directory / "server.log", grpc_workers=2, rest_workers=2) as running:
        yield running


@pytest.fixture(params=[GrpcShmClient, RestShmClient], ids=["grpc", "rest"])
def client(server: Server, request: pytest.FixtureRequest) -> Iterator[ShmClient]:
    asks: ShmClient = request.param(server)
    yield asks
    asks.unregister()


@pytest.fixture
def memory() -> Iterator[SharedMemory]:
    """Of two tensors; the first is X."""
    with shared_memory(2 * NBYTES) as shared:
        put(shared, X)
        yield shared


def others(client: ShmClient) -> ShmClient:
    """The same calls by the other protocol."""
    return (RestShmClient if isinstance(client, GrpcShmClient) else GrpcShmClient)(client.server)


def tiny(client: ShmClient, region: str, result: str = "") -> dict[str, object]:
    """Have X made Y, which goes behind it or into another region."""
    place = Place(result, 0, NBYTES) if result else Place(region, NBYTES, NBYTES)
    answer: dict[str, object] = client.infer(
        "tiny", [Input("x", "FP32", [1, 10], Place(region, 0, NBYTES))], [("y", place)]
    )
    return answer


def refused(client: ShmClient, code: str, error: Refused) -> bool:
    return error.code == (code if isinstance(client, GrpcShmClient) else REFUSALS[code])


def descriptors(server: Server) -> dict[int, int]:
    return {pid: psutil.Process(pid).num_fds() for kind in ("grpc", "rest") for pid in server.pids(kind)}


def test_a_region_is_known_to_every_front_of_both_protocols_when_it_is_registered(
    client: ShmClient, memory: SharedMemory
) -> None:
    client.register("r", f"/{memory.name}", 0, 2 * NBYTES)
    for _ in range(ASKED):
        for asked in (client, others(client)):
            assert asked.status() == {"r": (f"/{memory.name}", 0, 2 * NBYTES)}
            assert asked.status("r") == asked.status()
            put(memory, np.zeros_like(X), NBYTES)

            answer = tiny(asked, "r")

            assert get(memory, np.float32, 10, NBYTES).tolist() == (X + 1).tolist()
            assert answer == {
                "y": {
                    "shared_memory_region": "r",
                    "shared_memory_byte_size": NBYTES,
                    "shared_memory_offset": NBYTES,
                }
            }
    client.unregister("r")
    for _ in range(ASKED):
        for asked in (client, others(client)):
            assert asked.status() == {}
            with pytest.raises(Refused, match="Unable to find shared memory region: 'r'") as error:
                tiny(asked, "r")
            assert refused(asked, "NOT_FOUND", error.value)


def test_a_region_may_begin_within_the_memory_and_have_any_name(
    client: ShmClient, memory: SharedMemory
) -> None:
    put(memory, X, NBYTES)
    client.register("a/b ü%2F", memory.name, NBYTES, NBYTES)

    client.infer("tiny", [Input("x", "FP32", [1, 10], Place("a/b ü%2F", 0, NBYTES))],
                 [("y", Place("a/b ü%2F", 0, NBYTES))])  # fmt: skip

    assert get(memory, np.float32, 10, NBYTES).tolist() == (X + 1).tolist(), "a result may lie over an input"


def test_several_tensors_of_one_request(client: ShmClient, memory: SharedMemory) -> None:
    a, b = np.arange(6, dtype=np.float32), np.arange(6, dtype=np.int64)
    with shared_memory(4096) as results:
        client.register("in", memory.name, 0, 80)
        client.register("out", results.name, 0, 4096)
        put(memory, a)
        put(memory, b, 24)
        inputs = [
            Input("a", "FP32", [2, 3], Place("in", 0, 24)),
            Input("b", "INT64", [2, 3], Place("in", 24, 48)),
        ]

        answer = client.infer(
            "pair", inputs, [("product", Place("out", 100, 24)), ("sum", Place("out", 0, 100))]
        )

        assert get(results, np.float32, 6).tolist() == (a + b).tolist()
        assert get(results, np.float32, 6, 100).tolist() == (a * b).tolist()
        assert answer["sum"] == {"shared_memory_region": "out", "shared_memory_byte_size": 24}
        client.register("out again", results.name, 100, 64)
        with pytest.raises(
            Refused, match="'product' and 'sum' would lie over each other|'sum' and 'product'"
        ) as error:
            client.infer(
                "pair", inputs, [("product", Place("out again", 0, 24)), ("sum", Place("out", 90, 24))]
            )
        assert refused(client, "INVALID_ARGUMENT", error.value)


def test_tensors_that_are_copied_in_a_thread(client: ShmClient) -> None:
    values = np.arange(3 << 20, dtype=np.float32)
    with shared_memory(2 * values.nbytes) as large:
        put(large, values)
        client.register("large", large.name, 0, 2 * values.nbytes)

        client.infer(
            "id_f32",
            [Input("x", "FP32", [len(values)], Place("large", 0, values.nbytes))],
            [("y", Place("large", values.nbytes, values.nbytes))],
        )

        assert get(large, np.float32, len(values), values.nbytes).tobytes() == values.tobytes()


def test_what_has_other_sizes_is_refused(client: ShmClient, memory: SharedMemory) -> None:
    client.register("r", memory.name, 0, 2 * NBYTES)
    whole, room = Place("r", 0, NBYTES), Place("r", NBYTES, NBYTES)
    cases: list[tuple[Place, Place, str]] = [
        (
            whole._replace(nbytes=39),
            room,
            r"input 'x': shared_memory_byte_size is 39, but FP32 .* has 40 bytes",
        ),
        (whole._replace(offset=41), room, r"input 'x': Invalid offset \+ byte size .* 40 bytes at 41"),
        (whole._replace(offset=(1 << 63) - 1), room, r"input 'x': Invalid offset \+ byte size"),
        (whole, room._replace(nbytes=39), r"output 'y' has 40 bytes, .* gives it 39 bytes of region 'r'"),
        (whole, room._replace(offset=60), r"output 'y': Invalid offset \+ byte size"),
    ]
    for given, asked, text in cases:
        with pytest.raises(Refused, match=text) as error:
            client.infer("tiny", [Input("x", "FP32", [1, 10], given)], [("y", asked)])
        assert refused(client, "INVALID_ARGUMENT", error.value)
    with pytest.raises(Refused, match="Obtained shape"):
        client.infer("tiny", [Input("x", "FP32", [2, 5], whole)], [("y", room)])
    assert not any(memory.buf[NBYTES : 2 * NBYTES]), "what fails writes nothing"


def test_names_are_taken_once_and_given_back(client: ShmClient, memory: SharedMemory) -> None:
    client.register("r", memory.name, 0, 8)
    with pytest.raises(Refused, match="shared memory region 'r' already in manager"):
        others(client).register("r", memory.name, 0, 8)
    with pytest.raises(Refused, match="Unable to find system shared memory region: 's'") as error:
        client.status("s")
    assert refused(client, "NOT_FOUND", error.value)
    client.unregister("s")
    client.register("s", memory.name, 0, 8)
    client.unregister()
    assert others(client).status() == {}


def test_memory_of_gpus_is_listed_as_none_and_refused(client: ShmClient) -> None:
    assert client.status(kind="Cuda") == {}
    client.unregister(kind="Cuda")
    with pytest.raises(Refused, match="GPUs not supported") as error:
        client.register_cuda("g")
    assert refused(client, "UNIMPLEMENTED", error.value)


def test_files_that_are_no_shared_memory_of_a_client_are_refused(
    client: ShmClient, memory: SharedMemory, tmp_path: Path
) -> None:
    path = DIRECTORY / memory.name
    unfit: dict[str, tuple[str, str]] = {}

    def make(kind: str, text: str, code: str = "INVALID_ARGUMENT") -> Path:
        name = f"{memory.name}-{kind}"
        unfit[name] = (text, code)
        return DIRECTORY / name

    secret = tmp_path / "secret"
    secret.write_bytes(bytes(64))
    make("link", "it is a symbolic link, not a file").symlink_to(secret)
    make("inner", "it is a symbolic link, not a file").symlink_to(path)
    make("directory", "it is a directory, not a file").mkdir()
    os.mkfifo(make("fifo", "it is a FIFO, not a file"))
    make("none", "No such file")
    if os.geteuid() == 0:
        foreign = make(
            "foreign", r"belongs to user 12345 .* must belong to the server's user 0", "PERMISSION_DENIED"
        )
        foreign.write_bytes(bytes(64))
        os.chown(foreign, 12345, 12345)
    try:
        for name, (text, code) in unfit.items():
            with pytest.raises(
                Refused, match=rf"Unable to open shared memory region: '{name}': .*{text}"
            ) as error:
                client.register("r", name, 0, 8)
            assert refused(client, code, error.value)
        os.link(path, DIRECTORY / f"{memory.name}-hard")
        unfit[f"{memory.name}-hard"] = ("", "")
        with pytest.raises(Refused, match="the file has 2 names"):
            client.register("r", memory.name, 0, 8)
    finally:
        for name in unfit:
            entry = DIRECTORY / name
            shutil.rmtree(entry) if entry.is_dir() and not entry.is_symlink() else entry.unlink(
                missing_ok=True
            )
    for key in ("", "/", ".", "..", "../etc/passwd", "//x", "a/b", "nul\0"):
        with pytest.raises(Refused, match="a key is the name of a file"):
            client.register("r", key, 0, 8)
    for offset, size in ((0, 0), (0, 1 << 62), (81, 8), ((1 << 63) - 1, 8), (1, 80)):
        with pytest.raises(Refused, match="failed to register shared memory region 'r': invalid args"):
            client.register("r", memory.name, offset, size)
    for offset, size in ((0, (1 << 64) - 1), ((1 << 64) - 8, 16), (1 << 63, 1)):
        with pytest.raises(Refused, match="more than any file has"):
            client.register("r", memory.name, offset, size)
    assert client.status() == {}


def test_attacks_are_errors_of_those_who_make_them(server: Server) -> None:
    """Memory is cut off, removed, replaced and unregistered while requests use it; all others are answered."""
    clients: list[ShmClient] = [GrpcShmClient(server), RestShmClient(server)]
    with Load(server.port, server.rest_port, clients=4, pause_s=0.01) as load:
        for attack in (_shrink, _replace, _unlink, _unregister):
            attack(clients)
            before = descriptors(server)
            for _ in range(3):
                attack(clients)
            eventually(
                lambda before=before: _is_no_more(descriptors(server), before),
                30.0,
                f"no descriptor more after {attack.__name__}",
            )
    assert load.outcome.counts["right"] == sum(load.outcome.counts.values()), load.outcome
    assert len(server.pids("grpc")) == len(server.pids("rest")) == 2


def _is_no_more(now: dict[int, int], before: dict[int, int]) -> bool:
    # Connections come and go.
    return now.keys() == before.keys() and all(now[pid] <= before[pid] + 4 for pid in now)


def _shrink(clients: list[ShmClient]) -> None:
    for client in clients:
        with shared_memory(2 * NBYTES) as memory:
            client.register("r", memory.name, 0, 2 * NBYTES)
            stop = threading.Event()
            cut = threading.Thread(target=_cut_and_grow, args=(memory.name, stop))
            cut.start()
            try:
                texts = {_failure(client, "r") for _ in range(40)}
            finally:
                stop.set()
                cut.join()
            assert all(not text or "it was cut off after it was registered" in text for text in texts), texts
            os.truncate(DIRECTORY / memory.name, NBYTES + 1)
            assert "has 41 bytes by now, and the tensor ends at 80" in _failure(client, "r")
            assert (DIRECTORY / memory.name).stat().st_size == NBYTES + 1, "a result makes no file longer"
            os.truncate(DIRECTORY / memory.name, 8)
            assert "has 8 bytes by now" in _failure(client, "r")
            os.truncate(DIRECTORY / memory.name, 2 * NBYTES)
            assert not _failure(client, "r")
            client.unregister("r")


def _cut_and_grow(name: str, stop: threading.Event) -> None:
    while not stop.is_set():
        os.truncate(DIRECTORY / name, 0)
        os.truncate(DIRECTORY / name, 2 * NBYTES)


def _replace(clients: list[ShmClient]) -> None:
    """Fronts keep the file that was registered; the new one becomes a region by being registered."""
    for client in clients:
        with shared_memory(2 * NBYTES) as memory:
            put(memory, X)
            client.register("r", memory.name, 0, 2 * NBYTES)
            path = DIRECTORY / memory.name
            path.unlink()
            path.write_bytes(bytes(2 * NBYTES))
            for asked in clients * 3:
                assert not _failure(asked, "r")
            assert get(memory, np.float32, 10, NBYTES).tolist() == (X + 1).tolist()
            assert path.read_bytes() == bytes(2 * NBYTES)
            client.unregister("r")


def _unlink(clients: list[ShmClient]) -> None:
    for client in clients:
        with shared_memory(2 * NBYTES) as memory:
            client.register("r", memory.name, 0, 2 * NBYTES)
            memory.unlink()
            for asked in clients * 3:
                assert not _failure(asked, "r")
            client.unregister("r")
            with pytest.raises(Refused, match="No such file"):
                client.register("r", memory.name, 0, 2 * NBYTES)
            (DIRECTORY / memory.name).touch()  # As the tracker of shared memory wants to see it go.


def _unregister(clients: list[ShmClient]) -> None:
    """A request that has begun is answered; the next one finds nothing."""
    with shared_memory(8) as memory:
        for client in clients:
            put(memory, np.zeros(2, np.float32))
            client.register("r", memory.name, 0, 8)
            failures: list[str] = []

            def ask(client: ShmClient = client, failures: list[str] = failures) -> None:
                try:
                    client.infer(
                        "slow", [Input("x", "FP32", [1], Place("r", 0, 4))], [("y", Place("r", 4, 4))]
                    )
                except Refused as error:
                    failures.append(str(error))

            asking = [threading.Thread(target=ask) for _ in range(3)]
            for thread in asking:
                thread.start()
            client.unregister("r")
            for thread in asking:
                thread.join()
            assert all("Unable to find shared memory region: 'r'" in text for text in failures), failures
            assert "Unable to find shared memory region: 'r'" in _failure(client, "r")


def _failure(client: ShmClient, region: str) -> str:
    try:
        tiny(client, region)
    except Refused as error:
        return error.text
    return ""


def test_a_front_that_starts_later_has_what_is_registered_unless_it_is_another_file(server: Server) -> None:
    client = GrpcShmClient(server)
    with shared_memory(2 * NBYTES) as memory, shared_memory(2 * NBYTES) as replaced:
        client.register("kept", memory.name, 0, 2 * NBYTES)
        client.register("replaced", replaced.name, 0, 2 * NBYTES)
        path = DIRECTORY / replaced.name
        path.unlink()
        path.write_bytes(bytes(2 * NBYTES))
        old = server.pids("grpc")
        for pid in old:
            psutil.Process(pid).kill()
        eventually(
            lambda: len(pids := server.pids("grpc")) == 2 and not {*pids} & {*old}, 60.0, "two new fronts"
        )
        eventually(lambda: not _failure_if_up(client, "kept"), 60.0, "the new fronts answer")
        for _ in range(ASKED):
            assert not _failure(client, "kept")
            assert "is another file than the one that was registered" in _failure(client, "replaced")
        client.unregister()


def _failure_if_up(client: ShmClient, region: str) -> str:
    try:
        tiny(client, region)
    except Refused as error:
        return str(error)
    return ""


def test_without_the_flag_there_is_none(zoo: ModelZoo, tmp_path: Path, memory: SharedMemory) -> None:
    arguments = ["model", "--model_name", "tiny", "--model_path", str(zoo.base_path("tiny"))]
    with Server(arguments, tmp_path / "server.log") as server:
        for client in (GrpcShmClient(server), RestShmClient(server)):
            assert client.status() == {}
            for call in (
                lambda client=client: client.register("r", memory.name, 0, 8),
                lambda client=client: client.unregister(),
                lambda client=client: tiny(client, "r"),
            ):
                with pytest.raises(Refused, match="--allow_client_shm") as error:
                    call()
                assert refused(client, "UNIMPLEMENTED", error.value)
