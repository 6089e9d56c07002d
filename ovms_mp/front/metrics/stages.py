# SPDX-License-Identifier: Apache-2.0
"""Counts what each call took, moved and failed with, and now and then what this front holds.

See :mod:`ovms_mp.wire.stage_counters` and :mod:`ovms_mp.wire.process_counters` for where.
"""

from __future__ import annotations

from collections import Counter, deque
from typing import TYPE_CHECKING

from ovms_mp.errors import CallCancelled, Code, DeadlineExceeded, OvmsError
from ovms_mp.wire import process_counters as words
from ovms_mp.wire.process_counters import process_words
from ovms_mp.wire.stage_counters import reason_number
from ovms_mp.wire.version_counters import UNCOUNTED

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from ovms_mp.front.call_context import CallContext
    from ovms_mp.front.clock import Clock
    from ovms_mp.front.infer.leases import Leases
    from ovms_mp.wire.counters import CounterRow

LOOK_S = 1.0
"""Between two looks at what the front holds."""
_LOOKS = 30
"""How many of them the longest lag is of."""

_BY_TRANSPORT = {
    Code.DEADLINE_EXCEEDED: reason_number(DeadlineExceeded.__name__),
    Code.CANCELLED: reason_number(CallCancelled.__name__),
}
"""What a call has failed with that its transport has ended itself."""
_OTHER = reason_number(OvmsError.__name__)


class StageObserver:
    """A :class:`~ovms_mp.front.observers.CallObserver`. Belongs to the event loop."""

    def __init__(self, row: CounterRow, leases: Leases, interface: str, clock_ns: Clock) -> None:
        """Prepare.

        Args:
            row: This front's.
            leases: Of its arena.
            interface: What it speaks.
            clock_ns: Monotonic time.
        """
        self._row = row
        self._words = process_words(row)
        self._leases = leases
        self._clock_ns = clock_ns
        self._watched: list[tuple[int, Callable[[], Iterable[tuple[int, int]]], Counter[int]]] = []
        self._lags_ns: deque[int] = deque(maxlen=_LOOKS)
        self._due_ns = 0
        self._words[words.INTERFACE] = words.INTERFACES.index(interface)

    def begun(self, context: CallContext) -> None:
        """Nothing is known of it yet."""

    def ended(self, context: CallContext, code: Code | None, failure: OvmsError | None) -> None:
        """Count it. PERF: 0.65 us."""
        encoded_ns = context.encoded_ns
        if code is None and encoded_ns:
            begun_ns, sent_ns, received_ns = context.begun_ns, context.sent_ns, context.received_ns
            queue_ns, infer_ns = context.queue_ns, context.infer_ns
            arrived_ns = context.arrived_ns or begun_ns
            context.counters.stages.answered(
                arrived_ns - begun_ns,
                sent_ns - arrived_ns,
                queue_ns,
                infer_ns,
                received_ns - sent_ns - queue_ns - infer_ns,
                encoded_ns - received_ns,
                context.received_bytes,
                context.sent_bytes,
            )
        else:
            self._count_other(context, code, failure)

    def _count_other(self, context: CallContext, code: Code | None, failure: OvmsError | None) -> None:
        """A call that is not an answered inference."""
        counters = context.counters
        if counters is UNCOUNTED:
            self._words[words.RECEIVED_BYTES] += context.received_bytes
            self._words[words.SENT_BYTES] += context.sent_bytes
        else:
            counters.stages.carried(context.received_bytes, context.sent_bytes)
        if code is None:
            return
        if code is Code.CANCELLED and 0 < context.deadline_ns <= self._clock_ns():
            code = Code.DEADLINE_EXCEEDED  # Its client has seen that first, and ended the call.
        reason = _BY_TRANSPORT.get(code, _OTHER) if failure is None else reason_number(type(failure).__name__)
        if counters is UNCOUNTED:
            self._words[words.FAILURES + reason] += 1
            return
        counters.stages.failed(reason)
        # What went to a worker is counted there, as only that knows whether its inference began.
        if context.decoded_ns and not context.sent_ns and code in _BY_TRANSPORT:
            if code is Code.DEADLINE_EXCEEDED:
                counters.stages.expired()
            else:
                counters.stages.cancelled()

    def watch(self, word: int, read: Callable[[], Iterable[tuple[int, int]]]) -> None:
        """Write what a transport counts.

        Args:
            word: Where number 0 is.
            read: Gives numbers with counts since the start.
        """
        self._watched.append((word, read, Counter()))

    def look(self) -> None:
        """Write what the front holds, and what was gathered. Called each :data:`LOOK_S`. PERF: 20 us."""
        now_ns = self._clock_ns()
        lag_ns = max(0, now_ns - self._due_ns) if self._due_ns else 0
        self._due_ns = now_ns + int(LOOK_S * 1e9)
        self._lags_ns.append(lag_ns)
        self._row.flush()
        for word, read, told in self._watched:
            counts = Counter[int]()
            for number, count in read():
                counts[number] += count
            for number, more in (counts - told).items():
                self._words[word + number] += more
            told.update(counts - told)
        held, page = self._leases.statistics(), self._words
        page[words.ARENA_BYTES] = len(self._leases.memory)
        page[words.LEASED_BYTES], page[words.LEASES] = held.leased_bytes, held.leases
        page[words.MOST_LEASED_BYTES] = held.most_bytes
        page[words.LAG_NS], page[words.LONGEST_LAG_NS] = lag_ns, max(self._lags_ns)
        page[words.WRITTEN_NS] = now_ns
