# SPDX-License-Identifier: Apache-2.0
"""What is counted of a version's calls besides its totals: the upper words of its page (:mod:`ovms_mp.wire.counters`).

::

    words 320 to 417: seven stages of a request, 14 words each: | 13 buckets | sum in ns |
    words 418, 419:   octets of requests, octets of answers
    words 420, 421:   tasks that expired, that were cancelled, before their inference began
    words 422 to 485: failures, by the number of their class in REASONS
    words 486 to 491: inferences that began in company, by how many there were: 2, 4, 8, 16, 32, more
    word 492:         the sum of those numbers
    words 493 to 499: the same of inferences that several requests had together, by how many these were

Fronts write stages, octets and failures, workers the company; both write what came too late.

What each answer adds is gathered in memory of the process, and :meth:`CounterRow.flush` writes it once a second, as
that costs a third: a front that is killed takes the stages and octets of its last second with it.
Bounds of the buckets are powers of two, as the length of a number in bits finds the bucket.
"""

from __future__ import annotations

import enum
import re
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

from ovms_mp.errors import OvmsError

if TYPE_CHECKING:
    from ovms_mp.wire.counters import CounterRow


class Stage(enum.IntEnum):
    """Parts of an answered request's time, in their order; together they are nearly all of it.

    ``SEND`` lasts until the socket has the answer, or its client is gone. It is counted by itself, as calls have ended
    before, and not of streams and of what a web framework sends.
    """

    RECEIVE = 0
    DECODE = 1
    QUEUE = 2
    INFER = 3
    HANDOVER = 4
    ENCODE = 5
    SEND = 6


BOUND_BITS = tuple(range(13, 37, 2))
"""The bucket with the bound of 2**13 - 1 ns has the numbers of 13 bits and fewer, and so on."""
STAGE_BOUNDS_S = tuple(((1 << bits) - 1) / 1e9 for bits in BOUND_BITS)
"""8 us to 34 s, each four times the one before."""
COMPANY_BOUNDS = (1, 2, 4, 8, 16, 32)
"""How many inferences of a version ran at once."""

FIRST_WORD = 320
STAGE_WORDS = len(BOUND_BITS) + 2
_BYTES_WORD = FIRST_WORD + len(Stage) * STAGE_WORDS
_EXPIRED_WORD, _CANCELLED_WORD = _BYTES_WORD + 2, _BYTES_WORD + 3
_FAILURES_WORD = _BYTES_WORD + 4
MOST_REASONS = 64
_COMPANY_WORD = _FAILURES_WORD + MOST_REASONS
_COMPANY_SUM_WORD = _COMPANY_WORD + len(COMPANY_BOUNDS)
_BATCH_WORD = _COMPANY_SUM_WORD + 1
_BATCH_SUM_WORD = _BATCH_WORD + len(COMPANY_BOUNDS)
END_WORD = _BATCH_SUM_WORD + 1

_LENGTHS = 65
"""Of a number of nanoseconds, in bits."""
_RECEIVE, _DECODE, _QUEUE, _INFER, _HANDOVER, _ENCODE, _SEND = (stage * _LENGTHS for stage in Stage)
_SUMS = len(Stage) * _LENGTHS
_RECEIVED, _SENT = _SUMS + len(Stage), _SUMS + len(Stage) + 1
_GATHERED = _SENT + 1
_WRAP = 1 << 64


def _names(base: type[OvmsError]) -> Iterable[str]:
    yield base.__name__
    for subclass in base.__subclasses__():
        yield from _names(subclass)


REASONS = tuple(sorted(set(_names(OvmsError))))
"""Classes of errors by their numbers; the same in every process of a server."""
_REASON_NUMBERS = {name: number for number, name in enumerate(REASONS)}


def reason_number(error_name: str) -> int:
    """The number of an error's class; that of the base for one that is not known."""
    return _REASON_NUMBERS.get(error_name, _REASON_NUMBERS[OvmsError.__name__])


