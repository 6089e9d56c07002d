# SPDX-License-Identifier: Apache-2.0
"""Which worker gets which cores, on any machine."""

from __future__ import annotations

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from ovms_mp.child.specs import CpuShare
from ovms_mp.manager.workers.cpu_plan import Machine, divide_cores, make_plan


def machine(
    nodes: int = 1, physical: int = 4, threads: int = 1, quota: float | None = None, first: int = 0
) -> Machine:
    """As Linux numbers cores: the first threads of all physical cores, then the second ones."""
    total = nodes * physical
    siblings: dict[int, tuple[int, ...]] = {}
    by_node: list[list[int]] = [[] for _ in range(nodes)]
    for core in range(total):
        group = tuple(first + core + total * thread for thread in range(threads))
        siblings |= dict.fromkeys(group, group)
        by_node[core // physical].extend(group)
    return Machine(tuple(sorted(siblings)), tuple(tuple(sorted(node)) for node in by_node), siblings, quota)


MACHINES = st.builds(
    machine,
    nodes=st.integers(1, 4),
    physical=st.integers(1, 8),
    threads=st.integers(1, 4),
    first=st.integers(0, 3),
)
HOLED = st.builds(
    # A cpuset may leave any cores of the machine.
    lambda whole, kept: _narrowed(whole, kept),
    MACHINES,
    st.sets(st.integers(0, 40), min_size=1),
)


def _narrowed(whole: Machine, kept: set[int]) -> Machine:
    cores = tuple(core for index, core in enumerate(whole.cores) if index in kept) or whole.cores[:1]
    nodes = [tuple(core for core in node if core in cores) for node in whole.nodes]
    siblings = {
        core: tuple(other for other in group if other in cores)
        for core, group in whole.siblings.items()
        if core in cores
    }
    return Machine(cores, tuple(node for node in nodes if node), siblings)


# Division.


@given(whole=st.one_of(MACHINES, HOLED), count=st.integers(1, 40))
def test_parts_are_disjoint_and_cover_the_machine_equally(whole: Machine, count: int) -> None:
    count = min(count, len(whole.cores))
    parts = divide_cores(whole, count)

    assert len(parts) == count
    assert sorted(core for part in parts for core in part) == list(whole.cores)
    sizes = [len(part) for part in parts]
    assert max(sizes) - min(sizes) <= 1
    assert min(sizes) >= 1
    assert all(list(part) == sorted(part) for part in parts)


@given(whole=MACHINES, count=st.integers(1, 32))
def test_no_node_is_split_where_workers_and_nodes_divide_evenly(whole: Machine, count: int) -> None:
    count = min(count, len(whole.cores))
    nodes = len(whole.nodes)
    assume(nodes % count == 0 or (count % nodes == 0))
    for part in divide_cores(whole, count):
        touched = [set(node) for node in whole.nodes if set(node) & set(part)]
        if count >= nodes:
            assert len(touched) == 1
        else:
            assert set(part) == set[int]().union(*touched)


@given(whole=MACHINES, count=st.integers(1, 32))
def test_no_physical_core_is_split_where_they_divide_evenly(whole: Machine, count: int) -> None:
    physical = len(set(whole.siblings.values()))
    assume(count <= physical and physical % count == 0)
    for part in divide_cores(whole, count):
        for core in part:
            assert set(whole.siblings[core]) <= set(part)


@given(whole=st.one_of(MACHINES, HOLED), count=st.integers(1, 32))
def test_each_cut_splits_at_most_one_physical_core(whole: Machine, count: int) -> None:
    count = min(count, len(whole.cores))
    parts = [set(part) for part in divide_cores(whole, count)]
    split = [
        group for group in set(whole.siblings.values()) if sum(bool(part & set(group)) for part in parts) > 1
    ]

    assert len(split) <= count - 1


@pytest.mark.parametrize(
    ("whole", "count", "parts"),
    [
        (machine(1, 2), 1, [(0, 1)]),
        (machine(1, 2), 2, [(0,), (1,)]),
        (machine(1, 4), 3, [(0,), (1,), (2, 3)]),
        (machine(1, 2, 2), 2, [(0, 2), (1, 3)]),
        (machine(2, 2, 2), 2, [(0, 1, 4, 5), (2, 3, 6, 7)]),
        (machine(2, 2, 2), 4, [(0, 4), (1, 5), (2, 6), (3, 7)]),
        (Machine((1, 5, 9), ((1, 9), (5,)), {1: (1,), 5: (5,), 9: (9,)}), 2, [(1,), (5, 9)]),
        # What the kernel does not say about a core does not lose the core.
        (Machine((0, 1, 2), (), {}), 3, [(0,), (1,), (2,)]),
    ],
)
def test_division(whole: Machine, count: int, parts: list[tuple[int, ...]]) -> None:
    assert divide_cores(whole, count) == parts


# The plan.


def test_one_worker_has_the_whole_machine_and_may_pin() -> None:
    made = make_plan(machine(1, 4), ["CPU"], 1)

    assert made.shares == {"CPU": (CpuShare((0, 1, 2, 3), 0, is_pinning_safe=True),)}
    assert made.lines[0] == "machine: 4 cores (0-3), 1 NUMA node, no CPU quota"
    assert "may pin" in made.lines[1]
    assert made.lines[2] == "CPU worker 0: cores 0-3, 4 threads at most"


def test_two_workers_have_half_each_and_may_pin() -> None:
    made = make_plan(machine(2, 2), ["CPU"], 2)

    assert made.shares["CPU"] == (CpuShare((0, 1), 0), CpuShare((2, 3), 0))
    assert made.lines[0].startswith("machine: 4 cores (0-3), 2 NUMA nodes")
    assert made.lines[1].startswith("CPU: 2 workers;")
    assert len(made.lines) == 4


def test_more_workers_than_cores_are_not_made() -> None:
    made = make_plan(machine(1, 2), ["CPU"], 9)

    assert [share.cores for share in made.shares["CPU"]] == [(0,), (1,)]


def test_only_the_cpu_itself_has_several_workers() -> None:
    made = make_plan(machine(1, 4), ["AUTO", "CPU", "GPU.1"], 2)

    assert {device: len(shares) for device, shares in made.shares.items()} == {
        "AUTO": 1,
        "CPU": 2,
        "GPU.1": 1,
    }


def test_a_device_that_is_not_the_cpu_is_not_tied_to_cores() -> None:
    made = make_plan(machine(1, 4), ["GPU", "CPU"], 1)

    assert made.shares["GPU"] == (CpuShare((), 0, is_pinning_safe=False),)
    # Nobody else computes on the CPU.
    assert made.shares["CPU"][0].is_pinning_safe
    assert any(line.startswith("GPU: 1 worker, not tied to cores") for line in made.lines)


def test_devices_that_share_the_cpu_do_not_pin() -> None:
    made = make_plan(machine(1, 4), ["CPU", "AUTO:GPU,CPU"], 2)

    assert [share.cores for share in made.shares["CPU"]] == [(0, 1), (2, 3)]
    assert made.shares["AUTO:GPU,CPU"][0].cores == (0, 1, 2, 3)
    assert not any(share.is_pinning_safe for shares in made.shares.values() for share in shares)
    assert "other devices" in "\n".join(made.lines)


@pytest.mark.parametrize(
    ("quota", "workers", "threads"), [(2.5, 1, 2), (2.0, 2, 1), (0.5, 1, 1), (1.5, 4, 1), (3.99, 1, 3)]
)
def test_a_quota_bounds_the_threads_and_forbids_pinning(quota: float, workers: int, threads: int) -> None:
    made = make_plan(machine(1, 4, quota=quota), ["CPU"], workers)

    assert {share.threads for share in made.shares["CPU"]} == {threads}
    assert not any(share.is_pinning_safe for share in made.shares["CPU"])
    assert f"CPU quota of {quota:g} cores" in made.lines[0]
    assert "quota" in made.lines[1]


@pytest.mark.parametrize("quota", [4.0, 64.0])
def test_a_quota_that_is_no_less_than_the_cores_cuts_nothing(quota: float) -> None:
    made = make_plan(machine(1, 4, quota=quota), ["CPU"], 1)

    assert made.shares["CPU"] == (CpuShare((0, 1, 2, 3), 0, is_pinning_safe=True),)


def test_without_devices_there_is_still_a_machine() -> None:
    made = make_plan(machine(1, 1), [], 1)

    assert (made.shares, len(made.lines)) == ({}, 1)


@given(
    whole=HOLED,
    quota=st.one_of(st.none(), st.floats(0.1, 64)),
    devices=st.lists(st.sampled_from(["CPU", "GPU", "AUTO", "HETERO:GPU,CPU", "NPU"]), unique=True),
    workers=st.integers(1, 64),
)
def test_whatever_is_asked_the_plan_is_possible(
    whole: Machine, quota: float | None, devices: list[str], workers: int
) -> None:
    made = make_plan(Machine(whole.cores, whole.nodes, whole.siblings, quota), devices, workers)

    assert list(made.shares) == devices
    for shares in made.shares.values():
        assert shares
        for share in shares:
            assert set(share.cores) <= set(whole.cores)
            assert 0 <= share.threads <= max(len(share.cores), 0)
            if quota is not None and share.threads:
                assert share.threads * len(shares) <= max(quota, len(shares))
    pinned = [share for shares in made.shares.values() for share in shares if share.is_pinning_safe]
    cores = [core for share in pinned for core in share.cores]
    assert len(cores) == len(set(cores)), "two processes may tie threads to one core"


# Device strings.


@pytest.mark.parametrize(
    "device",
    [
        "CPU",
        "CPU.0",
        "AUTO",
        "",
        "AUTO:GPU,CPU",
        "AUTO:CPU.0",
        "MULTI:CPU.0,GPU",
        "HETERO:GPU,CPU.0",
        "AUTO:-GPU",
    ],
)
def test_whatever_computes_on_the_cpu_has_a_share_of_the_cores(device: str) -> None:
    plan = make_plan(machine(physical=2), ["CPU", device], 1)

    assert plan.shares[device] == (CpuShare((0, 1), 0, is_pinning_safe=False),)


@pytest.mark.parametrize(
    "device", ["GPU", "NPU", "NVIDIA", "AUTO:GPU.1,NPU", "BATCH:GPU(4)", "AUTO:-CPU", "CPUX"]
)
def test_what_computes_elsewhere_has_none(device: str) -> None:
    assert make_plan(machine(physical=2), [device], 1).shares[device] == (
        CpuShare((), 0, is_pinning_safe=False),
    )
