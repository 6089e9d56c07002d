# SPDX-License-Identifier: Apache-2.0
"""How much memory there is, from made-up ``/proc`` and ``/sys`` trees."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from ovms_mp.child.memory import own_memory_bytes, read_available_memory, read_memory

if TYPE_CHECKING:
    from pathlib import Path

LEGACY = "12:memory:/docker/abc\n4:cpu,cpuacct:/docker/abc\n1:name=systemd:/docker/abc\n"


def write(root: Path, path: str, text: str) -> None:
    place = root / path
    place.parent.mkdir(parents=True, exist_ok=True)
    place.write_text(text)


@pytest.mark.parametrize(
    ("limits", "expected"),
    [
        ({}, 2 << 30),
        ({"/user.slice": "max\n"}, 2 << 30),
        ({"/user.slice/app.service": "1073741824\n", "": "max\n"}, 1 << 30),
        ({"/user.slice/app.service": "max\n", "/user.slice": "536870912\n"}, 512 << 20),
        ({"/user.slice": "9223372036854771712\n"}, 2 << 30),
    ],
)
def test_memory_of_the_machine_or_the_group(tmp_path: Path, limits: dict[str, str], expected: int) -> None:
    write(tmp_path, "proc/self/cgroup", "0::/user.slice/app.service\n")
    write(tmp_path, "proc/meminfo", "MemTotal:        2097152 kB\nMemFree: 1 kB\n")
    for place, text in limits.items():
        write(tmp_path, f"sys/fs/cgroup{place}/memory.max", text)

    assert read_memory(tmp_path) == expected


def test_memory_of_a_legacy_group(tmp_path: Path) -> None:
    write(tmp_path, "proc/self/cgroup", LEGACY)
    write(tmp_path, "proc/meminfo", "MemTotal: 2097152 kB\n")
    write(tmp_path, "sys/fs/cgroup/memory/docker/memory.limit_in_bytes", "1048576\n")

    assert read_memory(tmp_path) == 1 << 20
    assert read_memory(tmp_path / "nothing") > 0


@pytest.mark.parametrize(
    ("files", "expected_mb"),
    [
        ({}, 1024),
        ({"/app/memory.max": "max\n", "/app/memory.current": "5\n"}, 1024),
        ({"/app/memory.max": f"{512 << 20}\n", "/app/memory.current": f"{500 << 20}\n"}, 12),
        (
            {
                "/app/memory.max": f"{512 << 20}\n",
                "/app/memory.current": f"{500 << 20}\n",
                "/app/memory.stat": f"anon 1\ninactive_file {100 << 20}\nactive_file 7\n",
            },
            112,
        ),
        ({"/memory.max": f"{512 << 20}\n", "/memory.current": f"{600 << 20}\n"}, 0),
        ({"/app/memory.max": f"{512 << 20}\n"}, 1024),
        ({"/app/memory.max": f"{8 << 30}\n", "/app/memory.current": "5\n"}, 1024),
    ],
)
def test_memory_that_is_left(tmp_path: Path, files: dict[str, str], expected_mb: int) -> None:
    write(tmp_path, "proc/self/cgroup", "0::/app\n")
    write(tmp_path, "proc/meminfo", "MemTotal: 2097152 kB\nMemFree: 1 kB\nMemAvailable: 1048576 kB\n")
    for name, text in files.items():
        write(tmp_path, f"sys/fs/cgroup{name}", text)

    assert read_available_memory(tmp_path) == expected_mb << 20


def test_memory_that_is_left_to_a_legacy_group(tmp_path: Path) -> None:
    write(tmp_path, "proc/self/cgroup", LEGACY)
    write(tmp_path, "proc/meminfo", "MemAvailable: 2097152 kB\n")
    group = "sys/fs/cgroup/memory/docker"
    write(tmp_path, f"{group}/memory.limit_in_bytes", f"{100 << 20}\n")
    write(tmp_path, f"{group}/memory.usage_in_bytes", f"{90 << 20}\n")
    write(tmp_path, f"{group}/memory.stat", f"inactive_file 3\ntotal_inactive_file {20 << 20}\n")

    assert read_available_memory(tmp_path) == 30 << 20
    assert read_available_memory(tmp_path / "nothing") > 0


def test_a_process_that_is_gone_has_no_memory() -> None:
    assert own_memory_bytes(os.getpid()) > 1 << 20
    assert own_memory_bytes(2**22 + 1) == 0
