# SPDX-License-Identifier: Apache-2.0
"""What probes are told, as the manager speaks or is silent and snapshots change."""

from __future__ import annotations

import asyncio

import pytest

from ovms_mp.errors import ModelNotFound, VersionNotFound
from ovms_mp.front.readiness import Readiness
from ovms_mp.front.routing import NO_SNAPSHOT, RoutingTable
from ovms_mp.model.status import State
from ovms_mp.wire.messages import RoutingSnapshot
from ovms_mp.wire.records import ModelRecord, VersionRecord

SECOND = 10**9
PATIENCE_S = 10.0


def version(number: int, state: State, *endpoints: str) -> VersionRecord:
    return VersionRecord(number, state, 0, "", number, endpoints, 1, "", (), ())


def table(
    *versions: VersionRecord, default: int = 1, is_draining: bool = False, unready: str = ""
) -> RoutingTable:
    models = (ModelRecord("m", default, versions),)
    return RoutingTable(RoutingSnapshot(1, is_draining, (), (), models, unready=unready))


class Clock:
    """Stands still."""

    ns = 5 * SECOND

    def __call__(self) -> int:
        """The time."""
        return self.ns


@pytest.fixture
def clock() -> Clock:
    return Clock()


def test_a_silent_manager_is_not_live_until_it_speaks_again(clock: Clock) -> None:
    readiness = Readiness(RoutingTable(NO_SNAPSHOT), PATIENCE_S, clock)
    clock.ns += 10 * SECOND
    assert not readiness.why_not_live()
    clock.ns += SECOND
    assert (
        readiness.why_not_live() == "the manager process has said nothing for 11.0 s (--heartbeat_timeout_s)"
    )
    readiness.hear()
    assert readiness.is_live


def test_a_device_that_is_lost_is_not_live(clock: Clock) -> None:
    readiness = Readiness(table(), PATIENCE_S, clock)
    readiness.note_lost_devices(("GPU.0", "NPU"))
    assert readiness.why_not_live() == "no inference worker can be started for GPU.0, NPU"
    readiness.note_lost_devices(())
    assert readiness.is_live


def test_a_server_is_ready_when_its_manager_says_so_and_live_before_that(clock: Clock) -> None:
    readiness = Readiness(RoutingTable(NO_SNAPSHOT), PATIENCE_S, clock)
    assert (readiness.is_live, readiness.is_ready) == (True, False)
    readiness.replace_table(table(unready="loading"))
    assert readiness.why_not_ready() == "loading"
    readiness.replace_table(table())
    assert readiness.is_ready
    readiness.replace_table(table(is_draining=True))
    assert readiness.why_not_ready() == "the server is stopping"
    assert readiness.is_live


def test_models(clock: Clock) -> None:
    versions = (version(1, State.AVAILABLE, "e"), version(2, State.LOADING), version(3, State.AVAILABLE))
    readiness = Readiness(table(*versions, unready="others are missing"), PATIENCE_S, clock)

    assert readiness.is_model_ready("m", 0)
    assert readiness.is_model_ready("m", 1)
    assert readiness.why_model_not_ready("m", 2) == "version 2 of model 'm' is not available: state LOADING"
    assert not readiness.is_model_ready("m", 3), "no worker has it"
    with pytest.raises(VersionNotFound, match=r"known versions: \[1, 2, 3\]"):
        readiness.is_model_ready("m", 4)
    with pytest.raises(ModelNotFound):
        readiness.is_model_ready("other", 0)

    readiness.replace_table(table(*versions, is_draining=True))
    assert not readiness.is_model_ready("m", 1)


def test_a_model_without_anything_to_default_to_is_not_ready(clock: Clock) -> None:
    readiness = Readiness(table(default=0), PATIENCE_S, clock)
    assert readiness.why_model_not_ready("m", 0) == "model 'm' has no version that is available"


def test_who_waits_hears_of_each_snapshot(clock: Clock) -> None:
    async def run() -> None:
        readiness = Readiness(table(), PATIENCE_S, clock)
        for _ in range(2):
            waiting = asyncio.ensure_future(readiness.wait_for_change())
            await asyncio.sleep(0)
            assert not waiting.done()
            readiness.replace_table(table())
            await asyncio.wait_for(waiting, 1.0)

    asyncio.run(run())
