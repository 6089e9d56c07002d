# SPDX-License-Identifier: Apache-2.0
"""Child processes of the harness: start one and wait for its words, or run one for its answer.

Every wait has a deadline. A child's output goes to a file, so that a child never blocks on a full pipe while
it is timed.
"""

from __future__ import annotations

import contextlib
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import msgspec

from perf import CHECKOUT

_TAIL_CHARACTERS = 3000


class ChildFailed(Exception):
    """A child did not start, did not answer or did not end as it should; the text has its last output."""


class WatchedChild:
    """A running child whose output is searched for the texts that mean "ready".

    Args:
        process: Started with its output in a pipe.
        ready_texts: All of them must appear, in any order.
        log_path: Where the output goes.
    """

    def __init__(self, process: subprocess.Popen[bytes], ready_texts: Sequence[str], log_path: Path) -> None:
        self._process = process
        self._missing = [text.encode() for text in ready_texts]
        self._log_path = log_path
        self._ready_or_ended = threading.Event()
        self.ready_s = 0.0
        """Seconds from :meth:`wait_until_ready` to the last ready text."""
        self._reader = threading.Thread(target=self._read_output, daemon=True)

    @classmethod
    def start(cls, argv: Sequence[str], ready_texts: Sequence[str], log_path: Path) -> WatchedChild:
        """Start ``argv`` in the checkout and begin to read its output."""
        process = subprocess.Popen(
            argv, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, cwd=CHECKOUT
        )
        child = cls(process, ready_texts, log_path)
        child._reader.start()
        return child

    @property
    def pid(self) -> int:
        """The child's process id."""
        return self._process.pid

    def wait_until_ready(self, within_s: float) -> None:
        """Wait for all ready texts.

        Raises:
            ChildFailed: The child ended first, or the time is up.
        """
        started_s = time.monotonic()
        self._ready_or_ended.wait(within_s)
        if self._missing:
            texts = b", ".join(self._missing).decode()
            state = "ended" if self._process.poll() is not None else f"not ready within {within_s:g} s"
            raise ChildFailed(f"{state}; never said: {texts}\n{self.output_tail()}")
        self.ready_s = time.monotonic() - started_s

    def stop(self, within_s: float) -> int:
        """Send SIGTERM and wait; SIGKILL when the time is up.

        Returns:
            The exit code.

        Raises:
            ChildFailed: It had to be killed.
        """
        if self._process.poll() is None:
            self._process.send_signal(signal.SIGTERM)
        try:
            code = self._process.wait(within_s)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait(within_s)
            raise ChildFailed(f"not gone {within_s:g} s after SIGTERM\n{self.output_tail()}") from None
        self._reader.join(within_s)
        return code

    def output_tail(self) -> str:
        """The last of the output, for a failure's text."""
        return (
            self._log_path.read_text(errors="replace")[-_TAIL_CHARACTERS:] if self._log_path.exists() else ""
        )

    def _read_output(self) -> None:
        pipe = self._process.stdout
        if pipe is None:
            return
        with pipe, self._log_path.open("wb", buffering=0) as log:
            for line in pipe:
                log.write(line)
                if self._missing:
                    self._missing = [text for text in self._missing if text not in line]
                    if not self._missing:
                        self._ready_or_ended.set()
        self._ready_or_ended.set()


@contextlib.contextmanager
def running_child(
    argv: Sequence[str],
    ready_texts: Sequence[str],
    log_path: Path,
    *,
    start_s: float = 30.0,
    stop_s: float = 15.0,
) -> Iterator[WatchedChild]:
    """Run a child for the length of a block; it is ready when the block begins and gone when it ends.

    Raises:
        ChildFailed: It did not become ready, or did not end with exit code 0.
    """
    child = WatchedChild.start(argv, ready_texts, log_path)
    try:
        child.wait_until_ready(start_s)
        yield child
    except BaseException:
        # The first failure is the one to tell; whatever the stop has to say comes from it.
        with contextlib.suppress(ChildFailed):
            child.stop(stop_s)
        raise
    code = child.stop(stop_s)
    if code != 0:
        raise ChildFailed(f"exit code {code} after SIGTERM, expected 0\n{child.output_tail()}")


def module_argv(module: str, *arguments: str) -> list[str]:
    """The command line that runs a module with this interpreter."""
    return [sys.executable, "-m", module, *arguments]


def run_for_output(argv: Sequence[str], within_s: float) -> bytes:
    """Run a child to its end and return what it wrote to stdout.

    Raises:
        ChildFailed: Time is up, or the exit code is not 0.
    """
    try:
        done = subprocess.run(
            argv, stdin=subprocess.DEVNULL, capture_output=True, cwd=CHECKOUT, timeout=within_s, check=False
        )
    except subprocess.TimeoutExpired:
        raise ChildFailed(f"{' '.join(argv[:4])}: no answer within {within_s:g} s") from None
    if done.returncode != 0:
        tail = done.stderr.decode(errors="replace")[-_TAIL_CHARACTERS:]
        raise ChildFailed(f"{' '.join(argv[:4])}: exit code {done.returncode}\n{tail}")
    return done.stdout


def run_for_figures(argv: Sequence[str], within_s: float) -> dict[str, float]:
    """Run a floor without a client to its end; its last line is a JSON object of numbers.

    Raises:
        ChildFailed: As :func:`run_for_output`; or the output is something else.
    """
    output = run_for_output(argv, within_s)
    try:
        return msgspec.json.decode(output.splitlines()[-1], type=dict[str, float])
    except (IndexError, msgspec.DecodeError) as error:
        raise ChildFailed(f"{' '.join(argv[:4])}: no figures in {output[-200:]!r} ({error})") from None


def free_port() -> int:
    """A loopback port that was free a moment ago."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
