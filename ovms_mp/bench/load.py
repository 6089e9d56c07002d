# SPDX-License-Identifier: Apache-2.0
"""What a load is, and the record of what became of it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import msgspec

from ovms_mp.bench.endpoint import Endpoint, Trust
from ovms_mp.bench.schedule import Arrivals
from ovms_mp.bench.wire_client import WireRequest

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


class Load(msgspec.Struct, frozen=True, kw_only=True):
    """A load to apply.

    Attributes:
        in_flight: Of a closed loop: how many requests are under way at any time; 0 for an open loop.
        rate_per_s: Of an open loop: how many are sent, whatever is answered.
        connections: Over REST at least one for each request in flight.
        warmup_s: Before what is counted.
        timeout_s: After which a request has failed.
    """

    endpoint: Endpoint
    request: WireRequest
    trust: Trust = Trust()
    in_flight: int = 0
    rate_per_s: float = 0.0
    arrivals: Arrivals = "poisson"
    connections: int = 1
    warmup_s: float = 1.0
    seconds: float = 5.0
    timeout_s: float = 30.0

    @property
    def total_s(self) -> float:
        """How long requests are sent."""
        return self.warmup_s + self.seconds


@dataclass(frozen=True, slots=True, kw_only=True)
class Observed:
    """Every request of a load; times are in seconds from its beginning.

    Attributes:
        intended_s: When each was to be sent, by the schedule; in a closed loop when it was sent.
        sent_s: When it left.
        ended_s: When its answer was complete; NaN where there was none until the end.
        codes: For each an index into ``outcomes``.
        outcomes: Empty for an answer, else a code for people.
        answer_bytes: Mean size of the answers.
        cpu_share: Processor time of what made the load, in cores.
        processes: How many made it.
        generator: ``h2load`` or ``own``.
        is_cut: Whether it was ended early.
        held_back: Requests that waited for a free connection.
        unfinished: Requests that were under way at the end; ``answer_bytes`` may have some of their answers.
    """

    intended_s: NDArray[np.float64]
    sent_s: NDArray[np.float64]
    ended_s: NDArray[np.float64]
    codes: NDArray[np.uint16]
    outcomes: tuple[str, ...]
    answer_bytes: float
    cpu_share: float
    processes: int
    generator: str
    is_cut: bool
    held_back: int = 0
    unfinished: int = 0

    @property
    def answers(self) -> int:
        """How many good answers came, those of the warm-up among them."""
        return int(((self.codes == 0) & (self.ended_s == self.ended_s)).sum())
