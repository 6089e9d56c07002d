# SPDX-License-Identifier: Apache-2.0
"""The wanted number of servers."""

from __future__ import annotations

import itertools
import random

import pytest

from ovms_mp.fleet.decisions.observation import ObservedServer, ServerState
from ovms_mp.fleet.decisions.plan import Scaling
from ovms_mp.fleet.decisions.scaling import rescale
from ovms_mp.fleet.decisions.specification import FleetSpec, ServerSpec

SPEC = FleetSpec(models=(), server=ServerSpec(revision="A"), servers_min=2, servers_max=50)


def servers(*utilisations: float | None, queue_depth: float = 0.0) -> list[ObservedServer]:
    return [
        ObservedServer(
            number=number,
            state=ServerState.READY,
            revision="A",
            utilisation=utilisation,
            queue_depth=queue_depth if utilisation is not None else None,
        )
        for number, utilisation in enumerate(utilisations)
    ]


def scaled(wanted: int, seen: list[ObservedServer], times_s: range = range(1000, 1001)) -> int:
    scaling = Scaling(wanted=wanted)
    for time_s in times_s:
        rescale(scaling, SPEC, seen, float(time_s))
    return scaling.wanted


@pytest.mark.parametrize(("utilisation", "wanted"), [(0.6, 4), (0.64, 4), (0.7, 5), (0.9, 6), (1.0, 7)])
def test_more_work_wants_more_servers_at_once(utilisation: float, wanted: int) -> None:
    assert scaled(4, servers(*[utilisation] * 4)) == wanted


def test_requests_that_wait_count() -> None:
    assert scaled(4, servers(*[1.0] * 4, queue_depth=4.0)) == 10
    assert scaled(4, servers(*[1.0] * 4, queue_depth=1000.0)) == scaled(
        4, servers(*[1.0] * 4, queue_depth=8.0)
    )


def test_bounds_hold() -> None:
    assert scaled(0, []) == 2
    assert scaled(60, []) == 50
    assert scaled(40, servers(*[1.0] * 40)) == 50
    assert scaled(4, servers(*[0.0] * 4), range(1000, 3000, 10)) == 2


def test_servers_whose_load_is_not_known_count_like_the_others() -> None:
    assert scaled(6, servers(0.9, None, None, 0.9, None, None)) == 9


def test_while_no_load_is_known_nothing_changes() -> None:
    assert scaled(9, servers(*[None] * 9), range(1000, 5000, 10)) == 9
    assert scaled(9, [], range(1000, 5000, 10)) == 9


def test_what_has_been_needed_lately_is_kept() -> None:
    scaling = Scaling(wanted=10)
    for time_s in range(1000, 3000, 10):
        busy = 0.55 if time_s % 250 == 0 else 0.1
        rescale(scaling, SPEC, servers(*[busy] * 10), float(time_s))

    assert scaling.wanted == 10


def test_a_reduction_goes_in_steps() -> None:
    scaling, seen = Scaling(wanted=40), []
    for time_s in range(0, 2000, 10):
        rescale(scaling, SPEC, servers(*[0.06] * 40), float(time_s))
        seen.append(scaling.wanted)

    steps = [earlier - later for earlier, later in itertools.pairwise(seen)]
    assert max(steps) == 4
    assert seen[-1] == 4


def test_steady_noisy_load_ends_in_one_number() -> None:
    noise = random.Random(1)
    scaling, seen = Scaling(wanted=20), []
    demand = 13.0
    for time_s in range(1000, 20000, 10):
        share = demand / scaling.wanted * noise.gauss(1.0, 0.05)
        rescale(scaling, SPEC, servers(*[min(1.0, share)] * scaling.wanted), float(time_s))
        seen.append(scaling.wanted)

    assert len(set(seen[100:])) == 1
