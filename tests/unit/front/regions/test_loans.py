# SPDX-License-Identifier: Apache-2.0
"""What a request borrows: inputs are read from regions, results are written into them, and all is given back."""

from __future__ import annotations

import asyncio
import gc
import os
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pytest

from ovms_mp.client_regions import SharedRegion
from ovms_mp.errors import RegionMismatch, RegionNotFound, ShapeMismatch
from ovms_mp.front.gathered import Gathered
from ovms_mp.front.infer.arrivals import Arrivals
from ovms_mp.front.infer.inputs import Inputs
from ovms_mp.front.infer.leases import Leases
from ovms_mp.front.regions.loans import LONG_BYTES, Late, Loan
from ovms_mp.front.regions.ranges import SharedRange
from ovms_mp.front.regions.table import Regions
from ovms_mp.front.regions.tensors import ReferredTensor, RegionInput
from ovms_mp.front.routing import RoutingTable
from ovms_mp.front.strings import Strings, length_prefixed
from ovms_mp.front.tensors import BytesTensor, GivenTensor, PlacedTensor, RawTensor, ResultTensor
from ovms_mp.model.dtypes import DType
from ovms_mp.model.status import State
from ovms_mp.wire.arena import Arena, create_arena_file
from ovms_mp.wire.changes import RegionRecord
from ovms_mp.wire.messages import RoutingSnapshot
from ovms_mp.wire.records import ArenaHandle, ModelRecord, TensorRef, TensorSpecRecord, VersionRecord

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

    from ovms_mp.front.routing import VersionRoute

ARENA_BYTES = 4 * LONG_BYTES
X = np.arange(4, dtype=np.float32)


@dataclass
class Scene:
    regions: Regions
    leases: Leases
    directory: Path

    def register(self, name: str, content: bytes) -> Path:
        path = self.directory / name
        path.write_bytes(content)
        status = path.stat()
        record = RegionRecord(name, name, 0, len(content), status.st_dev, status.st_ino)
        self.regions.replace((*self.regions.records(), record))
        return path

    @contextmanager
    def loan(self) -> Iterator[Loan]:
        with Loan(self.regions, self.leases) as loan:
            yield loan
        assert self.leases.statistics().leases == 0


@pytest.fixture
def scene(tmp_path: Path) -> Iterator[Scene]:
    before = len(os.listdir("/proc/self/fd"))
    descriptor = create_arena_file(0, ARENA_BYTES)
    leases = Leases(Arena(ArenaHandle(descriptor, ARENA_BYTES)), Arrivals(lambda: 0))
    regions = Regions(is_allowed=True, directory=str(tmp_path), manager_pid=os.getpid())
    yield Scene(regions, leases, tmp_path)
    regions.close()
    os.close(descriptor)
    leases.memory.release()
    gc.collect()  # A mapping of a test that has raised keeps its file open.
    assert len(os.listdir("/proc/self/fd")) <= before + 1, "every file of a region is closed"


def route(
    *names: str, bounds: tuple[tuple[int, int], ...] = ((0, 1 << 40),), dtype: str = "FP32"
) -> VersionRoute:
    inputs = tuple(TensorSpecRecord(name, dtype, bounds) for name in names)
    version = VersionRecord(1, State.AVAILABLE, 0, "", 1, (), 1, "", inputs, inputs)
    return RoutingTable(RoutingSnapshot(1, False, (), (), (ModelRecord("m", 1, (version,)),))).find("m", 1)


def fetch(
    loan: Loan,
    inputs: dict[str, GivenTensor],
    outputs: dict[str, SharedRange] | None = None,
    dtype: str = "FP32",
) -> dict[str, GivenTensor]:
    asyncio.run(loan.fetch(route(*inputs, dtype=dtype), inputs, outputs or {}))
    return inputs


