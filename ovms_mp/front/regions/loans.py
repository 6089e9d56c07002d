# SPDX-License-Identifier: Apache-2.0
"""What one request borrows of clients' regions: its inputs are copied out of them, and its results into them.

Regions are held from the moment that the request is known until it is answered, so that one that is unregistered or
replaced meanwhile is still the one that the client meant. Inputs are copied into the arena before the task is sent, so
that what a client does to its memory afterwards changes nothing that the model sees. Those in sealed memory that a
model only computes with are not: a worker reads them where they are, and what their client changes meanwhile is its own
affair. Results are written when the model has run, so one may go where an input was.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import TYPE_CHECKING, Generic, NamedTuple, TypeVar

from ovms_mp.errors import RegionMismatch
from ovms_mp.front.aside import run_aside
from ovms_mp.front.gathered import Gathered
from ovms_mp.front.infer.leases import Lease
from ovms_mp.front.infer.validation import match_inputs
from ovms_mp.front.regions.ranges import SharedRange
from ovms_mp.front.regions.tensors import ReferredTensor, RegionInput
from ovms_mp.front.strings import (
    MOST_AT_ONCE,
    STEP_ELEMENTS,
    Strings,
    length_prefixed,
    length_prefixed_nbytes,
    parse_length_prefixed,
)
from ovms_mp.front.tensors import PlacedTensor, RawTensor, ResultTensor, bytes_tensor
from ovms_mp.model.dtypes import DType, element_count

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from typing import Self

    from ovms_mp.front.infer.leases import Leases
    from ovms_mp.front.regions.region import Region
    from ovms_mp.front.regions.table import Regions
    from ovms_mp.front.routing import VersionRoute
    from ovms_mp.front.tensors import GivenTensor

AnswerT = TypeVar("AnswerT")

LONG_BYTES = 4 << 20
"""Copies of a request that take longer than a thread costs. PERF: 4 MiB take 0.2 to 0.5 ms, a thread 0.07."""
_NOTHING = memoryview(b"")


class _Room(NamedTuple):
    """Where a result shall go."""

    region: Region
    place: SharedRange


class _Input(NamedTuple):
    """An input that is being read, and the memory that it is read into."""

    name: str
    tensor: RegionInput
    region: Region
    lease: Lease | None
    memory: memoryview


class _Result(NamedTuple):
    """A result on its way into a region."""

    region: Region
    place: SharedRange
    source: memoryview | Strings


@dataclass(frozen=True, slots=True)
class Late(Generic[AnswerT]):
    """An answer that must not be sent yet, as results are still to be written."""

    answer: AnswerT
    writes: Sequence[_Result]

    async def written(self) -> AnswerT:
        """The answer, when they are. Called once, before the loan ends.

        Raises:
            RegionMismatch: A file is too short by now, or cannot be written.
        """
        is_written = False
        try:
            await run_aside(_write, self.writes)
            is_written = True
        finally:
            if not is_written:
                _drop(self.answer)
        return self.answer


class Loan:
    """The regions and the memory of one request; as a context, it gives all of them back. PERF: 1 us, if unused."""

    __slots__ = ("_held", "_leased", "_leases", "_regions", "_rooms")

    def __init__(self, regions: Regions, leases: Leases) -> None:
        """Borrow nothing yet.

        Args:
            regions: Of this front.
            leases: Of its arena, which inputs are copied into.
        """
        self._regions = regions
        self._leases = leases
        self._held: list[Region] = []
        self._leased: list[Lease] = []
        self._rooms: dict[str, _Room] = {}

    def __enter__(self) -> Self:
        """Begin."""
        return self

    def __exit__(self, *_: object) -> None:
        """Give everything back."""
        for region in self._held:
            region.release()
        for lease in self._leased:
            self._leases.release(lease)

    @property
    def has_rooms(self) -> bool:
        """Whether a result shall go into a region."""
        return bool(self._rooms)

    async def fetch(
        self, route: VersionRoute, inputs: dict[str, GivenTensor], outputs: Mapping[str, SharedRange]
    ) -> None:
        """Read the inputs that are in regions, and see to it that the results can go where they shall.

        Args:
            route: The version that will answer.
            inputs: By name; those in regions are replaced by what was read.
            outputs: Where results shall go, by the outputs' names.

        Raises:
            UnsupportedOperation: Clients may have no regions.
            RegionNotFound: There is no such region.
            RegionUnusable: Its file cannot be opened here.
            RegionMismatch: A range is not inside its region, or not of the tensor's size, or the file is too short by
                now; or two results would lie over each other.
            OvmsError: What the model does not take, and what memory there is not, as of any request.
        """
        if not outputs and not any(isinstance(tensor, RegionInput) for tensor in inputs.values()):
            return
        if route.outputs:
            # What is refused for its shape is not read first.
            match_inputs(route, {name: _outline(tensor) for name, tensor in inputs.items()})
        self._rooms = {name: self._room(name, place) for name, place in outputs.items()}
        _refuse_overlaps(self._rooms)
        entries = [
            self._input(name, tensor)
            for name, tensor in inputs.items()
            if isinstance(tensor, RegionInput) and not self._is_referred(route, name, tensor, inputs)
        ]
        if _is_long(entries):
            tensors = await run_aside(_read, entries)
        else:
            tensors = _read(entries)
        inputs.update(tensors)

    def deliver(
        self,
        route: VersionRoute,
        outputs: Sequence[ResultTensor],
        encode: Callable[[VersionRoute, Sequence[ResultTensor]], AnswerT],
    ) -> AnswerT | Late[AnswerT]:
        """Encode the answer, and write the results that shall go into regions unless they are long.

        Nothing is written before all of them have been found to fit, and the answer could be encoded.

        Args:
            route: The version that has answered.
            outputs: The results.
            encode: Makes the answer. Of results in regions it gets no data; ``shared`` says where they are.

        Raises:
            RegionMismatch: A result does not fit, or a file is too short by now.
        """
        writes: list[_Result] = []
        results = [self._shared(output, writes) for output in outputs]
        answer = encode(route, results)
        if sum([write.place.nbytes for write in writes]) > LONG_BYTES or any(
            isinstance(write.source, Strings) and len(write.source) > MOST_AT_ONCE for write in writes
        ):
            for lease in {id(output.lease): output.lease for output in outputs}.values():
                if lease is not None:
                    self._leases.hold(lease)
                    self._leased.append(lease)
            return Late(answer, writes)
        _write_or_drop(writes, answer)
        return answer

    def _hold(self, name: str) -> Region:
        region = self._regions.find(name)
        region.hold()
        self._held.append(region)
        return region

    def _room(self, name: str, place: SharedRange) -> _Room:
        region = self._hold(place.region)
        region.refuse_outside(place, f"output {name!r}")
        region.refuse_read_only(f"output {name!r}")
        region.refuse_shrunk(place)
        return _Room(region, place)

    def _is_referred(
        self, route: VersionRoute, name: str, tensor: RegionInput, inputs: dict[str, GivenTensor]
    ) -> bool:
        """Have an input read where it is, if it can be; whether it can."""
        spec = next((spec for spec in route.inputs if spec.name == name), None)
        if spec is None or not spec.is_referable or spec.exact is not None or tensor.dtype is not spec.dtype:
            return False
        region = self._regions.find(tensor.place.region)
        if not region.can_be_read_in_place(tensor.place):
            return False
        _refuse_misfit(name, tensor, region)
        region.hold()
        lease = Lease(tensor.place.offset, tensor.place.nbytes, region=region)
        self._leased.append(lease)
        inputs[name] = ReferredTensor(tensor.dtype, tensor.shape, lease)
        return True

    def _input(self, name: str, tensor: RegionInput) -> _Input:
        place = tensor.place
        region = self._hold(place.region)
        _refuse_misfit(name, tensor, region)
        if not place.nbytes:
            return _Input(name, tensor, region, None, _NOTHING)
        lease = self._leases.lease(place.nbytes)
        self._leased.append(lease)
        start = lease.offset_bytes
        return _Input(name, tensor, region, lease, self._leases.memory[start : start + place.nbytes])

    def _shared(self, output: ResultTensor, writes: list[_Result]) -> ResultTensor:
        """The result as the encoder gets it; if it goes into a region, it is among the writes from then on."""
        room = self._rooms.get(output.name)
        if room is None:
            return output
        source: memoryview | Strings = output.data
        nbytes = output.data.nbytes
        if output.dtype is DType.BYTES:
            source = output.strings()
            nbytes = length_prefixed_nbytes(source)
        if nbytes > room.place.nbytes:
            raise RegionMismatch(
                f"output {output.name!r} has {nbytes} bytes, and shared_memory_byte_size gives it "
                f"{room.place.nbytes} bytes of region {room.place.region!r}"
            )
        place = room.place._replace(nbytes=nbytes)
        room.region.refuse_shrunk(place)
        writes.append(_Result(room.region, place, source))
        return ResultTensor(output.name, output.dtype, output.shape, _NOTHING, None, place)


def _refuse_misfit(name: str, tensor: RegionInput, region: Region) -> None:
    place = tensor.place
    region.refuse_outside(place, f"input {name!r}")
    if tensor.dtype is not DType.BYTES:
        nbytes = tensor.dtype.nbytes(tensor.shape)
        if nbytes != place.nbytes:
            raise RegionMismatch(
                f"input {name!r}: shared_memory_byte_size is {place.nbytes}, but {tensor.dtype.name} of shape "
                f"{list(tensor.shape)} has {nbytes} bytes"
            )


def _refuse_overlaps(rooms: Mapping[str, _Room]) -> None:
    """Refuse results that would lie over each other, in whichever regions: one of them would be lost."""
    if len(rooms) < 2:
        return
    ranges = sorted(
        (*room.region.identity, *room.region.file_range(room.place), name)
        for name, room in rooms.items()
        if room.place.nbytes
    )
    for (*file, _, end, name), (*next_file, start, _, next_name) in itertools.pairwise(ranges):
        if file == next_file and start < end:
            raise RegionMismatch(
                f"outputs {name!r} and {next_name!r} would lie over each other in shared memory; give each a range of "
                f"its own"
            )


def _outline(tensor: GivenTensor) -> GivenTensor:
    """A tensor as far as it is known before it is read; what strings become is the model's to say."""
    if isinstance(tensor, RegionInput) and tensor.dtype is DType.BYTES:
        return bytes_tensor(tensor.shape, None)
    return tensor


