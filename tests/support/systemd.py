# SPDX-License-Identifier: Apache-2.0
"""A real systemd as PID 1 of a namespace, over a throw-away copy of this machine's root. For root only.

What it and its services write lies in memory and is gone at the end; their network is this machine's. Without the copy
systemd-tmpfiles would empty the machine's own ``/tmp``.
"""

from __future__ import annotations

import importlib.util
import os
import shutil
import signal
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import ovms_mp
from tests.support.waiting import eventually

if TYPE_CHECKING:
    from collections.abc import Sequence
    from types import TracebackType
    from typing import Self

SYSTEMD = Path("/lib/systemd/systemd")
_UNSHARE, _NSENTER = (shutil.which(name) or "" for name in ("unshare", "nsenter"))
BOOT_S = 60.0
PREFIX = "/opt/ovms_mp"
"""Where the program is installed there."""
LIBRARIES = "/opt/python/lib"
"""Where a Python that is not the system's may have its own."""
_PYTHON, _SITE, _SOURCE = "/opt/python", "/opt/site-packages", "/opt/source"

_BOOT = """\
set -eu
base=$1; shift
mount -t tmpfs tmpfs "$base"
mkdir "$base/upper" "$base/work" "$base/root"
mount -t overlay overlay -o "lowerdir=/,upperdir=$base/upper,workdir=$base/work" "$base/root"
cd "$base/root"
for each in sys dev; do mount --rbind "/$each" "$each"; done
mount -t proc proc proc
mount -t tmpfs tmpfs run
mount -t tmpfs tmpfs tmp
mount -t tmpfs tmpfs sys/fs/cgroup
while [ $# -gt 0 ]; do
    mkdir -p "./$2"
    mount --bind "$1" "./$2"
    shift 2
done
export container=tests
mkdir -p .old
# Not chroot: the kernel refuses user namespaces there.
pivot_root . .old
umount -l /.old
# Credentials are mounted by a process of their own. A systemd that finds itself in a container leaves this to it.
mount --make-rshared /
exec /lib/systemd/systemd --system --log-level=err --unit=multi-user.target
"""


def missing() -> str:
    """Why there can be no systemd here; empty if there can."""
    if os.geteuid():
        return "a systemd in a namespace needs root"
    tools = [
        name for name in ("unshare", "nsenter", "systemctl", "systemd-analyze") if not shutil.which(name)
    ]
    if tools or not SYSTEMD.exists():
        return f"not here: {', '.join(tools) or SYSTEMD}"
    tried = subprocess.run(
        [_UNSHARE, "-fpm", "sh", "-c", "mount -t tmpfs tmpfs /mnt"],
        capture_output=True,
        text=True,
        check=False,
    )
    return tried.stderr.strip()


class NotBootedError(Exception):
    """systemd itself cannot run here."""


@dataclass
class Systemd:
    """One booted systemd, with the program installed as users do."""

    base: Path
    """An empty directory of the test."""
    process: subprocess.Popen[bytes] | None = None
    pid: int = 0
    binds: dict[str, str] = field(default_factory=dict)
    """Further directories of this machine by where they are seen there."""

    def __enter__(self) -> Self:
        """Boot."""
        numpy = importlib.util.find_spec("numpy")
        assert numpy is not None
        assert numpy.origin is not None
        binds = {
            _SITE: str(Path(numpy.origin).parents[1]),
            _SOURCE: str(Path(ovms_mp.__file__).parents[1]),
            **self.binds,
        }
        if not sys.base_prefix.startswith("/usr"):
            binds[_PYTHON] = sys.base_prefix
        flat = [word for target, source in binds.items() for word in (source, target.lstrip("/"))]
        script = self.base / "boot.sh"
        script.write_text(_BOOT)
        root = self.base / "base"
        root.mkdir()
        with (self.base / "boot.log").open("wb") as log:
            self.process = subprocess.Popen(
                [_UNSHARE, "-fpm", "--kill-child", "sh", str(script), str(root), *flat],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=log,
                start_new_session=True,
            )
        try:
            self._boot()
            self._install()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """End PID 1, and with it everything."""
        if self.process is not None:
            self.process.send_signal(signal.SIGKILL)
            self.process.wait(30)
            self.process = None

    def _boot(self) -> None:
        try:
            self.pid = eventually(self._first_process, BOOT_S, "PID 1")
            eventually(self._is_booted, BOOT_S, "systemd has booted")
        except AssertionError as error:
            # The kernel or a container may forbid what it needs; nothing of ours runs yet.
            raise NotBootedError(f"{error}; {(self.base / 'boot.log').read_text()}") from None

    def _first_process(self) -> int:
        assert self.process is not None
        assert self.process.poll() is None, (self.base / "boot.log").read_text()
        children = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text().split()
        return (
            int(children[0])
            if children and Path(f"/proc/{children[0]}/comm").read_text() == "systemd\n"
            else 0
        )

    def _is_booted(self) -> bool:
        return self.run("systemctl", "is-system-running").stdout.strip() in ("running", "degraded")

    def _install(self) -> None:
        python = f"{_PYTHON}/bin/python3" if not sys.base_prefix.startswith("/usr") else sys.executable
        self.run(python, "-m", "venv", "--without-pip", PREFIX, check=True)
        version = f"python{sys.version_info.major}.{sys.version_info.minor}"
        self.write(f"{PREFIX}/lib/{version}/site-packages/tests.pth", f"{_SOURCE}\n{_SITE}\n")
        self.write(
            f"{PREFIX}/bin/ovms_mp",
            f"#!{PREFIX}/bin/python3\nimport sys\nfrom ovms_mp.__main__ import main\nsys.exit(main())\n",
        )
        self.run("chmod", "755", f"{PREFIX}/bin/ovms_mp", check=True)

    def run(
        self, *command: str, within_s: float = 60.0, check: bool = False, text: str | None = None
    ) -> subprocess.CompletedProcess[str]:
        """Run a command there as root."""
        done = subprocess.run(
            [_NSENTER, "-t", str(self.pid), "-m", "-p", "-r", "-w", "--", *command],
            input=text,
            stdin=subprocess.DEVNULL if text is None else None,
            capture_output=True,
            text=True,
            timeout=within_s,
            check=False,
            env={"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "LANG": "C.UTF-8", "LD_LIBRARY_PATH": LIBRARIES},
        )
        assert not check or done.returncode == 0, f"{command}: {done.stdout}{done.stderr}"
        return done

    def write(self, path: str, text: str) -> None:
        """Write a file there."""
        self.run("sh", "-c", 'mkdir -p "$(dirname "$0")" && cat > "$0"', path, check=True, text=text)

    def control(self, *words: str, within_s: float = 120.0, check: bool = True) -> str:
        """What ``systemctl`` prints."""
        return self.run("systemctl", *words, within_s=within_s, check=check).stdout

    def properties(self, unit: str, *names: str) -> dict[str, str]:
        """Properties of a unit."""
        lines = self.control("show", unit, *(f"--property={name}" for name in names)).splitlines()
        return dict(line.split("=", 1) for line in lines)

    def journal(self, unit: str, *words: Sequence[str]) -> str:
        """What a unit has logged."""
        return self.run("journalctl", "--no-pager", "-u", unit, *map(str, words), check=True).stdout
