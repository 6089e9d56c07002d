# SPDX-License-Identifier: Apache-2.0
"""Families about processes and their memory, and about what the manager knows."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

from ovms_mp.front.metrics.families import Buckets, Family, Kind, Sample
from ovms_mp.model import own_metrics as names
from ovms_mp.wire import process_counters as words
from ovms_mp.wire.process_counters import Cause, KindWord, Phase
from ovms_mp.wire.stage_counters import REASONS, STAGE_BOUNDS_S, STAGE_WORDS, reason_text


def family(name: str, samples: Iterable[Sample]) -> Family:
    """A family as it is declared."""
    declared = names.OWN[name]
    return Family(name, Kind(declared.kind), declared.help, samples)


def process_families(
    pages: Mapping[int, memoryview], manager: memoryview | None, since_ns: int
) -> Iterator[Family]:
    """What processes say of themselves.

    Args:
        pages: Their words, by row.
        manager: The manager's.
        since_ns: Who has not written since is dead, and what it held is free.
    """
    fronts = {
        row: page
        for row, page in pages.items()
        if page[words.WRITTEN_NS] > since_ns and page[words.INTERFACE]
    }

    def of_arenas(word: int) -> Iterator[Sample]:
        return (Sample((("arena", str(row)),), page[word]) for row, page in fronts.items())

    def of_loops(word: int) -> Iterator[Sample]:
        for row, page in fronts.items():
            kind = words.INTERFACES[page[words.INTERFACE]].lower()
            yield Sample((("kind", kind), ("row", str(row))), page[word] / 1e9)

    longest_lags = [*of_loops(words.LONGEST_LAG_NS)]
    if manager is not None:
        turn_s = manager[words.LONGEST_TURN_NS] / 1e9
        longest_lags.append(Sample((("kind", "manager"), ("row", "")), turn_s))
    yield family(names.LIMITS, _limits(pages))
    yield family(names.ARENA_BYTES, of_arenas(words.ARENA_BYTES))
    yield family(names.ARENA_USED, of_arenas(words.LEASED_BYTES))
    yield family(names.ARENA_MOST, of_arenas(words.MOST_LEASED_BYTES))
    yield family(names.ARENA_LEASES, of_arenas(words.LEASES))
    yield family(names.LOOP_LAG, of_loops(words.LAG_NS))
    yield family(names.LONGEST_LOOP_LAG, longest_lags)


def _limits(pages: Mapping[int, memoryview]) -> Iterator[Sample]:
    for interface, first, limits in (
        ("gRPC", words.LIMITS, words.GRPC_LIMITS),
        ("REST", words.REFUSALS, words.REST_REFUSALS),
    ):
        for number, limit in enumerate(limits):
            count = sum(page[first + number] for page in pages.values())
            yield Sample((("interface", interface), ("limit", limit)), count)


def manager_families(page: memoryview) -> Iterator[Family]:
    """What the manager says.

    Args:
        page: Its words.
    """

    def of_kinds(word: KindWord, unit: float = 1) -> Iterator[Sample]:
        for kind, name in enumerate(words.KIND_NAMES):
            value = page[words.KINDS + kind * words.KIND_WORDS + word]
            yield Sample((("kind", name),), value if unit == 1 else value * unit)

    yield family(names.CHILD_ENDS, _ends(page))
    yield family(names.LOAD_SECONDS, _phases(page))
    yield family(
        names.LOAD_FAILURES,
        (
            Sample((("reason", reason_text(number)),), count)
            for number, count in enumerate(page[words.LOAD_FAILURES :][: len(REASONS)])
            if count
        ),
    )
    yield family(
        names.FETCHES,
        (
            Sample((("result", "failure"),), page[words.FAILED_FETCHES]),
            Sample((("result", "success"),), page[words.FETCHES]),
        ),
    )
    yield family(names.FETCHED_BYTES, (Sample((), page[words.FETCHED_BYTES]),))
    if page[words.HAS_THROTTLING]:
        yield family(names.CPU_PERIODS, (Sample((), page[words.PERIODS]),))
        yield family(names.CPU_THROTTLED_PERIODS, (Sample((), page[words.THROTTLED_PERIODS]),))
        yield family(names.CPU_THROTTLED, (Sample((), page[words.THROTTLED_US] / 1e6),))
    yield family(names.PROCESSES, of_kinds(KindWord.PROCESSES))
    yield family(names.PROCESS_CPU, of_kinds(KindWord.CPU_MS, 1e-3))
    yield family(names.PROCESS_MEMORY, of_kinds(KindWord.RESIDENT_BYTES))
    yield family(names.PROCESS_DESCRIPTORS, of_kinds(KindWord.DESCRIPTORS))
    yield family(
        names.PROCESS_START,
        (sample for sample in of_kinds(KindWord.STARTED_MS, 1e-3) if sample.value),
    )


def _ends(page: memoryview) -> Iterator[Sample]:
    for kind, name in enumerate(words.KIND_NAMES):
        if name != "manager":
            for cause in Cause:
                count = page[words.ENDS + kind * words.CAUSE_WORDS + cause]
                yield Sample((("cause", cause.name.lower()), ("kind", name)), count)


def _phases(page: memoryview) -> Iterator[Sample]:
    for phase in Phase:
        found = page[words.PHASES + phase * STAGE_WORDS :][:STAGE_WORDS].tolist()
        buckets = Buckets(STAGE_BOUNDS_S, found[:-1], found[-1] / 1e9)
        yield Sample((("phase", phase.name.lower()),), buckets)
