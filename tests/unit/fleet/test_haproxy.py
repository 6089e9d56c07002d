# SPDX-License-Identifier: Apache-2.0
"""What HAProxy is told when servers come and go."""

from __future__ import annotations

from ovms_mp.fleet.haproxy import ANY, Entry, Place, backend_of, commands, configuration

ONE, TWO = (
    Place(host="10.0.0.1", port=9001, rest_port=8001),
    Place(host="10.0.0.2", port=9002, rest_port=8002),
)
ENTRY = Entry(port=8000, slots=2)


def told(before: tuple[object, object], after: tuple[object, object]) -> list[str]:
    return list(commands(["m"], before, after))  # type: ignore[arg-type]  # dictionaries of the right kind


def routes(*slots: int) -> dict[str, frozenset[int]]:
    return {ANY: frozenset(slots), "m": frozenset(slots)}


def test_nothing_is_said_where_nothing_changes() -> None:
    assert told(({1: ONE}, routes(1)), ({1: ONE}, routes(1))) == []


def test_a_server_that_comes_has_its_addresses_before_it_gets_requests() -> None:
    lines = told(({}, routes()), ({1: ONE}, routes(1)))

    assert lines[:3] == [
        "set server any-grpc/s1 addr 10.0.0.1 port 9001",
        "set server any-grpc/s1 check-addr 10.0.0.1 port 8001",
        "set server any-grpc/s1 state ready",
    ]
    assert "set server any-rest/s1 addr 10.0.0.1 port 8001" in lines
    assert f"set server {backend_of('m')}-grpc/s1 state ready" in lines


def test_a_server_that_goes_gets_no_more_requests_from_any_backend() -> None:
    lines = told(({1: ONE}, routes(1)), ({1: ONE}, routes()))

    assert sorted(lines) == sorted(
        f"set server {backend}-{protocol}/s1 state maint"
        for backend in ("any", backend_of("m"))
        for protocol in ("grpc", "rest")
    )


def test_a_slot_is_emptied_before_another_server_has_it() -> None:
    lines = [line for line in told(({1: ONE}, routes(1)), ({1: TWO}, routes(1))) if "any-rest" in line]

    assert lines == [
        "set server any-rest/s1 state maint",
        "set server any-rest/s1 addr 10.0.0.2 port 8002",
        "set server any-rest/s1 state ready",
    ]


def test_a_server_without_a_model_gets_no_requests_for_it() -> None:
    after = {ANY: frozenset({1, 2}), "m": frozenset({2})}
    lines = told(({1: ONE, 2: TWO}, routes(1, 2)), ({1: ONE, 2: TWO}, after))

    assert lines == [
        f"set server {backend_of('m')}-{protocol}/s1 state maint" for protocol in ("grpc", "rest")
    ]


def test_the_file_has_the_servers_that_a_new_process_begins_with() -> None:
    lines = configuration(ENTRY, ["m"], {1: ONE, 2: TWO}, {ANY: frozenset({1})}, "/run/s").splitlines()

    assert "  server s1 10.0.0.1:9001 proto h2 tcp-ut 3s check check-proto h1 port 8001" in lines
    assert "  server s2 10.0.0.2:8002 tcp-ut 3s track any-grpc/s2 disabled" in lines
    assert "  bind *:8000" in lines


def test_any_name_of_a_model_is_one_of_a_backend() -> None:
    assert backend_of("org/modèle b") == "m-6F72672F6D6F64C3A86C652062"
    assert backend_of(ANY) != backend_of("any")
