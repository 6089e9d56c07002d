# SPDX-License-Identifier: Apache-2.0
"""REST bodies that cost more than they look: refused, and a client beside them hardly notices.

The figures need a machine that does nothing else.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.support import rest_client
from tests.support.rest_attacks import BODIES, PACKED, Client, Watch, body_of
from tests.support.server import Server

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.support.models import ModelZoo

pytestmark = [pytest.mark.quiet, pytest.mark.timeout(120)]

TIMES = 2
MOST_GROWTH_MIB = 64
MOST_PROCESSOR_S = 1.0
MOST_SLOWER, LEAST_QUIET_P99_MS = 3, 20.0
"""On a machine of one's own the p99 beside most bodies is below 3 ms, beside a million empty lists 40 ms."""


@pytest.fixture(scope="module")
def server(zoo: ModelZoo, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """One REST front."""
    directory = tmp_path_factory.mktemp("bombed_rest")
    config = zoo.config_file(directory, ["tiny", "id_f32"])
    arguments = ["config", "--config_path", str(config), "--max_body_memory_mb", "64"]
    with Server(arguments, directory / "server.log") as started:
        yield started
        assert "Traceback" not in started.log()


@pytest.fixture(scope="module")
def quiet_ms(server: Server) -> float:
    """The p99 of a client that is alone; at least what a machine's own noise is."""
    with Client(server.rest_port) as quiet:
        quiet.wait_for_answers(500)
    assert not quiet.failures
    return max(quiet.p99_ms(), LEAST_QUIET_P99_MS)


@pytest.mark.parametrize("model", ["tiny", "id_f32"])
@pytest.mark.parametrize("name", BODIES)
def test_a_body_that_takes_more_than_it_looks(name: str, model: str, server: Server, quiet_ms: float) -> None:
    body = body_of(name)
    headers = {"Content-Encoding": "gzip"} if name in PACKED else {}
    pids = server.pids("rest")
    with Client(server.rest_port) as beside, Watch(pids[0]) as front:
        for _ in range(TIMES):
            path = f"/v1/models/{model}:predict"
            reply = rest_client.request(server.rest_port, "POST", path, body, headers)
            assert reply.status in (400, 413), reply.text()
            assert len(reply.body) < 4096
        beside.wait_for_answers()
    print(  # noqa: T201  # the figures
        f"\n{name}, {model}: p99 {quiet_ms:.1f} -> {beside.p99_ms():.1f} ms, +{front.growth_mib} MiB, "
        f"{front.processor_s:.2f} s of processor time, {reply.status}"
    )

    assert server.pids("rest") == pids
    assert not beside.failures
    assert front.growth_mib <= MOST_GROWTH_MIB
    assert front.processor_s <= TIMES * MOST_PROCESSOR_S
    assert beside.p99_ms() <= MOST_SLOWER * quiet_ms
