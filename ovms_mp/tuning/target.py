# SPDX-License-Identifier: Apache-2.0
"""What best means, as ``--target`` has it."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ovms_mp.errors import ConfigError

if TYPE_CHECKING:
    from ovms_mp.bench.figures import Level

ACCEPTED = "throughput, throughput@IN_FLIGHT, latency, or p99:LIMITms@RATE/s as in p99:50ms@100/s"
_THROUGHPUT = re.compile(r"throughput(?:@(\d{1,5}))?")
_P99 = re.compile(r"p99:(\d{1,6}(?:\.\d+)?)ms@(\d{1,6}(?:\.\d+)?)(?:/s)?")
_LEAST_REQUESTS = 100
"""Of a p99, which is the slowest one then."""
_MOST_MISSING = 0.01


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """A load, and which of its figures counts.

    Attributes:
        figure: ``rate``, ``p50`` or ``p99``.
        in_flight: Of the closed loop; 0 with a rate.
        rate_per_s: Of the open loop.
        limit_ms: What p99 may be.
    """

    figure: str
    in_flight: int = 0
    rate_per_s: float = 0.0
    limit_ms: float = 0.0

    def score(self, level: Level) -> float:
        """The higher the better; 0 where it did not serve."""
        failed = sum(level.errors.values())
        if not level.answered or failed > _MOST_MISSING * (level.answered + failed):
            return 0.0
        return level.rate_per_s if self.figure == "rate" else 1.0 / level.percentile(self.figure)

    def shown(self, score: float) -> str:
        """A score as the figure that it stands for."""
        if not score:
            return "-"
        return f"{score:,.1f}/s" if self.figure == "rate" else f"{1.0 / score:,.2f} ms"

    def is_met(self, score: float) -> bool:
        """Whether the limit is kept; always without one."""
        return not self.limit_ms or (score > 0.0 and 1.0 / score <= self.limit_ms)

    def least_seconds(self) -> float:
        """The shortest run whose figure means something."""
        return _LEAST_REQUESTS / self.rate_per_s if self.rate_per_s else 0.0

    def text(self) -> str:
        """For people."""
        if self.figure == "rate":
            return f"most answers a second with {self.in_flight} requests in flight"
        if self.figure == "p50":
            return "shortest median latency of a request that travels alone"
        return f"lowest p99 with {self.rate_per_s:g} requests a second, at most {self.limit_ms:g} ms"


def parse_target(text: str, cores: int) -> Target:
    """Read ``--target``.

    Args:
        text: As the user wrote it.
        cores: That the server may use: a closed loop keeps four requests for each, and at least 16, in flight.

    Raises:
        ConfigError: It is none of the accepted forms.
    """
    if found := _THROUGHPUT.fullmatch(text):
        in_flight = int(found[1]) if found[1] else max(16, 4 * cores)
        if in_flight:
            return Target(figure="rate", in_flight=in_flight)
    if text == "latency":
        return Target(figure="p50", in_flight=1)
    if (found := _P99.fullmatch(text)) and float(found[1]) and float(found[2]):
        return Target(figure="p99", rate_per_s=float(found[2]), limit_ms=float(found[1]))
    raise ConfigError(f"--target {text!r}; accepted: {ACCEPTED}")
