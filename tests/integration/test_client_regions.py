# SPDX-License-Identifier: Apache-2.0
"""Memory that clients hand over a socket, with two fronts of each protocol.

It is read where it is, and whoever hands over something else, or changes what is being read, harms nobody else.
"""

from __future__ import annotations

import fcntl
import functools
import json
import os
import select
import signal
import socket
import struct
import tempfile
import threading
from contextlib import ExitStack, closing, contextmanager
from multiprocessing import resource_tracker
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import psutil
import pytest

from ovms_mp.client_regions import RegionConnection, RegionError, SharedRegion
from tests.support.load import Load
from tests.support.server import Server
from tests.support.shm_client import (
    GrpcShmClient,
    Input,
    Place,
    Refused,
    RestShmClient,
    ShmClient,
    shared_memory,
)
from tests.support.waiting import eventually

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.support.models import ModelZoo

X = np.arange(10, dtype=np.float32)
NBYTES = X.nbytes
RESULT = 4096
"""Where tests have results in a region."""
ASKED = 8
"""Calls, each on a connection of its own, after which every front has very likely been asked."""
MAPPED = "memfd:ovms_mp-client"
LIMIT_MB = 8


@pytest.fixture(scope="module", autouse=True)
def tracker() -> None:
    """Python's tracker of shared memory, which keeps a descriptor, is there before anything is counted."""
    resource_tracker.ensure_running()


