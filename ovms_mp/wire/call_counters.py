# SPDX-License-Identifier: Apache-2.0
"""What is counted for OVMS's metrics: the meaning of further words of a page (:mod:`ovms_mp.wire.version_counters`).

::

    words 104 to 127: calls: for each of CALLS, over gRPC and over REST: | succeeded | failed |
    word 128:         requests for inference that have begun, of fronts
    word 129:         those that ended as no call of the version: it went to another one, or its front died
    word 130:         infer requests that were taken, of workers
    word 131:         those that came back without having run a task, or whose worker died
    words 132 to 166: 34 buckets of the time of a request for inference over gRPC, and the sum in ns
    words 167 to 201: the same over REST
    words 202 to 235: buckets of the time that infer requests ran
    words 236 to 269: buckets of the time that tasks waited for one
    words 320 to 499: stages (:mod:`ovms_mp.wire.stage_counters`)

A model has a page, too, where calls are counted that are about no version. Nothing of this is written while there are
no metrics. What is under way is the difference of what has begun and what has ended; of a row whose process has died
that is closed by :func:`close_page`, as nobody else will.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

CALLS = (
    "Predict",
    "GetModelMetadata",
    "GetModelStatus",
    "ModelInfer",
    "ModelMetadata",
    "ModelReady",
)
INFERENCE = ("Predict", "ModelInfer")
"""Those of CALLS that run the model."""
INTERFACES = ("gRPC", "REST")

BOUNDS_US = tuple(int(10 * 1.8**power) for power in range(33))
BOUNDS_NS = tuple(bound * 1000 for bound in BOUNDS_US)
"""Upper bounds of the buckets, inclusive: a time's bucket is its place by :func:`bisect.bisect_left`."""
BUCKETS = len(BOUNDS_NS) + 1

EXECUTIONS = 7
"""Runs of infer requests, of workers; among the words of :mod:`ovms_mp.wire.version_counters`."""
_FIRST_CALL = 104
BEGUN, LEFT, TAKEN, NOT_RUN = 128, 129, 130, 131
REQUEST_TIME = {"gRPC": 132, "REST": 132 + BUCKETS + 1}
"""First words of buckets; the sum is behind them."""
RUN_BUCKETS = REQUEST_TIME["REST"] + BUCKETS + 1
WAIT_BUCKETS = RUN_BUCKETS + BUCKETS
FIRST_FREE_WORD = 272
"""From here on a page has room for more."""


def call_word(call: str, interface: str) -> int:
    """Where calls are counted that have succeeded; the next word is for those that have failed."""
    return _FIRST_CALL + 4 * CALLS.index(call) + 2 * INTERFACES.index(interface)


_ENDED_WORDS = tuple(
    call_word(call, interface) + failed for call in INFERENCE for interface in INTERFACES for failed in (0, 1)
)


def close_page(words: memoryview) -> None:
    """Settle what a process had under way when it died, in its page of a version. Nobody may be writing it."""
    if (under_way := words[BEGUN] - words[LEFT] - sum(words[word] for word in _ENDED_WORDS)) > 0:
        words[LEFT] += under_way
    if (running := words[TAKEN] - words[NOT_RUN] - words[EXECUTIONS]) > 0:
        words[NOT_RUN] += running


@dataclass(slots=True)
class CallTotals:
    """The sums over all processes of one moment.

    Attributes:
        words: Of all rows, word by word, up to the first free one.
        active: Infer requests that are taken.
    """

    words: Sequence[int]
    active: int = 0

    @classmethod
    def of(cls, pages: Iterable[memoryview], nireq: int = 0) -> CallTotals:
        """Add up the pages of a version or a model. PERF: 15 us for each page.

        Args:
            pages: Of all rows.
            nireq: Infer requests of the version at each worker.
        """
        rows = [page[:FIRST_FREE_WORD].tolist() for page in pages]
        # A worker hands its threads tasks ahead of those that run.
        active = sum(min(nireq, max(0, row[TAKEN] - row[NOT_RUN] - row[EXECUTIONS])) for row in rows)
        return cls([*map(sum, zip(*rows, strict=True))] or [0] * FIRST_FREE_WORD, active)

    def succeeded(self, call: str, interface: str) -> int:
        """Calls that succeeded."""
        return self.words[call_word(call, interface)]

    def failed(self, call: str, interface: str) -> int:
        """Calls that got an error, or whose client has gone."""
        return self.words[call_word(call, interface) + 1]

    @property
    def current(self) -> int:
        """Requests for inference that are under way. Rows are read one after another, so it may be off for a moment."""
        words = self.words
        return max(0, words[BEGUN] - words[LEFT] - sum(words[word] for word in _ENDED_WORDS))

    def buckets(self, first: int) -> Sequence[int]:
        """The buckets that begin at this word."""
        return self.words[first : first + BUCKETS]

    def request_sum_ns(self, interface: str) -> int:
        """The sum that belongs to buckets of requests."""
        return self.words[REQUEST_TIME[interface] + BUCKETS]