def deliver(loan: Loan, results: Sequence[ResultTensor], encode: Callable[..., object]) -> object:
    answer = loan.deliver(route(), results, encode)
    return asyncio.run(answer.written()) if isinstance(answer, Late) else answer


def result(name: str, data: bytes) -> ResultTensor:
    return ResultTensor(name, DType.UINT8, (len(data),), memoryview(data))


def test_an_input_is_read_into_leased_memory(scene: Scene) -> None:
    scene.register("r", b"head" + X.tobytes())
    with scene.loan() as loan:
        (tensor,) = fetch(loan, {"x": RegionInput(DType.FP32, (4,), SharedRange("r", 4, 16))}).values()

        assert isinstance(tensor, PlacedTensor)
        assert np.frombuffer(tensor.values, np.float32).tolist() == X.tolist()
        assert tensor.lease.nbytes == 16


def referable_route(*, is_referable: bool = True, exact: tuple[float, float] | None = None) -> VersionRoute:
    inputs = (TensorSpecRecord("x", "FP32", ((0, 1 << 40),), exact, is_referable=is_referable),)
    version = VersionRecord(1, State.AVAILABLE, 0, "", 1, (), 1, "", inputs, inputs)
    return RoutingTable(RoutingSnapshot(1, False, (), (), (ModelRecord("m", 1, (version,)),))).find("m", 1)


def seal(scene: Scene, memory: SharedRegion, name: str, *, is_writable: bool = True) -> None:
    status = os.fstat(memory.descriptor)
    record = RegionRecord(
        *(name, "memfd:1", 0, memory.nbytes, status.st_dev, status.st_ino, memory.descriptor, is_writable)
    )
    scene.regions.replace((*scene.regions.records(), record))


@pytest.mark.parametrize(
    ("route", "dtype", "offset", "is_referred"),
    [
        (referable_route(), DType.FP32, 64, True),
        (referable_route(), DType.FP32, 4, False),
        (referable_route(), DType.FP64, 64, False),
        (referable_route(is_referable=False), DType.FP32, 64, False),
        (referable_route(exact=(-1.0, 1.0)), DType.FP32, 64, False),
    ],
)
def test_an_input_in_sealed_memory_is_referred_to_where_that_is_safe(
    scene: Scene, route: VersionRoute, dtype: DType, offset: int, is_referred: bool
) -> None:
    with SharedRegion(4096) as memory:
        seal(scene, memory, "r")
        number = scene.regions.find("r").number
        with scene.loan() as loan:
            place = SharedRange("r", offset, dtype.nbytes((4,)))
            given: dict[str, GivenTensor] = {"x": RegionInput(dtype, (4,), place)}
            asyncio.run(loan.fetch(route, given, {}))
            assert isinstance(given["x"], ReferredTensor) is is_referred
            if not is_referred:
                return
            inputs = Inputs(route.inputs, given.values(), ARENA_BYTES, 0)
            region_lease = scene.leases.lease(64)
            refs = inputs.write(scene.leases.memory, region_lease)
            scene.leases.release(region_lease)
        assert inputs.nbytes == 0
        assert refs == (TensorRef(64, 16, (4,), number),)


def test_sealed_memory_that_is_for_inputs_only_takes_no_results(scene: Scene) -> None:
    with SharedRegion(4096, is_read_only=True) as memory:
        seal(scene, memory, "r", is_writable=False)
        with (
            scene.loan() as loan,
            pytest.raises(RegionMismatch, match="output 'y': region 'r' is for inputs only"),
        ):
            asyncio.run(loan.fetch(route("x"), {"x": zeros()}, {"y": SharedRange("r", 0, 16)}))


def zeros() -> RawTensor:
    return RawTensor(DType.FP32, (4,), memoryview(bytes(16)))


def test_an_input_without_elements_takes_no_memory(scene: Scene) -> None:
    scene.register("r", b"head")
    with scene.loan() as loan:
        (tensor,) = fetch(loan, {"x": RegionInput(DType.FP32, (0,), SharedRange("r", 4, 0))}).values()
        assert tensor == RawTensor(DType.FP32, (0,), memoryview(b""))
        assert scene.leases.statistics().leases == 0


