# SPDX-License-Identifier: Apache-2.0
"""What the machine is read to be, from made-up ``/proc`` and ``/sys`` trees."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from ovms_mp.manager.workers.machine import read_machine, read_quota

if TYPE_CHECKING:
    from pathlib import Path


def write(root: Path, path: str, text: str) -> None:
    place = root / path
    place.parent.mkdir(parents=True, exist_ok=True)
    place.write_text(text)


def unified(root: Path, limits: dict[str, str], path: str = "/user.slice/app.service") -> Path:
    """A tree of cgroup v2; limits by the directory below the mount."""
    write(root, "proc/self/cgroup", f"0::{path}\n")
    for place, text in limits.items():
        write(root, f"sys/fs/cgroup{place}/cpu.max", text)
    return root


def legacy(root: Path, limits: dict[str, tuple[str, str]], path: str = "/docker/abc") -> Path:
    """A tree of cgroup v1."""
    write(root, "proc/self/cgroup", f"12:memory:{path}\n4:cpu,cpuacct:{path}\n1:name=systemd:{path}\n")
    for place, (quota, period) in limits.items():
        write(root, f"sys/fs/cgroup/cpu{place}/cpu.cfs_quota_us", quota)
        write(root, f"sys/fs/cgroup/cpu{place}/cpu.cfs_period_us", period)
    return root


# cgroup v2.


def test_a_quota_of_the_own_group(tmp_path: Path) -> None:
    unified(tmp_path, {"/user.slice/app.service": "250000 100000\n"})

    assert read_quota(tmp_path) == 2.5


@pytest.mark.parametrize(
    "text", ["max 100000\n", "max\n", "", "garbage\n", "100000\n", "1 0\n", "-1 100000\n"]
)
def test_what_is_no_quota(tmp_path: Path, text: str) -> None:
    unified(tmp_path, {"/user.slice/app.service": text})

    assert read_quota(tmp_path) is None


def test_the_least_of_all_parents_holds(tmp_path: Path) -> None:
    unified(
        tmp_path,
        {
            "/user.slice/app.service": "400000 100000\n",
            "/user.slice": "150000 100000\n",
            "": "max 100000\n",
        },
    )

    assert read_quota(tmp_path) == 1.5


def test_a_container_sees_its_own_group_at_the_mount(tmp_path: Path) -> None:
    # With a private cgroup namespace the path is "/"; without one it is the host's, which is not there.
    unified(tmp_path, {"": "50000 100000\n"}, path="/docker/0123")

    assert read_quota(tmp_path) == 0.5


@pytest.mark.parametrize("path", ["/", "/../..", "/../../etc"])
def test_a_path_above_the_mount_is_taken_for_the_mount(tmp_path: Path, path: str) -> None:
    unified(tmp_path, {"": "300000 100000\n"}, path=path)

    assert read_quota(tmp_path) == 3.0


def test_groups_of_others_do_not_count(tmp_path: Path) -> None:
    unified(
        tmp_path,
        {
            "/user.slice/app.service": "max 100000\n",
            "/user.slice/other.service": "10000 100000\n",
            "/user.slice/app.service/child": "10000 100000\n",
        },
    )

    assert read_quota(tmp_path) is None


# cgroup v1.


def test_a_legacy_quota(tmp_path: Path) -> None:
    legacy(tmp_path, {"/docker/abc": ("150000\n", "100000\n"), "": ("-1\n", "100000\n")})

    assert read_quota(tmp_path) == 1.5


def test_a_legacy_group_of_a_container(tmp_path: Path) -> None:
    legacy(tmp_path, {"": ("50000\n", "25000\n")})

    assert read_quota(tmp_path) == 2.0


@pytest.mark.parametrize("limit", [("-1\n", "100000\n"), ("100000\n", "0\n"), ("x\n", "100000\n"), ("", "")])
def test_no_legacy_quota(tmp_path: Path, limit: tuple[str, str]) -> None:
    legacy(tmp_path, {"/docker/abc": limit})

    assert read_quota(tmp_path) is None


def test_both_generations_at_once(tmp_path: Path) -> None:
    legacy(tmp_path, {"/docker/abc": ("300000\n", "100000\n")})
    text = (tmp_path / "proc/self/cgroup").read_text()
    write(tmp_path, "proc/self/cgroup", text + "0::/docker/abc\n")
    write(tmp_path, "sys/fs/cgroup/docker/abc/cpu.max", "200000 100000\n")

    assert read_quota(tmp_path) == 2.0


# Neither.


@pytest.mark.parametrize("text", [None, "", "\n", "nonsense", "0:", ":::", "4:cpuset:/a\n", "0::\n"])
def test_without_cgroups_there_is_no_quota(tmp_path: Path, text: str | None) -> None:
    if text is not None:
        write(tmp_path, "proc/self/cgroup", text)
    write(tmp_path, "sys/fs/cgroup/cpu/cpu.cfs_period_us", "100000\n")

    assert read_quota(tmp_path) is None


# The machine.


@pytest.fixture
def eight(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Two nodes of two physical cores with two threads each, of which core 7 is not ours."""
    monkeypatch.setattr(os, "sched_getaffinity", lambda _pid: {0, 1, 2, 3, 4, 5, 6})
    write(tmp_path, "sys/devices/system/node/node0/cpulist", "0-1,4-5\n")
    write(tmp_path, "sys/devices/system/node/node1/cpulist", "2-3,6-7\n")
    write(tmp_path, "sys/devices/system/node/node2/cpulist", "\n")
    write(tmp_path, "sys/devices/system/node/possible", "0-2\n")
    for core in range(8):
        group = f"{core % 4},{core % 4 + 4}\n"
        write(tmp_path, f"sys/devices/system/cpu/cpu{core}/topology/thread_siblings_list", group)
    return tmp_path


def test_what_is_there_and_ours(eight: Path) -> None:
    machine = read_machine(eight)

    assert machine.cores == (0, 1, 2, 3, 4, 5, 6)
    assert machine.nodes == ((0, 1, 4, 5), (2, 3, 6))
    assert machine.siblings == {0: (0, 4), 4: (0, 4), 1: (1, 5), 5: (1, 5), 2: (2, 6), 6: (2, 6), 3: (3,)}
    assert machine.quota_cores is None


def test_its_quota(eight: Path) -> None:
    unified(eight, {"": "350000 100000\n"})

    assert read_machine(eight).quota_cores == 3.5


def test_a_machine_that_says_nothing_is_one_node_of_single_cores(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _pid: {3, 1})
    machine = read_machine(tmp_path)

    assert (machine.cores, machine.nodes) == ((1, 3), ((1, 3),))
    assert machine.siblings == {1: (1,), 3: (3,)}


def test_this_machine() -> None:
    machine = read_machine()

    assert set(machine.cores) == os.sched_getaffinity(0)
    assert {core for node in machine.nodes for core in node} == set(machine.cores)
    assert all(core in machine.siblings[core] for core in machine.cores)
    assert machine.quota_cores is None or machine.quota_cores > 0


# Memory.
