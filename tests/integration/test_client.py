# SPDX-License-Identifier: Apache-2.0
"""The client against a real server: its docstrings, every transport, what it does when something goes wrong."""

from __future__ import annotations

import asyncio
import contextlib
import doctest
import functools
import importlib
import os
import signal
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from ovms_mp.client import (
    AsyncClient,
    Cancelled,
    Client,
    ClientError,
    DeadlineExceeded,
    InvalidRequest,
    NotFound,
    Overloaded,
    Retries,
    Unavailable,
    Unsupported,
)
from ovms_mp.demo import digits
from tests.support.server import Server, free_ports
from tests.support.waiting import eventually

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.support.models import ModelZoo

ROOT = Path(__file__).parents[2]
X = np.arange(10, dtype=np.float32).reshape(1, 10)
TOO_LATE = (DeadlineExceeded, Overloaded)
"""The server refuses at once what it cannot answer in time, if it knows."""
TRANSPORTS = ("grpc", "grpc tfs", "rest", "rest tfs", "unix grpc", "unix rest")


class Place:
    """A server and the URLs of all of its doors."""

    def __init__(self, server: Server, sockets: Path) -> None:
        self.server = server
        self.sockets = sockets

    def url(self, transport: str) -> str:
        kind, _, more = transport.partition(" ")
        if kind == "unix":
            return f"unix://{self.sockets}/{more}.sock?protocol={more}"
        port = self.server.port if kind == "grpc" else self.server.rest_port
        return f"{'grpc' if kind == 'grpc' else 'http'}://127.0.0.1:{port}" + ("?api=tfs" if more else "")