@pytest.mark.parametrize("nbytes", [LONG_BYTES, LONG_BYTES + 4])
def test_long_inputs_are_the_same(scene: Scene, nbytes: int) -> None:
    content = np.arange(nbytes // 4, dtype=np.int32).tobytes()
    scene.register("r", content)
    with scene.loan() as loan:
        (tensor,) = fetch(
            loan, {"x": RegionInput(DType.INT32, (nbytes // 4,), SharedRange("r", 0, nbytes))}
        ).values()
        assert isinstance(tensor, PlacedTensor)
        assert tensor.values == content


@pytest.mark.parametrize("count", [2, 5000])
def test_strings_are_read_behind_their_lengths(scene: Scene, count: int) -> None:
    strings = [b"s%d" % index for index in range(count)]
    content = length_prefixed(Strings.of(strings))
    scene.register("r", bytes(content))
    with scene.loan() as loan:
        place = SharedRange("r", 0, len(content))
        given: dict[str, GivenTensor] = {"x": RegionInput(DType.BYTES, (count,), place)}
        (tensor,) = fetch(loan, given, dtype="BYTES").values()
        assert isinstance(tensor, BytesTensor)
        assert tensor.strings is not None
        assert [bytes(string) for string in tensor.strings] == strings


def test_what_does_not_fit_is_refused_before_anything_is_read(scene: Scene) -> None:
    path = scene.register("r", bytes(64))
    x = RegionInput(DType.FP32, (4,), SharedRange("r", 0, 16))
    cases: list[tuple[dict[str, GivenTensor], dict[str, SharedRange], str]] = [
        (
            {"x": RegionInput(DType.FP32, (4,), SharedRange("r", 0, 20))},
            {},
            "byte_size is 20, .* has 16 bytes",
        ),
        ({"x": RegionInput(DType.FP32, (4,), SharedRange("r", 60, 16))}, {}, "input 'x': Invalid offset"),
        ({"x": x}, {"y": SharedRange("r", 0, 65)}, "output 'y': Invalid offset"),
        ({"x": x}, {"y": SharedRange("r", 0, 8), "z": SharedRange("r", 7, 8)}, "'y' and 'z' would lie over"),
    ]
    for inputs, outputs, text in cases:
        with scene.loan() as loan, pytest.raises(RegionMismatch, match=text):
            fetch(loan, inputs, outputs)
    with scene.loan() as loan, pytest.raises(RegionNotFound, match="'s'"):
        fetch(loan, {"x": x}, {"y": SharedRange("s", 0, 8)})
    with scene.loan() as loan, pytest.raises(ShapeMismatch):
        asyncio.run(loan.fetch(route("x", bounds=((5, 5),)), {"x": x}, {}))
    os.truncate(path, 15)
    with scene.loan() as loan, pytest.raises(RegionMismatch, match="has 15 bytes by now"):
        fetch(loan, {"x": x})


def test_two_names_of_one_file_are_one_place(scene: Scene) -> None:
    path = scene.register("r", bytes(64))
    status = path.stat()
    scene.regions.replace(
        (*scene.regions.records(), RegionRecord("s", "r", 32, 32, status.st_dev, status.st_ino))
    )
    with scene.loan() as loan, pytest.raises(RegionMismatch, match="would lie over each other"):
        fetch(loan, {}, {"y": SharedRange("r", 30, 4), "z": SharedRange("s", 0, 4)})
    with scene.loan() as loan:
        fetch(loan, {}, {"y": SharedRange("r", 28, 4), "z": SharedRange("s", 0, 4)})


def test_results_go_where_they_shall_and_the_encoder_is_told(scene: Scene) -> None:
    path = scene.register("r", bytes(16))
    with scene.loan() as loan:
        fetch(loan, {}, {"y": SharedRange("r", 4, 8)})
        assert loan.has_rooms

        answer = deliver(loan, [result("y", b"abcd"), result("z", b"ef")], lambda _, outputs: outputs)

    assert isinstance(answer, list)
    assert [(output.shared, bytes(output.data)) for output in answer] == [
        (SharedRange("r", 4, 4), b""),
        (None, b"ef"),
    ]
    assert path.read_bytes() == b"\0\0\0\0abcd" + bytes(8)


def test_long_results_are_written_before_the_answer_goes(scene: Scene) -> None:
    data = bytes(range(256)) * (LONG_BYTES // 256 + 1)
    path = scene.register("r", bytes(len(data)))
    lease = scene.leases.lease(len(data))
    place = scene.leases.memory[lease.offset_bytes : lease.offset_bytes + len(data)]
    place[:] = data
    with scene.loan() as loan:
        fetch(loan, {}, {"y": SharedRange("r", 0, len(data))})
        answer = loan.deliver(
            route(), [ResultTensor("y", DType.UINT8, (len(data),), place, lease)], lambda *_: "answer"
        )
        scene.leases.release(lease)  # As the service does when the encoder has returned.
        assert isinstance(answer, Late)
        assert scene.leases.statistics().leases == 1
        assert asyncio.run(answer.written()) == "answer"
    assert path.read_bytes() == data


def test_strings_are_written_behind_their_lengths(scene: Scene) -> None:
    path = scene.register("r", bytes(16))
    strings = Strings.of([b"a", b"bcd"])
    packed = memoryview(bytearray(strings.packed_nbytes))
    strings.write_packed(packed)
    with scene.loan() as loan:
        fetch(loan, {}, {"y": SharedRange("r", 0, 16)})
        deliver(loan, [ResultTensor("y", DType.BYTES, (2,), packed)], lambda *_: None)
    assert path.read_bytes() == b"\1\0\0\0a\3\0\0\0bcd" + bytes(4)


def test_where_one_result_does_not_fit_none_is_written(scene: Scene) -> None:
    path = scene.register("r", bytes(16))
    results = [result("y", b"abcd"), result("z", b"efgh")]
    with scene.loan() as loan:
        fetch(loan, {}, {"y": SharedRange("r", 0, 4), "z": SharedRange("r", 8, 3)})
        with pytest.raises(
            RegionMismatch, match=r"output 'z' has 4 bytes, .* gives it 3 bytes of region 'r'"
        ):
            deliver(loan, results, lambda *_: None)
    with scene.loan() as loan:
        fetch(loan, {}, {"y": SharedRange("r", 0, 4), "z": SharedRange("r", 8, 4)})
        os.truncate(path, 10)
        with pytest.raises(RegionMismatch, match="has 10 bytes by now"):
            deliver(loan, results, lambda *_: None)
    assert path.read_bytes() == bytes(10)


def test_an_answer_that_is_not_sent_lets_go_of_what_it_holds(scene: Scene) -> None:
    path = scene.register("r", bytes(16))
    released: list[bool] = []

    def encode(*_: object) -> Gathered:
        os.truncate(path, 0)  # After all have been found to fit.
        return Gathered((), lambda: released.append(True))

    with scene.loan() as loan:
        fetch(loan, {}, {"y": SharedRange("r", 0, 4)})
        with pytest.raises(RegionMismatch):
            deliver(loan, [result("y", b"abcd")], encode)
    assert released == [True]


def test_a_region_that_is_unregistered_meanwhile_is_there_until_the_answer(scene: Scene) -> None:
    path = scene.register("r", bytes(4))
    with scene.loan() as loan:
        fetch(loan, {}, {"y": SharedRange("r", 0, 4)})
        scene.regions.replace(())
        deliver(loan, [result("y", b"abcd")], lambda *_: None)
    assert path.read_bytes() == b"abcd"
