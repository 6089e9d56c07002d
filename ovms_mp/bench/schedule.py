# SPDX-License-Identifier: Apache-2.0
"""When requests of an open loop are sent: fixed before the first of them, whatever the server does then."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

Arrivals = Literal["poisson", "even"]
"""As of many clients that know nothing of each other, or one after the other in equal steps."""


def arrival_times(
    rate_per_s: float, seconds: float, arrivals: Arrivals, *, part: int = 0, parts: int = 1
) -> NDArray[np.float64]:
    """Times from the beginning, in seconds, ascending and below ``seconds``.

    Args:
        rate_per_s: Of all parts together.
        seconds: Length of the load.
        arrivals: How they are spread.
        part: Which of several processes this is for; the same part always has the same times.
        parts: How many there are. Parts of a Poisson process are Poisson processes, so that each draws its own.
    """
    if arrivals == "even":
        numbers = np.arange(part, int(np.ceil(rate_per_s * seconds)), parts, dtype=np.int64)
        every: NDArray[np.float64] = numbers / rate_per_s
        return every[every < seconds]
    own_rate = rate_per_s / parts
    random = np.random.default_rng(part)
    # Given their number, the arrivals of a Poisson process are independent and uniform.
    count = random.poisson(own_rate * seconds)
    return np.sort(random.uniform(0.0, seconds, count))