@pytest.fixture(scope="module")
def server(zoo: ModelZoo, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with started(zoo, tmp_path_factory.mktemp("client_regions")) as running:
        yield running


@contextmanager
def started(zoo: ModelZoo, directory: Path) -> Iterator[Server]:
    config = zoo.config_file(directory, ["tiny", "pair", "nonzero", "batch"])
    with tempfile.TemporaryDirectory() as sockets:
        os.chmod(sockets, 0o755)  # noqa: S103  # strangers shall come as far as the socket
        arguments = [
            *("config", "--config_path", str(config), "--allow_client_shm", "--unix_socket_mode", "666"),
            *("--client_shm_socket", f"{sockets}/shm", "--client_shm_limit_mb", str(LIMIT_MB)),
        ]
        with Server(arguments, directory / "server.log", grpc_workers=2, rest_workers=2) as running:
            yield running


@pytest.fixture
def path(server: Server) -> str:
    return path_of(server)


def path_of(server: Server) -> str:
    return server.arguments[server.arguments.index("--client_shm_socket") + 1]


@pytest.fixture
def connection(path: str) -> Iterator[RegionConnection]:
    with RegionConnection(path) as opened:
        yield opened


@pytest.fixture(autouse=True)
def nothing_left(server: Server) -> Iterator[None]:
    """No descriptor and no mapping of a client's memory stays in any process of the server."""
    yield
    eventually(lambda: not held(server), 20.0, "every process has let go of clients' memory")


def processes(server: Server) -> list[int]:
    return [server.process.pid, *(pid for kind in ("grpc", "rest", "worker") for pid in server.pids(kind))]


def held(server: Server) -> list[str]:
    """Clients' memory that processes have open or mapped."""
    found: list[str] = []
    for pid in processes(server):
        try:
            found += [f"{pid} {line}" for line in maps(pid)]
            for entry in Path(f"/proc/{pid}/fd").iterdir():
                target = os.readlink(entry)
                if MAPPED in target:
                    found.append(f"{pid} {target}")
        except OSError:
            continue  # It has ended, or closed it just now.
    return found


def maps(pid: int) -> list[str]:
    return [line for line in Path(f"/proc/{pid}/maps").read_text().splitlines() if MAPPED in line]


def clients(server: Server) -> list[ShmClient]:
    return [GrpcShmClient(server), RestShmClient(server)]


def tiny(client: ShmClient, region: str, offset: int = 0, results: str = "") -> dict[str, Any]:
    given = Input("x", "FP32", [1, 10], Place(region, offset, NBYTES))
    answer: dict[str, Any] = client.infer("tiny", [given], [("y", Place(results or region, RESULT, NBYTES))])
    return answer


@contextmanager
def sealed(nbytes: int = 2 * RESULT, *, is_read_only: bool = False) -> Iterator[SharedRegion]:
    with SharedRegion(nbytes, is_read_only=is_read_only) as region:
        region.array((10,), np.float32)[:] = X
        yield region


def test_a_region_is_known_to_every_front_and_read_where_it_is(
    server: Server, connection: RegionConnection
) -> None:
    with sealed() as region:
        connection.register("r", region)
        result = region.array((10,), np.float32, RESULT)
        worker = server.pids("worker")[0]
        for client in clients(server) * ASKED:
            assert client.status("r")["r"][1:] == (0, region.nbytes)
            assert client.status() == {}, "names are told to nobody"
            result[:] = 0

            tiny(client, "r")

            assert result.tolist() == (X + 1).tolist()
        assert 1 <= len(maps(worker)) <= 4, "once for each front"
        assert all(" r--s " in line for line in maps(worker)), "for reading only"
        assert connection.regions() == [{"name": "r", "byte_size": 2 * RESULT, "access": "read_write"}]

        connection.unregister("r")

        assert connection.regions() == []
        for client in clients(server) * ASKED:
            with pytest.raises(Refused, match="Unable to find system shared memory region: 'r'"):
                client.status("r")
            with pytest.raises(Refused, match="Unable to find shared memory region: 'r'"):
                tiny(client, "r")


def test_what_cannot_be_referred_to_is_copied_and_the_answer_is_the_same(
    server: Server, connection: RegionConnection
) -> None:
    with sealed() as region:
        connection.register("r", region)
        region.array((10,), np.float32, 100)[:] = X
        a, b = region.array((2, 3), np.float32, 1024), region.array((2, 3), np.int64, 2048)
        a[:], b[:] = [[1, 2, 3], [4, 5, 6]], 2
        places = region.array((1, 2), np.int64, RESULT)
        for client in clients(server):
            tiny(client, "r", offset=100)  # No multiple of 64.
            assert region.array((10,), np.float32, RESULT).tolist() == (X + 1).tolist()

            given = [
                Input("a", "FP32", [2, 3], Place("r", 1024, 24)),
                Input("b", "INT64", [2, 3], Place("r", 2048, 48)),
            ]
            client.infer(
                "pair", given, [("product", Place("r", RESULT, 24)), ("sum", Place("r", RESULT + 64, 24))]
            )
            assert region.array((2, 3), np.float32, RESULT).tolist() == (a * 2).tolist()

            # Counted and then written: memory that changes in between is not for this.
            given = [Input("x", "FP32", [3], Place("r", 0, 12))]
            client.infer("nonzero", given, [("places", Place("r", RESULT, 16))])
            assert places.tolist() == [[1, 2]]


def test_a_result_may_go_where_an_input_was(server: Server, connection: RegionConnection) -> None:
    with sealed(4096) as region:
        connection.register("r", region)
        x = region.array((10,), np.float32)
        for count, client in enumerate(clients(server) * 3, 1):
            given = Input("x", "FP32", [1, 10], Place("r", 0, NBYTES))
            client.infer("tiny", [given], [("y", Place("r", 0, NBYTES))])
            assert x.tolist() == (X + count).tolist()


def test_nothing_is_written_to_what_is_for_inputs_only(server: Server, connection: RegionConnection) -> None:
    with sealed(is_read_only=True) as inputs, sealed() as results:
        connection.register("in", inputs)
        connection.register("out", results)
        assert [entry["access"] for entry in connection.regions()] == ["read", "read_write"]
        for client in clients(server):
            with pytest.raises(Refused, match="output 'y': region 'in' is for inputs only"):
                tiny(client, "in")
            tiny(client, "in", results="out")
            assert results.array((10,), np.float32, RESULT).tolist() == (X + 1).tolist()


def test_ranges_are_held_against_the_region(server: Server, connection: RegionConnection) -> None:
    with sealed() as region:
        connection.register("r", region)
        for client in clients(server):
            for offset in (2 * RESULT, 2 * RESULT - 8, (1 << 63) - 64, 1 << 40):
                with pytest.raises(Refused, match=r"input 'x': Invalid offset \+ byte size"):
                    tiny(client, "r", offset=offset)
            given = Input("x", "FP32", [1, 10], Place("r", 0, 44))
            with pytest.raises(Refused, match="shared_memory_byte_size is 44, but FP32"):
                client.infer("tiny", [given], [("y", Place("r", 64, NBYTES))])


def memory_file(nbytes: int, seals: int, flags: int = 0) -> int:
    descriptor = os.memfd_create("ovms_mp-client", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING | flags)
    os.ftruncate(descriptor, nbytes)
    fcntl.fcntl(descriptor, fcntl.F_ADD_SEALS, seals)
    return descriptor


ALL = fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL
UNFIT: dict[str, tuple[Callable[[], int], str]] = {
    "unsealed": (lambda: memory_file(4096, 0), "lacks the seals F_SEAL_SHRINK, F_SEAL_GROW, F_SEAL_SEAL"),
    "shrinking": (lambda: memory_file(4096, ALL & ~fcntl.F_SEAL_SHRINK), "lacks the seals F_SEAL_SHRINK"),
    "open seals": (lambda: memory_file(4096, ALL & ~fcntl.F_SEAL_SEAL), "lacks the seals F_SEAL_SEAL"),
    "empty": (lambda: memory_file(0, ALL), "has a size of 0 bytes"),
    "huge": (lambda: memory_file(1 << 50, ALL), "1125899906842624 bytes more are too many"),
    "too long": (lambda: memory_file((LIMIT_MB << 19) + 1, ALL), "at most 4194304 .*--client_shm_limit_mb"),
    "file": (lambda: os.open(__file__, os.O_RDONLY), "no memory that can be sealed"),
    "shared memory": (lambda: os.open("/dev/shm", os.O_TMPFILE | os.O_RDWR), "lacks the seals"),  # noqa: S108
    "pipe": (lambda: _one(os.pipe()), "no memory that can be sealed"),
    "socket": (lambda: socket.socket(socket.AF_UNIX).detach(), "no memory that can be sealed"),
    "path": (lambda: os.open("/dev/shm", os.O_PATH), "no memory that can be sealed"),  # noqa: S108
    "huge pages": (lambda: memory_file(2 << 20, ALL, os.MFD_HUGETLB), "is of huge pages"),
    "device": (lambda: os.open("/dev/zero", os.O_RDWR), "no memory that can be sealed"),
    "directory": (lambda: os.open("/", os.O_RDONLY), "no memory that can be sealed"),
}


def _one(both: tuple[int, int]) -> int:
    os.close(both[1])
    return both[0]


def test_descriptors_that_are_no_sealed_memory_are_refused_and_closed(server: Server, path: str) -> None:
    manager = psutil.Process(server.process.pid)
    before = manager.num_fds()
    with raw(path) as peer:
        for make, text in UNFIT.values():
            descriptor = make()
            try:
                answer = call(peer, {"call": "register", "name": "r"}, [descriptor])
            finally:
                os.close(descriptor)
            assert_error(answer, "", text)
        eventually(lambda: manager.num_fds() <= before + 1, 10.0, "what is refused is closed")
        assert call(peer, {"call": "list"}) == {"version": 1, "regions": []}


@contextmanager
def raw(path: str) -> Iterator[socket.socket]:
    with closing(socket.socket(socket.AF_UNIX)) as peer:
        peer.settimeout(20.0)
        peer.connect(path)
        yield peer


def frame(content: dict[str, Any] | bytes) -> bytes:
    octets = content if isinstance(content, bytes) else json.dumps({"version": 1, **content}).encode()
    return struct.pack(">I", len(octets)) + octets


def call(peer: socket.socket, content: dict[str, Any] | bytes, descriptors: list[int] | None = None) -> Any:
    socket.send_fds(peer, [frame(content)], descriptors or [])
    return answer_of(peer)


def answer_of(peer: socket.socket) -> Any:
    (length,) = struct.unpack(">I", peer.recv(4, socket.MSG_WAITALL))
    return json.loads(peer.recv(length, socket.MSG_WAITALL))


def assert_error(answer: Any, code: str, text: str) -> None:
    with pytest.raises(RegionError, match=text):
        raise RegionError(answer["error"]["code"], answer["error"]["message"])
    assert not code or answer["error"]["code"] == code


def test_calls_that_are_none_are_told_why(path: str) -> None:
    with raw(path) as peer, sealed() as region:
        one = [region.descriptor]
        register = {"call": "register", "name": "r"}
        assert_error(call(peer, register), "INVALID_ARGUMENT", "one descriptor comes .*; 0 came")
        assert_error(call(peer, register, one * 2), "INVALID_ARGUMENT", "; 2 came")
        assert_error(call(peer, register, one * 50), "INVALID_ARGUMENT", "; more than [0-9]+ came")
        assert_error(call(peer, {"call": "list"}, one), "INVALID_ARGUMENT", "only a call to register")
        assert_error(
            call(peer, {**register, "version": 2}, one), "INVALID_ARGUMENT", "version 2 of the protocol"
        )
        for name in ("", "n" * 257, "\ud800", 7):
            assert_error(
                call(peer, {**register, "name": name}, one), "INVALID_ARGUMENT", "a call is a JSON object"
            )
        for content in (
            b"{",
            b"[]",
            b"\xff" * 8,
            b"[" * 4096,
            b'{"version": 1}',
            b'{"call": "eat", "version": 1}',
        ):
            assert_error(call(peer, content), "INVALID_ARGUMENT", "a call is a JSON object")
        assert_error(
            call(peer, {"call": "unregister", "name": "r"}), "NOT_FOUND", "no region 'r' is registered"
        )
        assert call(peer, {**register, "more": [1]}, one)["access"] == "read_write"
        assert_error(call(peer, register, one), "ALREADY_EXISTS", "'r' already in manager")
    for length in (0, 4097, (1 << 32) - 1):
        with raw(path) as peer:
            peer.sendall(struct.pack(">I", length))
            assert_error(answer_of(peer), "INVALID_ARGUMENT", f"a call of {length} bytes")
            assert peer.recv(1) == b""


def test_a_frame_may_come_in_pieces_but_not_for_ever(path: str) -> None:
    with raw(path) as peer, raw(path) as half, sealed() as region:
        octets = frame({"call": "register", "name": "r"})
        socket.send_fds(half, [octets[:9]], [region.descriptor])
        socket.send_fds(peer, [octets[:1]], [region.descriptor])
        for octet in octets[1:]:
            peer.sendall(bytes([octet]))
        assert answer_of(peer)["name"] == "r"
        # Two at once are answered one after the other.
        peer.sendall(frame({"call": "list"}) * 2)
        assert answer_of(peer) == answer_of(peer)
        assert_error(answer_of(half), "DEADLINE_EXCEEDED", "not complete 5 s after its first byte")
        assert half.recv(1) == b""


def test_who_does_not_read_answers_is_disconnected(path: str, connection: RegionConnection) -> None:
    with raw(path) as deaf:
        deaf.setblocking(False)
        ended = select.poll()
        ended.register(deaf, 0)

        def is_disconnected() -> bool:
            try:
                for _ in range(64):
                    deaf.send(frame({"call": "list"}))
            except BlockingIOError:
                pass
            except OSError:
                return True
            assert connection.regions() == [], "others are answered"
            return bool(ended.poll(0))

        eventually(is_disconnected, 30.0, "it is disconnected")


def test_names_and_regions_are_their_connections(server: Server, path: str) -> None:
    grpc_client, rest_client = clients(server)
    with RegionConnection(path) as one, RegionConnection(path) as other, sealed() as region:
        one.register("r", region)
        with pytest.raises(RegionError, match=r"ALREADY_EXISTS: .*'r' already in manager"):
            other.register("r", region)
        with pytest.raises(RegionError, match="NOT_FOUND: no region 'r' is registered over this connection"):
            other.unregister("r")
        with pytest.raises(Refused, match="already in manager"):
            _register_system(grpc_client)
        rest_client.unregister()
        assert grpc_client.status("r")["r"][0].startswith("memfd:"), (
            "what is not named in the system is left alone"
        )
        grpc_client.unregister("r")
        assert not is_known(rest_client)
        assert one.regions() == []
        one.register("r", region)
        one.close()
        eventually(lambda: not is_known(grpc_client), 10.0, "a connection's end unregisters its regions")
        other.register("r", region)


def is_known(client: ShmClient) -> bool:
    try:
        return "r" in client.status("r")
    except Refused:
        return False


def _register_system(client: ShmClient) -> None:

    with shared_memory(64) as memory:
        client.register("r", memory.name, 0, 64)


def test_one_connection_has_so_many_regions_and_no_more(path: str, connection: RegionConnection) -> None:
    with sealed(4096) as region:
        for number in range(64):
            connection.register(f"r{number}", region)
        with pytest.raises(
            RegionError, match="RESOURCE_EXHAUSTED: 64 regions are registered over this connection"
        ):
            connection.register("one more", region)
    connection.unregister("r0")
    with (
        sealed(LIMIT_MB << 19) as large,
        pytest.raises(RegionError, match="bytes more are too many: this connection"),
    ):
        connection.register("large", large)
    with ExitStack() as stack:
        # Regions of all connections together.
        for number in range(2):
            other = stack.enter_context(RegionConnection(path))
            large = stack.enter_context(sealed((LIMIT_MB << 19) - (4096 * 63 if number else 0)))
            other.register(f"large{number}", large)
        with pytest.raises(RegionError, match="all clients' regions have 8388608 bytes of at most 8388608"):
            connection.register("r0", stack.enter_context(sealed(4096)))


def test_connections_are_limited_and_the_silent_give_way(path: str) -> None:
    with ExitStack() as stack:
        silent = stack.enter_context(raw(path))
        for number in range(63):
            connection = stack.enter_context(RegionConnection(path))
            connection.register(f"r{number}", stack.enter_context(sealed(4096)))
        last = stack.enter_context(RegionConnection(path))
        last.register("last", stack.enter_context(sealed(4096)))

        assert_error(answer_of(silent), "RESOURCE_EXHAUSTED", "this one has registered nothing")
        assert silent.recv(1) == b""
        for _ in range(8):
            # Refused before it has said anything, and told why all the same.
            with (
                RegionConnection(path) as refused,
                pytest.raises(RegionError, match="64 clients hand over memory"),
            ):
                refused.regions()
        assert last.regions()


def test_one_frame_brings_few_descriptors_however_it_is_cut(server: Server, path: str) -> None:
    """Each octet could have its own; the manager has to live with its limit of open files."""
    manager = psutil.Process(server.process.pid)
    with raw(path) as peer, sealed() as region:
        before = manager.num_fds()
        octets = frame({"call": "register", "name": "r", "more": "x" * 600})
        for octet in octets[:-1]:
            socket.send_fds(peer, [bytes([octet])], [region.descriptor] * 4)
        # What others ask comes behind it in the manager's loop.
        with RegionConnection(path) as other:
            other.regions()
        most = manager.num_fds()
        peer.sendall(octets[-1:])
        assert_error(answer_of(peer), "INVALID_ARGUMENT", "; more than 4 came")
    assert most <= before + 8


@pytest.mark.skipif(os.geteuid() != 0, reason="only the superuser can be somebody else")
def test_processes_of_other_users_are_refused(path: str) -> None:
    groups = os.getgroups()
    os.setgroups([])
    os.setegid(12345)
    os.seteuid(12345)
    try:
        stranger = socket.socket(socket.AF_UNIX)
        stranger.settimeout(20.0)
        stranger.connect(path)
    finally:
        os.seteuid(0)
        os.setegid(0)
        os.setgroups(groups)
    with closing(stranger):
        assert_error(answer_of(stranger), "PERMISSION_DENIED", "only processes of user 0")
        assert stranger.recv(1) == b""


def test_a_region_is_unregistered_and_its_connection_ends_while_requests_use_it(
    server: Server, path: str
) -> None:
    """Each of them is answered as if it was there, or finds none; nobody else notices."""
    stop, texts = threading.Event(), set[str]()

    def use(client: ShmClient) -> None:
        while not stop.is_set():
            try:
                tiny(client, "r")
            except Refused as error:
                texts.add(error.text)

    threads = [threading.Thread(target=use, args=(client,)) for client in clients(server) * 2]
    with Load(server.port, server.rest_port, clients=2, pause_s=0.01) as load:
        for thread in threads:
            thread.start()
        try:
            for _ in range(15):
                with RegionConnection(path) as connection, sealed() as region:
                    _register_when_free(connection, region)
                    result = region.array((10,), np.float32, RESULT)
                    eventually(functools.partial(result.any), 20.0, "some request has used it")
                    assert result.tolist() == (X + 1).tolist()
        finally:
            stop.set()
            for thread in threads:
                thread.join()
    assert texts <= {"Unable to find shared memory region: 'r'"}, texts
    assert load.outcome.counts["right"] == sum(load.outcome.counts.values()), load.outcome


def _register_when_free(connection: RegionConnection, region: SharedRegion) -> None:
    def is_registered() -> bool:
        try:
            connection.register("r", region)
        except RegionError:
            return False
        return True

    eventually(is_registered, 10.0, "the last connection's region has gone")


def test_memory_that_changes_while_it_is_read_is_its_owners_affair(
    server: Server, connection: RegionConnection
) -> None:
    stop = threading.Event()
    count = 1 << 18
    with SharedRegion(LIMIT_MB << 19) as region:
        connection.register("r", region)
        x = region.array((count,), np.uint32)

        def scribble() -> None:
            value = 0
            while not stop.is_set():
                value += 1
                x[:] = value * 0x01010101 & 0xFFFFFFFF

        scribbler = threading.Thread(target=scribble)
        workers = server.pids("worker")
        with Load(server.port, server.rest_port, clients=2, pause_s=0.01) as load:
            scribbler.start()
            try:
                for client in clients(server) * 8:
                    rows = Input("x", "FP32", [count // 4, 4], Place("r", 0, 4 * count))
                    client.infer("batch", [rows], [("y", Place("r", 8 * count, 4 * count))])
                    given = Input("x", "FP32", [count], Place("r", 0, 4 * count))
                    client.infer("nonzero", [given], [("places", Place("r", 8 * count, 8 * count))])
            finally:
                stop.set()
                scribbler.join()
        assert load.outcome.counts["right"] == sum(load.outcome.counts.values()), load.outcome
    assert server.pids("worker") == workers


def test_workers_and_fronts_that_follow_dead_ones_know_the_regions(zoo: ModelZoo, tmp_path: Path) -> None:
    # Its own server, as what is killed here others would miss.
    with (
        started(zoo, tmp_path) as server,
        RegionConnection(path_of(server)) as connection,
        sealed() as region,
    ):
        connection.register("r", region)
        result = region.array((10,), np.float32, RESULT)
        for kind in ("worker", "grpc", "rest"):
            for client in clients(server) * 3:
                tiny(client, "r")
            before = server.pids(kind)
            os.kill(before[0], signal.SIGKILL)
            eventually(
                lambda kind=kind, before=before: (
                    len(server.pids(kind)) == len(before)  # type: ignore[misc]
                    and before[0] not in server.pids(kind)
                ),
                30.0,
                f"the {kind} has a successor",
            )
            for client in clients(server) * ASKED:
                result[:] = 0
                eventually(functools.partial(_is_answered, client), 30.0, "the region is used as before")
                assert result.tolist() == (X + 1).tolist()
        worker = server.pids("worker")[0]
        eventually(lambda: len(maps(worker)) <= 4, 20.0, "mappings of dead fronts are gone")


def _is_answered(client: ShmClient) -> bool:
    try:
        tiny(client, "r")
    except (Refused, OSError):
        return False  # The front that was asked has just died.
    return True