def _is_long(entries: Sequence[_Input]) -> bool:
    nbytes = elements = 0
    for entry in entries:
        nbytes += entry.tensor.place.nbytes
        if entry.tensor.dtype is DType.BYTES:
            elements += element_count(entry.tensor.shape)
    return nbytes > LONG_BYTES or elements > STEP_ELEMENTS


def _read(entries: Sequence[_Input]) -> dict[str, GivenTensor]:
    """Copy inputs into the arena; may run in a thread."""
    tensors: dict[str, GivenTensor] = {}
    for name, tensor, region, lease, memory in entries:
        region.read(tensor.place, memory)
        if tensor.dtype is DType.BYTES:
            strings = parse_length_prefixed(memory, element_count(tensor.shape), f"input {name!r}")
            tensors[name] = bytes_tensor(tensor.shape, strings)
        elif lease is None:
            tensors[name] = RawTensor(tensor.dtype, tensor.shape, memory)
        else:
            tensors[name] = PlacedTensor(tensor.dtype, tensor.shape, memory, lease)
    return tensors


def _write(writes: Sequence[_Result]) -> None:
    """Copy results into their regions; may run in a thread."""
    for region, place, source in writes:
        region.write(place, memoryview(length_prefixed(source)) if isinstance(source, Strings) else source)


def _write_or_drop(writes: Sequence[_Result], answer: object) -> None:
    try:
        _write(writes)
    except RegionMismatch:
        _drop(answer)
        raise


def _drop(answer: object) -> None:
    """Nobody is sent this answer."""
    if isinstance(answer, Gathered):
        answer.release()
