# SPDX-License-Identifier: Apache-2.0
"""What servers are told of their fleet is short, however large that is, and has first what is not well."""

from __future__ import annotations

import msgspec
import pytest

from ovms_mp.wire.fleet_status import MOST_BYTES, FleetEntry, FleetStatus, abridged
from tests.support.fleet_page import NEW, OLD, held, server, status


def told(given: dict[str, object]) -> FleetStatus:
    text = abridged(given)
    assert len(text) <= MOST_BYTES
    return msgspec.json.decode(text, type=FleetStatus)


def test_a_small_fleet_is_told_of_whole() -> None:
    seen = told(status(8))

    assert (seen.fleet, seen.wanted, seen.count, seen.ready, seen.is_settled) == ("sightings", 8, 8, 3, False)
    assert seen.entries == (
        FleetEntry(host="10.0.0.1", port=8000),
        FleetEntry(error="HAProxy does not start"),
    )
    assert [each.number for each in seen.servers] == list(range(1, 9))
    first = seen.servers[0]
    assert (first.host, first.port, first.rest_port, first.state) == ("10.0.0.1", 9000, 8000, "ready")
    assert [(model.name, model.served) for model in first.models] == [(f"model-{n}", NEW) for n in range(3)]
    assert first.hidden_models == 0


def test_a_server_without_a_machine_has_no_figures() -> None:
    given = status(0) | {"servers": [server(5, "pending", 0)], "entries": [], "notes": []}
    (seen,) = told(given).servers

    assert (seen.host, seen.port, seen.utilisation, seen.used_bytes, seen.models) == ("", 0, None, None, ())


@pytest.mark.parametrize(("servers", "models"), [(30, 50), (500, 1), (500, 300)])
def test_a_large_one_is_told_of_in_part(servers: int, models: int) -> None:
    given = status(servers, models)
    for each in given["servers"]:
        each["state"] = "ready"
    given["servers"][-1]["state"] = "unready"
    seen = told(given)

    assert (seen.count, seen.ready) == (servers, servers - 1)
    assert seen.servers[-1].number == servers, "the one that is not ready is there"
    assert [each.number for each in seen.servers] == sorted(each.number for each in seen.servers)
    assert all(len(each.models) + each.hidden_models == models for each in seen.servers)


def test_models_that_are_not_well_come_first() -> None:
    odd = server(1, "ready", 40)
    odd["models"]["zz-loading"] = held(OLD)
    odd["models"]["zz-failed"] = held(NEW, "it is broken")
    (seen,) = told(status(0) | {"servers": [odd]}).servers

    assert [model.name for model in seen.models[:3]] == ["zz-failed", "zz-loading", "model-0"]
    assert seen.hidden_models == 26


def test_long_texts_are_cut() -> None:
    long = "\x01" * 10_000  # JSON has six characters for each.
    many = [{**server(number, long, 20), "host": long, "revision": long} for number in range(500)]
    for each in many:
        each["models"] = {f"{number}{long}": held(long, long) for number in range(20)}
    given = status(0) | {"fleet": long, "servers": many, "notes": [long] * 100, "revision": long}
    seen = told(given | {"entries": [{"error": long}] * 100})

    assert seen.fleet.endswith("\x01…")
    assert len(seen.servers) == 2
    assert seen.count == 500