def reason_text(number: int) -> str:
    """A class of errors as a label's value, e.g. ``queue_full``."""
    name = REASONS[number] if REASONS[number] != OvmsError.__name__ else "Other"
    return re.sub(r"(?<!^)(?=[A-Z])", "_", name).lower()


class StageTimes(NamedTuple):
    """Of one answered request, in nanoseconds; none is negative."""

    receive_ns: int
    decode_ns: int
    queue_ns: int
    infer_ns: int
    handover_ns: int
    encode_ns: int


class StageCounters:
    """One process's counters of one version's calls. All calls come from one thread."""

    __slots__ = ("_gathered", "_is_marked", "_page", "_row", "_words")

    def __init__(self, row: CounterRow, page: int) -> None:
        """Begin where the row's last writer ended.

        Args:
            row: This process's.
            page: The version's.
        """
        self._row = row
        self._page = page
        self._words = row.page(page)
        self._is_marked = False
        self._gathered: list[int] = []

    def answered(
        self,
        receive_ns: int,
        decode_ns: int,
        queue_ns: int,
        infer_ns: int,
        handover_ns: int,
        encode_ns: int,
        received_bytes: int,
        sent_bytes: int,
    ) -> None:
        """A request's answer has been made; see :class:`StageTimes`."""
        gathered = self._gathered or self._begin()
        gathered[receive_ns.bit_length()] += 1
        gathered[_DECODE + decode_ns.bit_length()] += 1
        gathered[_QUEUE + queue_ns.bit_length()] += 1
        gathered[_INFER + infer_ns.bit_length()] += 1
        gathered[_HANDOVER + handover_ns.bit_length()] += 1
        gathered[_ENCODE + encode_ns.bit_length()] += 1
        gathered[_SUMS] += receive_ns
        gathered[_SUMS + 1] += decode_ns
        gathered[_SUMS + 2] += queue_ns
        gathered[_SUMS + 3] += infer_ns
        gathered[_SUMS + 4] += handover_ns
        gathered[_SUMS + 5] += encode_ns
        gathered[_RECEIVED] += received_bytes
        gathered[_SENT] += sent_bytes

    def sent_since(self, encoded_ns: int) -> None:
        """The socket has an answer, or its client is gone. PERF: 0.2 us.

        Args:
            encoded_ns: When it had been made; monotonic.
        """
        self.sent(time.monotonic_ns() - encoded_ns)

    def sent(self, send_ns: int) -> None:
        """An answer was with the socket so long after it had been made."""
        gathered = self._gathered or self._begin()
        gathered[_SEND + send_ns.bit_length()] += 1
        gathered[_SUMS + 6] += send_ns

    def carried(self, received_bytes: int, sent_bytes: int) -> None:
        """A call of another kind has ended, or one without an answer."""
        gathered = self._gathered or self._begin()
        gathered[_RECEIVED] += received_bytes
        gathered[_SENT] += sent_bytes

    def failed(self, reason: int) -> None:
        """A call got an error of the class with this number."""
        self._add(_FAILURES_WORD + reason, 1)

    def expired(self) -> None:
        """A request's deadline passed before its inference began."""
        self._add(_EXPIRED_WORD, 1)

    def cancelled(self) -> None:
        """A request's client went away before its inference began."""
        self._add(_CANCELLED_WORD, 1)

    def ran_in_company(self, count: int) -> None:
        """An inference began while others of the version went on; not called for one alone.

        Args:
            count: How many there were, with this one; at least 2.
        """
        self._note_count(_COMPANY_WORD, count)

    def ran_in_batch(self, count: int) -> None:
        """An inference ran so many requests together; not called for one."""
        self._note_count(_BATCH_WORD, count)

    def _note_count(self, word: int, count: int) -> None:
        self._add(word + min((count - 1).bit_length(), len(COMPANY_BOUNDS)) - 1, 1)
        self._words[word + len(COMPANY_BOUNDS)] += count

    def retire(self) -> None:
        """Count nothing of it any more; the page is not touched from now on."""
        self.flush()
        self._words = memoryview(bytearray(8 * (END_WORD + 1))).cast("Q")
        self._is_marked = True

    def flush(self) -> None:
        """Write what was gathered. PERF: 40 us."""
        gathered, self._gathered = self._gathered, []
        if not gathered:
            return
        for stage in Stage:
            word = FIRST_WORD + stage * STAGE_WORDS
            counts = gathered[stage * _LENGTHS : (stage + 1) * _LENGTHS]
            begin = 0
            for bucket, end in enumerate((*BOUND_BITS, _LENGTHS - 1)):
                if count := sum(counts[begin : end + 1]):
                    self._add(word + bucket, count)
                begin = end + 1
            self._add(word + STAGE_WORDS - 1, gathered[_SUMS + stage])
        self._add(_BYTES_WORD, gathered[_RECEIVED])
        self._add(_BYTES_WORD + 1, gathered[_SENT])

    def _begin(self) -> list[int]:
        self._gathered = [0] * _GATHERED
        self._row.to_flush.append(self)
        return self._gathered

    def _add(self, word: int, more: int) -> None:
        if not self._is_marked:
            self._row.mark(self._page)
            self._is_marked = True
        self._words[word] = (self._words[word] + more) % _WRAP


