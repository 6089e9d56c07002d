# SPDX-License-Identifier: Apache-2.0
"""How many of the tasks that wait run together: what costs least for each, by what runs were measured to take. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from ovms_mp.model.batching import AUTO_BATCHING

if TYPE_CHECKING:
    from collections.abc import Mapping

_AUTO_SIZES: Final = (2, 4, 8, 16, 32)
"""PERF: MLP of 5.4 M weights, CPU with bf16: 8.0 times a lone run's rate at 16, 8.4 at 32."""
LEAST_GAIN: Final = 1.15
"""Less is within what a machine's other work changes."""
HANDLING_S: Final = 0.0001
"""What a request takes front and worker besides its run, in a batch or not: where runs are much quicker, little is left
to gain. PERF: a model of 11 us made 12,200/s in batches and makes 14,700 one by one, 16 in flight."""


def sizes_to_try(batching: int) -> tuple[int, ...]:
    """Sizes by the setting; a run has one of these, and its last places are empty where fewer wait."""
    if batching == AUTO_BATCHING:
        return _AUTO_SIZES
    doubled = [1 << power for power in range(1, batching.bit_length())]
    return tuple(sorted({*(size for size in doubled if size < batching), batching}))


def useful_sizes(single_s: float, costs_s: Mapping[int, float], least_gain: float) -> dict[int, float]:
    """Those up to the size with the best rate; none where even that is not better by it, all else included.

    Args:
        single_s: What a task takes by itself.
        costs_s: What a run of each size takes.
        least_gain: Factor of the rate.
    """
    if not costs_s:
        return {}
    best = min(costs_s, key=lambda size: costs_s[size] / size)
    if gain_of(single_s, best, costs_s[best]) < least_gain:
        return {}
    return {size: cost_s for size, cost_s in sorted(costs_s.items()) if size <= best}


def gain_of(single_s: float, size: int, cost_s: float) -> float:
    """How many times as many requests are answered when so many run together, by what they take in all."""
    return (single_s + HANDLING_S) / (cost_s / size + HANDLING_S)


class BatchPlan:
    """For one compiled model."""

    def __init__(self, single_s: float, costs_s: Mapping[int, float]) -> None:
        """Make the table.

        Args:
            single_s: What a task takes by itself.
            costs_s: What a run of each size takes; not empty.
        """
        self.sizes = tuple(sorted(costs_s))
        self.gain = max(gain_of(single_s, size, cost_s) for size, cost_s in costs_s.items())
        best, best_s = 1, single_s
        self._most = [1, 1]
        for count in range(2, self.sizes[-1] + 1):
            each_s = costs_s[self.size_of(count)] / count
            if each_s <= best_s:
                best, best_s = count, each_s
            self._most.append(best)

    def most(self, waiting: int) -> int:
        """How many of so many tasks to run together, so that each costs least."""
        table = self._most
        return table[waiting] if waiting < len(table) else table[-1]

    def size_of(self, count: int) -> int:
        """The size of the run that so many tasks have."""
        return next(size for size in self.sizes if size >= count)
