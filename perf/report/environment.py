# SPDX-License-Identifier: Apache-2.0
"""What the figures were taken on: machine, versions, commit."""

from __future__ import annotations

import datetime
import importlib.metadata
import os
import platform
import subprocess
import sys
from pathlib import Path

from perf import CHECKOUT
from perf.report.records import SCHEMA, Environment

_PACKAGES = (
    "openvino",
    "numpy",
    "grpcio",
    "protobuf",
    "pyzmq",
    "msgspec",
    "uvloop",
    "falcon",
    "gunicorn",
    "uvicorn",
    "uvicorn-worker",
    "httptools",
    "orjson",
    "pysimdjson",
)

_COMMAND_TIMEOUT_S = 10.0
_UNREADABLE = "unreadable"


def describe_environment() -> Environment:
    """Read the record of this machine and checkout.

    Raises:
        OSError: h2load is not installed (Debian: nghttp2-client).
    """
    return Environment(
        schema=SCHEMA,
        taken_at=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        cpu_model=_cpu_model(),
        cores=os.cpu_count() or 0,
        affinity=tuple(sorted(os.sched_getaffinity(0))),
        cpu_quota=_text(Path("/sys/fs/cgroup/cpu.max")),
        governor=_text(Path("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor")),
        kernel=platform.release(),
        python=sys.version.split()[0],
        h2load=_output("h2load", "--version"),
        commit=_output("git", "rev-parse", "--verify", "HEAD") or "none",
        # Results of earlier runs do not make the measured code another.
        is_dirty=_output("git", "status", "--porcelain", "--", ".", ":!perf/results") != "",
        load_average=os.getloadavg()[0],
        packages=_package_versions(),
        congestion_control=_text(Path("/proc/sys/net/ipv4/tcp_congestion_control")),
    )


def _text(path: Path) -> str:
    try:
        return path.read_text().strip()
    except OSError:
        return _UNREADABLE


def _cpu_model() -> str:
    for line in _text(Path("/proc/cpuinfo")).splitlines():
        key, _, value = line.partition(":")
        if key.strip() == "model name":
            return value.strip()
    return platform.machine()


def _package_versions() -> dict[str, str]:
    found: dict[str, str] = {}
    for name in _PACKAGES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            found[name] = "absent"
    return found


def _output(*command: str) -> str:
    """A short command's output, or "" when it fails (no commit yet, not a checkout)."""
    done = subprocess.run(
        command, capture_output=True, text=True, cwd=CHECKOUT, timeout=_COMMAND_TIMEOUT_S, check=False
    )
    return done.stdout.strip() if done.returncode == 0 else ""