@dataclass(slots=True)
class StageTotals:
    """The sums of some pages.

    Attributes:
        buckets: Of each stage.
        sums_ns: Of each stage.
        company: By the bounds of COMPANY_BOUNDS without the first, and beyond.
        company_sum: Of inferences in company.
        batches: The same of inferences of several requests, by how many these were.
        batches_sum: Of the requests of these.
    """

    buckets: list[list[int]] = field(default_factory=lambda: [[0] * (STAGE_WORDS - 1) for _ in Stage])
    sums_ns: list[int] = field(default_factory=lambda: [0] * len(Stage))
    received_bytes: int = 0
    sent_bytes: int = 0
    expired: int = 0
    cancelled: int = 0
    failures: list[int] = field(default_factory=lambda: [0] * len(REASONS))
    company: list[int] = field(default_factory=lambda: [0] * len(COMPANY_BOUNDS))
    company_sum: int = 0
    batches: list[int] = field(default_factory=lambda: [0] * len(COMPANY_BOUNDS))
    batches_sum: int = 0

    @classmethod
    def of(cls, pages: Iterable[memoryview]) -> StageTotals:
        """Add up a version's pages. PERF: 20 us for each."""
        words = _sums([page[FIRST_WORD:END_WORD].tolist() for page in pages])
        totals = cls()
        if not words:
            return totals
        for stage in Stage:
            begin = stage * STAGE_WORDS
            totals.buckets[stage] = words[begin : begin + STAGE_WORDS - 1]
            totals.sums_ns[stage] = words[begin + STAGE_WORDS - 1]
        totals.received_bytes, totals.sent_bytes, totals.expired, totals.cancelled = words[
            _BYTES_WORD - FIRST_WORD : _FAILURES_WORD - FIRST_WORD
        ]
        totals.failures = words[_FAILURES_WORD - FIRST_WORD :][: len(REASONS)]
        totals.company = words[_COMPANY_WORD - FIRST_WORD : _COMPANY_SUM_WORD - FIRST_WORD]
        totals.company_sum = words[_COMPANY_SUM_WORD - FIRST_WORD]
        totals.batches = words[_BATCH_WORD - FIRST_WORD : _BATCH_SUM_WORD - FIRST_WORD]
        totals.batches_sum = words[_BATCH_SUM_WORD - FIRST_WORD]
        return totals


def _sums(pages: Sequence[list[int]]) -> list[int]:
    return [sum(column) % _WRAP for column in zip(*pages, strict=True)]