@pytest.fixture(scope="module")
def place(zoo: ModelZoo, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    directory = tmp_path_factory.mktemp("client")
    config = zoo.config_file(directory, ["tiny", "pair", "slow"])
    arguments = [
        "config", "--config_path", str(config),
        "--grpc_bind_address", f"127.0.0.1,unix:{directory}/grpc.sock",
        "--rest_bind_address", f"127.0.0.1,unix:{directory}/rest.sock",
        "--allow_client_shm", "--client_shm_socket", f"{directory}/shm.sock",
    ]  # fmt: skip
    with Server(arguments, directory / "server.log", grpc_workers=2, rest_workers=2) as server:
        yield Place(server, directory)


@pytest.mark.parametrize("transport", TRANSPORTS)
def test_every_transport(place: Place, transport: str) -> None:
    with Client(place.url(transport)) as client:
        outputs = client.predict("tiny", {"x": X}, outputs=("y",), timeout=60)
        assert outputs["y"].tolist() == (X + 1).tolist()
        assert client.predict_one("tiny", X).tolist() == (X + 1).tolist()
        assert client.submit("tiny", {"x": X}, outputs=("y",)).result()["y"].tolist() == (X + 1).tolist()
        assert [(tensor.name, tensor.datatype) for tensor in client.metadata("tiny").inputs] == [
            ("x", "FP32")
        ]
        assert client.ready()
        assert client.live()
        assert client.ready("tiny", version=1)
        with pytest.raises(NotFound, match="nobody") as error:
            client.predict("nobody", {"x": X}, request_id="number 7")
        assert (error.value.code.name, error.value.request_id) == ("NOT_FOUND", "number 7")
        with pytest.raises(InvalidRequest):
            client.predict("tiny", {"x": np.zeros((1, 11), np.float32)})
        if transport == "grpc tfs":
            with pytest.raises(Unsupported):
                client.models()
        else:
            assert ("tiny", "1", True) in {
                (state.name, state.version, state.is_ready) for state in client.models()
            }


@pytest.mark.parametrize("transport", ["grpc", "grpc tfs", "rest"])
def test_the_greatest_values_of_an_output_are_its_classes(place: Place, transport: str) -> None:
    with Client(place.url(transport)) as client:
        for classes in ({"y": 2}, {"y": 1}):
            if transport == "grpc tfs":
                with pytest.raises(Unsupported, match="classes"):
                    client.predict("tiny", {"x": X}, classes=classes)
                continue
            outputs = client.predict("tiny", {"x": X}, classes=classes)
            best = [b"10.000000:9", b"9.000000:8"][: classes["y"]]
            assert {name: array.tolist() for name, array in outputs.items()} == {"y": [best]}


@pytest.mark.parametrize("transport", TRANSPORTS)
def test_every_transport_from_asyncio(place: Place, transport: str) -> None:
    async def main() -> None:
        async with AsyncClient(place.url(transport), connections=8) as client:
            answers = await asyncio.gather(
                *[client.predict("tiny", {"x": X + n}, outputs=("y",)) for n in range(40)]
            )
            assert [answer["y"].tolist() for answer in answers] == [(X + n + 1).tolist() for n in range(40)]
            assert (await client.predict_one("tiny", X)).tolist() == (X + 1).tolist()
            with pytest.raises(NotFound):
                await client.metadata("nobody")

    asyncio.run(main())


@pytest.mark.parametrize("transport", ["grpc", "rest"])
def test_a_call_ends_when_its_time_is_over_or_when_it_is_cancelled(place: Place, transport: str) -> None:
    with Client(place.url(transport)) as client:
        name = client.metadata("slow").inputs[0]
        shape = tuple(max(size, 1) for size in name.shape)
        inputs = {name.name: np.zeros(shape, np.float32)}
        with pytest.raises(TOO_LATE):
            client.predict("slow", inputs, timeout=0.01)
        future = client.submit("slow", inputs)
        assert future.cancel()
        assert client.predict_one("tiny", X).shape == (1, 10)

    async def main() -> None:
        async with AsyncClient(place.url(transport)) as client:
            task = asyncio.create_task(client.predict("slow", inputs))
            await asyncio.sleep(0)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            with pytest.raises(TOO_LATE):
                await client.predict("slow", inputs, timeout=0.01)
            assert (await client.predict_one("tiny", X)).shape == (1, 10)

    asyncio.run(main())


def test_streams(place: Place) -> None:
    bad = np.zeros((1, 11), np.float32)
    requests = [X, bad, X + 1]

    def shown(answers: list[Any]) -> list[object]:
        return [answer["y"].tolist() for answer in answers]

    expected = [(X + 1).tolist(), (X + 2).tolist()]
    with Client(place.url("grpc")) as client:
        assert shown(list(client.stream("tiny", [X, X + 1] * 20))) == expected * 20
        with Client(place.url("grpc"), connections=1, timeout=20.0) as lone:
            assert shown(list(lone.stream("tiny", [X, X + 1]))) == expected
        first, failure, last = client.stream("tiny", requests, return_errors=True)
        assert shown([first, last]) == expected
        assert isinstance(failure, InvalidRequest)
        with pytest.raises(InvalidRequest):
            list(client.stream("tiny", requests))
        begun = client.stream("tiny", [X] * 100)
        next(begun)
        begun.close()  # type: ignore[attr-defined]  # a generator
        assert client.predict_one("tiny", X).tolist() == expected[0]

    async def main() -> None:
        async with AsyncClient(place.url("grpc")) as client:
            assert shown([answer async for answer in client.stream("tiny", [X, X + 1] * 20)]) == expected * 20
            async with contextlib.aclosing(client.stream("tiny", [X] * 100)) as begun:
                await anext(begun)
            with pytest.raises(ClientError):
                [answer async for answer in client.stream("tiny", requests)]

    asyncio.run(main())


@pytest.mark.parametrize("transport", ["grpc", "rest"])
def test_shared_arrays_do_not_travel(place: Place, transport: str) -> None:
    with Client(place.url(transport), shared_memory=f"{place.sockets}/shm.sock") as client:
        x, y = client.shared_array((2, 10)), client.shared_array((1, 10))
        x[:] = [X[0], X[0] + 5]

        outputs = client.predict("tiny", {"x": x[1:]}, into={"y": y})

        assert outputs["y"] is y
        assert y.tolist() == (X + 6).tolist()
        client.release(x)
        x[:] = 0  # It stays, and is copied from now on.
        x[0] = X[0]
        assert client.predict_one("tiny", x[:1]).tolist() == (X + 1).tolist()
        with pytest.raises(InvalidRequest, match="shared_array"):
            client.predict("tiny", {"x": X}, into={"y": X})


@pytest.mark.parametrize("transport", ["grpc", "rest"])
def test_results_are_as_the_server_says(place: Place, transport: str) -> None:
    """And not what an array for them has been made for."""
    with Client(place.url(transport), shared_memory=f"{place.sockets}/shm.sock") as client:
        large, double = client.shared_array((4, 10)), client.shared_array(10, np.float64)
        large[:] = -1

        assert client.predict_one("tiny", X, into={"y": large}).tolist() == (X + 1).tolist()
        assert large[1:].tolist() == [[-1] * 10] * 3
        with pytest.raises(InvalidRequest, match="has elements FP32, and its array is of FP64"):
            client.predict("tiny", {"x": X}, into={"y": double})
        with pytest.raises(ClientError, match="has 40 bytes, and shared_memory_byte_size gives it 20"):
            client.predict("tiny", {"x": X}, into={"y": large[0, :5]})
        assert client.shared_array((0, 10)).shape == (0, 10)
        for shape, dtype in (((-1,), "f4"), ((2,), "O"), ((1 << 62, 4), "f4"), ("ab", "f4"), ((1,), "M8[s]")):
            with pytest.raises(ClientError):
                client.shared_array(shape, dtype)  # type: ignore[arg-type]


def test_a_server_that_has_forgotten_shared_arrays_is_given_them_again(place: Place) -> None:
    """Once for all threads that notice, and by names that are new."""
    with (
        Client(place.url("grpc"), shared_memory=f"{place.sockets}/shm.sock") as client,
        ThreadPoolExecutor(8) as threads,
    ):
        arrays = [client.shared_array((1, 10)) for _ in range(8)]
        for number, array in enumerate(arrays):
            array[:] = X + number
        shared: Any = client._session.shared
        for _ in range(3):
            shared._connection.close()
            answers = threads.map(lambda array: client.predict("tiny", {"x": array})["y"].tolist(), arrays)
            assert list(answers) == [(X + number + 1).tolist() for number in range(8)]
        shared._connection.close()
        late = client.shared_array((1, 10))
        assert client.predict_one("tiny", late).tolist() == [[1] * 10]
        client.release(late)


FORKING = """
import asyncio, os, sys
import numpy as np
from ovms_mp.client import AsyncClient, Client

x = np.arange(10, dtype=np.float32).reshape(1, 10)


def use(client, shared, offset):
    for n in range(offset, offset + 50):
        assert client.predict("tiny", {"x": x + n})["y"].tolist() == (x + n + 1).tolist()
    assert client.submit("tiny", {"x": x}).result()["y"].tolist() == (x + 1).tolist()
    assert client.predict_one("tiny", shared).tolist() == (x + 1).tolist()
    new = client.shared_array((1, 10))
    assert client.predict_one("tiny", new).tolist() == [[1] * 10]


url, path = sys.argv[1:]
client = Client(url, shared_memory=path)
shared = client.shared_array((1, 10))
shared[:] = x
use(client, shared, 0)
child = os.fork()
use(client, shared, 100 if child else 1000)
client.close()
if not child:
    os._exit(0)
assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0

first = AsyncClient(url)
for _ in range(2):  # Each with a loop of its own, which is closed before anybody thinks of the client.
    print(asyncio.run(first.predict_one("tiny", x)).sum())


async def elsewhere():
    other = asyncio.new_event_loop()
    client = AsyncClient(url)
    await client.live()
    try:
        await asyncio.to_thread(other.run_until_complete, client.live())
    except ValueError as error:
        print(error)
    finally:
        other.close()
        await client.close()


asyncio.run(elsewhere())
"""


def test_clients_are_used_in_forked_processes_and_by_other_loops(place: Place) -> None:
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", FORKING, place.url("grpc"), f"{place.sockets}/shm.sock"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )

    assert done.stderr == ""
    *sums, failure = done.stdout.splitlines()
    assert sums == ["55.0", "55.0"]
    assert "used by another event loop" in failure


@pytest.mark.replaces_processes
def test_no_call_is_lost_when_a_front_ends(place: Place) -> None:
    """Without a word, as it is killed; what GOAWAY means is in ``tests/unit/client/test_http2.py``."""
    failures: list[BaseException] = []
    answered = [0]
    stop = threading.Event()

    def ask(transport: str) -> None:
        with Client(place.url(transport), retries=Retries(most=20)) as client:
            while not stop.is_set():
                try:
                    assert client.predict("tiny", {"x": X}, outputs=("y",))["y"].tolist() == (X + 1).tolist()
                    answered[0] += 1
                except BaseException as error:  # looked at below
                    failures.append(error)
                    return

    def has_successor(kind: str, before: list[int]) -> bool:
        return len(set(place.server.pids(kind)) - set(before[:1])) >= 2

    threads = [threading.Thread(target=ask, args=(transport,)) for transport in ("grpc", "rest", "grpc tfs")]
    for thread in threads:
        thread.start()
    try:
        for kind in ("grpc", "rest"):
            before = place.server.pids(kind)
            os.kill(before[0], signal.SIGKILL)
            eventually(functools.partial(has_successor, kind, before), 60.0, f"another {kind} front")
        count = answered[0]
        eventually(lambda: answered[0] > count + 20, 60.0, "answers")
    finally:
        stop.set()
        for thread in threads:
            thread.join()
    assert failures == []


def test_a_server_that_is_not_there_is_named() -> None:
    (port,) = free_ports(1)
    client = Client(f"grpc://127.0.0.1:{port}", retries=Retries(most=1))
    with client, pytest.raises(Unavailable, match=f"cannot connect to 127.0.0.1:{port}"):
        client.live()
    with pytest.raises(Cancelled, match="closed"):
        client.live()


MODULES = ("sync", "aio")


def test_docstrings_are_true(place: Place) -> None:
    """They say port 9000 and the model of the demonstration."""
    directory = place.sockets / "doctests"
    directory.mkdir()
    arguments = ["model", "--model_name", "digits", "--model_path", str(digits.model_directory())]
    with Server(arguments, directory / "server.log") as server:
        for name in MODULES:
            module = importlib.import_module(f"ovms_mp.client.{name}")
            runner, finder = doctest.DocTestRunner(), doctest.DocTestFinder()
            with Client(f"grpc://127.0.0.1:{server.port}") as client:
                for test in finder.find(module, globs={"client": client, "np": np}):
                    for example in test.examples:
                        example.source = example.source.replace(":9000", f":{server.port}")
                    runner.run(test)
            assert (runner.failures, runner.tries > 3) == (0, True)


SCRIPT = """
import sys
import numpy as np
from ovms_mp.client import Client
for url in sys.argv[1:]:
    with Client(url) as client:
        print(client.predict("tiny", {"x": np.zeros((1, 10), np.float32)}, outputs=("y",))["y"].sum())
print(sorted({name.partition(".")[0] for name in sys.modules} & {"grpc", "google", "ml_dtypes", "openvino"}))
try:
    from ovms_mp.client import PredictRequest
except ImportError as error:
    print(error)
"""


def test_the_wheel_of_the_client_needs_numpy_alone(place: Place, tmp_path: Path) -> None:
    """Installed as it is built, beside nothing but NumPy's files."""
    build = [sys.executable, str(ROOT / "deploy" / "client" / "build.py"), str(tmp_path)]
    subprocess.run(build, check=True, timeout=120, capture_output=True)
    (wheel,) = tmp_path.glob("*.whl")
    site = tmp_path / "site"
    install = [
        sys.executable,
        "-m",
        "pip",
        "install",
        "--quiet",
        "--no-deps",
        "--target",
        str(site),
        str(wheel),
    ]
    subprocess.run(install, check=True, timeout=120, capture_output=True)
    for directory in Path(np.__file__).parents[1].glob("numpy*"):
        (site / directory.name).symlink_to(directory)
    urls = [place.url(transport) for transport in ("rest", "grpc", "grpc tfs")]
    done = subprocess.run(
        [sys.executable, "-S", "-c", SCRIPT, *urls],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(site)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )

    assert done.stderr == ""
    lines = done.stdout.splitlines()
    assert lines[:4] == ["10.0", "10.0", "10.0", "[]"]
    assert "pip install grpcio protobuf" in lines[4]
