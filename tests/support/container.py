# SPDX-License-Identifier: Apache-2.0
"""A container as ``docker run`` makes it: the image's files, a process 1 and nothing else; no capabilities.

Not by a container runtime, as few machines have one, but by the same system calls. Stricter than a runtime's default:
the root is read-only, there is no ``/dev/shm``, and processes get no new privileges.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import psutil

from tests.support.waiting import eventually

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from types import TracebackType
    from typing import Self

    from tests.support.image import Image

_READY_WITHIN_S = 120.0
_STOPS_WITHIN_S = 150.0
_UNSHARE = ("unshare", "--mount", "--pid", "--uts", "--ipc", "--fork")
_ENTER = """
root=$1 flags=$2 volumes=$3 has_tmp=$4
shift 4
mount --make-rprivate /
mount --bind "$root" "$root"
for volume in $volumes; do mount --bind -o ro "${volume%%:*}" "$root${volume#*:}"; done
mount -t proc proc "$root/proc"
mount --rbind /sys "$root/sys"
mount -t tmpfs tmpfs "$root/dev"
for device in null zero full random urandom; do
    touch "$root/dev/$device"
    mount --bind "/dev/$device" "$root/dev/$device"
done
mount -o remount,ro "$root/dev"
if [ "$has_tmp" = True ]; then mount -t tmpfs tmpfs "$root/tmp"; fi
mount -o remount,bind,ro "$root"
exec chroot "$root" setpriv $flags -- "$@"
"""


@dataclass
class Container:
    """A running container.

    Attributes:
        command: What follows the image's name in ``docker run``.
        user: As by ``-u``; empty for the image's own.
        volumes: Directories by their place in the container; paths without spaces.
        has_tmp: Whether ``/tmp`` is writable, as by ``--tmpfs /tmp``.
        has_network: Whether the machine's network is the container's, too.
    """

    image: Image
    command: Sequence[str]
    log_path: Path
    user: str = ""
    volumes: Mapping[str, Path] = field(default_factory=dict)
    has_tmp: bool = True
    has_network: bool = True
    process: subprocess.Popen[bytes] = field(init=False)
    pid: int = field(init=False)
    ready_after_s: float = field(init=False)

    def __enter__(self) -> Self:
        """Start it and wait until the server says that it answers."""
        started = time.monotonic()
        self.launch()
        try:
            eventually(self._is_ready, _READY_WITHIN_S, "ready")
        except BaseException:
            self._destroy()
            raise
        self.ready_after_s = time.monotonic() - started
        return self

    def launch(self) -> None:
        """Start it without waiting."""
        root = self.image.root
        for place in self.volumes:
            (root / place.removeprefix("/")).mkdir(parents=True, exist_ok=True)
        namespaces = () if self.has_network else ("--net",)
        volumes = " ".join(f"{path}:{place}" for place, path in self.volumes.items())
        argv = [*self._environment(), *self.image.settings["Entrypoint"], *self.command]
        given = [str(root), self._identity(), volumes, str(self.has_tmp), *argv]
        with self.log_path.open("ab") as log:
            self.process = subprocess.Popen(
                [*_UNSHARE, *namespaces, "bash", "-ec", _ENTER, "bash", *given],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        children = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children")
        self.pid = int(eventually(children.read_text, _READY_WITHIN_S, "process 1"))

    def _identity(self) -> str:
        user, _, group = (self.user or self.image.settings["User"]).partition(":")
        return f"--reuid={user} --regid={group or 0} --clear-groups --no-new-privs --bounding-set=-all --inh-caps=-all"

    def _environment(self) -> list[str]:
        return ["env", "-i", *self.image.settings["Env"], "HOME=/"]

    def _is_ready(self) -> bool:
        assert self.process.poll() is None, f"it ended with {self.process.returncode}:\n{self.log()}"
        return "Ready: " in self.log()

    def log(self) -> str:
        """Everything it has printed."""
        return self.log_path.read_text(errors="replace")

    def execute(self, *command: str) -> subprocess.CompletedProcess[str]:
        """Run a command inside, as ``docker exec`` does."""
        inside = ["nsenter", f"--target={self.pid}", "--mount", "--pid", "--net", "--ipc", "--root", "--wd=/"]
        return subprocess.run(
            [*inside, "setpriv", *self._identity().split(), "--", *self._environment(), *command],
            capture_output=True,
            text=True,
            timeout=_READY_WITHIN_S,
            check=False,
        )

    def zombies(self) -> list[int]:
        """Processes inside that have ended and that nobody has collected."""
        return [
            process.pid
            for process in psutil.Process(self.pid).children(recursive=True)
            if process.status() == psutil.STATUS_ZOMBIE
        ]

    def processor_s(self) -> float:
        """Processor time of everything that has run inside."""
        first = psutil.Process(self.pid)
        return sum(sum(process.cpu_times()[:4]) for process in (first, *first.children(recursive=True)))

    def stop(self) -> int:
        """SIGTERM to process 1; the exit code."""
        os.kill(self.pid, signal.SIGTERM)
        return self.process.wait(timeout=_STOPS_WITHIN_S)

    def _destroy(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pid, signal.SIGKILL)
        self.process.wait(timeout=_STOPS_WITHIN_S)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """End it, unless the test has."""
        if self.process.poll() is None:
            self._destroy()
