# SPDX-License-Identifier: Apache-2.0
"""What HAProxy is told when servers come and go."""

from __future__ import annotations

from ovms_mp.fleet.haproxy import ANY, Entry, Place, Table, backend_of, commands, configuration

ONE, TWO = (
    Place(host="10.0.0.1", port=9001, rest_port=8001),
    Place(host="10.0.0.2", port=9002, rest_port=8002),
)


def table(any_server: dict[int, Place], with_model: dict[int, Place] | None = None) -> Table:
    routes = {ANY: any_server, "m": any_server if with_model is None else with_model}
    return Table(entry=Entry(port=8000), slots=2, routes=routes)


def told(before: Table, after: Table) -> list[str]:
    return commands(before, after)


def test_nothing_is_said_where_nothing_changes() -> None:
    assert told(table({1: ONE}), table({1: ONE})) == []


def test_a_server_that_comes_has_its_addresses_before_it_gets_requests() -> None:
    lines = told(table({}), table({1: ONE}))

    assert [line for line in lines if "any-grpc" in line] == [
        "set server any-grpc/s1 addr 10.0.0.1 port 9001",
        "set server any-grpc/s1 check-addr 10.0.0.1 port 8001",
        "set server any-grpc/s1 state ready",
    ]
    assert "set server any-rest/s1 addr 10.0.0.1 port 8001" in lines
    assert f"set server {backend_of('m')}-grpc/s1 state ready" in lines


def test_servers_change_over_between_two_commands_to_what_all_backends_track() -> None:
    lines = told(table({1: ONE}), table({2: TWO}))
    last = lines.index("set server any-grpc/s2 state ready")

    assert lines[last + 1] == "set server any-grpc/s1 state maint"
    assert not any("maint" in line for line in lines[:last])
    assert all("/s1 state maint" in line for line in lines[last + 1 :])


def test_a_server_that_goes_gets_no_more_requests_from_any_backend() -> None:
    lines = told(table({1: ONE}), table({}))

    assert sorted(lines) == sorted(
        f"set server {backend}-{protocol}/s1 state maint"
        for backend in ("any", backend_of("m"))
        for protocol in ("grpc", "rest")
    )


def test_slots_are_emptied_before_other_servers_have_them() -> None:
    lines = [line for line in told(table({2: ONE}), table({1: ONE, 2: TWO})) if "any-rest" in line]

    assert lines == [
        "set server any-rest/s2 state maint",
        "set server any-rest/s1 addr 10.0.0.1 port 8001",
        "set server any-rest/s2 addr 10.0.0.2 port 8002",
        "set server any-rest/s1 state ready",
        "set server any-rest/s2 state ready",
    ]


def test_a_server_without_a_model_gets_no_requests_for_it() -> None:
    both = {1: ONE, 2: TWO}

    assert sorted(told(table(both), table(both, {2: TWO}))) == [
        f"set server {backend_of('m')}-{protocol}/s1 state maint" for protocol in ("grpc", "rest")
    ]


def test_the_file_has_the_servers_that_a_new_process_begins_with() -> None:
    lines = configuration(table({1: ONE}), "/run/s").splitlines()

    assert "  server s1 10.0.0.1:9001 proto h2 tcp-ut 3s check check-proto h1 port 8001" in lines
    assert "  server s2 127.0.0.1:1 tcp-ut 3s track any-grpc/s2 disabled" in lines
    assert "  bind *:8000" in lines


def test_any_name_of_a_model_is_one_of_a_backend() -> None:
    assert backend_of("org/modèle b") == "m-6F72672F6D6F64C3A86C652062"
    assert backend_of(ANY) != backend_of("any")
