# SPDX-License-Identifier: Apache-2.0
"""`ovms_mp demo`: the whole server as a child process, and a digit asked of it through both protocols.

Shows the digit and the answers; of the server's log only errors. Nobody but this machine can reach the server.

This process is only the child's parent and its client. It ends after the child, whatever ends it short of
SIGKILL: the child is stopped on every way out of :class:`_Server`.

Signals are bytes in a socket pair (``signal.set_wakeup_fd``), so that one ``select`` with a deadline sees a
request to stop and the child's end (SIGCHLD) at once, and the handlers themselves do nothing.
"""

from __future__ import annotations

import select
import signal
import socket
import subprocess
import sys
import time
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from ovms_mp.codes import ExitCode
from ovms_mp.demo import check, digits
from ovms_mp.places import module_command

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from types import FrameType, TracebackType
    from typing import Self

    from numpy.typing import NDArray

_START_DEADLINE_S = 60.0
_ASK_TIMEOUT_S = 5.0
_PACE_S = 0.2
_PROGRESS_INTERVAL_S = 5.0
# An idle server stops well within this. One that has not got the terminal's SIGINT (``kill -INT`` reaches the
# demo alone) or is stuck may have a signal of ours then.
_GROUP_GRACE_S = 5.0
_STOP_DEADLINE_S = 60.0
# On the way out of an unexpected error nobody waits for a polite end.
_CLEANUP_DEADLINE_S = 10.0
_POLL_FOREVER_S = 3600.0

_QUIET = ("--log_level", "ERROR")
_SIGNAL_BASE = 128
"""A shell's exit code for a program that died by signal n is 128 + n."""
_STOP_SIGNALS = frozenset((signal.SIGINT, signal.SIGTERM, signal.SIGHUP))
# With ``once`` the answers decide the exit code, so the digit is one that the model reads rightly; a test
# holds it to that.
SURE_DIGIT = 0


def run(
    place: check.Place,
    once: bool,
    server_args: Sequence[str],
    environment: Mapping[str, str],
) -> int:
    """Start the server with the demo's model, ask it for a digit through gRPC and REST, and show the answers.

    Must run in the main thread, as it handles SIGINT, SIGTERM and SIGHUP while it lasts.

    Args:
        place: Where the server shall be; 0 for a port takes a free one.
        once: Stop after the answers, instead of serving until a signal.
        server_args: More arguments for the server's command line.
        environment: The server's.

    Returns:
        An :class:`~ovms_mp.errors.ExitCode`, or 128 + n after signal n. The server's; but BOOT_FAILED if a port is
        taken or it gave no answers, and with ``once`` INTERNAL if they are not the label.
    """
    try:
        port, rest_port = _free_ports(place.port, place.rest_port)
    except OSError as error:
        _complain(f"ovms_mp: error: {error}")
        return ExitCode.BOOT_FAILED
    place = replace(place, port=port, rest_port=rest_port)
    images, labels = digits.load_held_out()
    index = SURE_DIGIT if once else int(np.random.default_rng().integers(len(images)))
    image, label = images[index], int(labels[index])

    with _Signals() as signals, _Server(place, server_args, signals, environment) as server:
        answers = _first_answers(server, image)
        if answers is None:
            return _give_up(server)
        _show(image, label, answers)
        if not once:
            _say(f"Try it yourself:\n{check.curl_line(place, image)}\n")
            _say(
                f"Serving until Ctrl-C: REST http://{check.HOST}:{rest_port}{place.prefix}  gRPC {check.HOST}:{port}"
            )
            server.wait_for_end_or_signal(None)
            return server.stop()
        code = server.stop()
        if answers != (label, label):
            _complain("The answers are not the label, which the packaged model gives for this digit.")
        return code if answers == (label, label) else code or ExitCode.INTERNAL


def _free_ports(port: int, rest_port: int) -> tuple[int, int]:
    """The ports, zeros replaced; a taken one raises OSError.

    The server's own listeners share their ports (SO_REUSEPORT), so a second server on them would start
    without complaint and the demo would ask the first. Between this look and the server's start a port can
    still be lost; the server then reports it.
    """
    with socket.socket() as first, socket.socket() as second:
        for listener, wanted, what in ((first, port, "gRPC"), (second, rest_port, "REST")):
            # Without it the last demo's closed connections (TIME_WAIT) hold the port for a minute.
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                listener.bind((check.HOST, wanted))
                listener.listen(1)
            except (OSError, OverflowError) as error:
                flag = "--port" if what == "gRPC" else "--rest_port"
                reason = getattr(error, "strerror", None) or error
                raise OSError(
                    f"{what} port {wanted} cannot be used ({reason}); choose another {flag}, 0 for any free one"
                ) from error
        return int(first.getsockname()[1]), int(second.getsockname()[1])


def _first_answers(server: _Server, image: NDArray[np.float32]) -> tuple[int, int] | None:
    """What gRPC and REST say; None if the server ended or gave none in time, or a signal came."""
    started_s = time.monotonic()
    reported_s = started_s
    while True:
        try:
            states = check.model_states(server.place, _ASK_TIMEOUT_S)
            if "AVAILABLE" in states:
                return (
                    check.ask_grpc(server.place, image, _ASK_TIMEOUT_S),
                    check.ask_rest(server.place, image, _ASK_TIMEOUT_S),
                )
            obstacle = f"the model's state is {', '.join(states) or 'not known yet'}"
        except check.NoAnswer as error:
            obstacle = str(error)
            if not error.may_retry:
                _complain(obstacle)
                return None
        now_s = time.monotonic()
        if now_s - started_s > _START_DEADLINE_S:
            _complain(f"No answer within {_START_DEADLINE_S:.0f} s: {obstacle}")
            return None
        if now_s - reported_s > _PROGRESS_INTERVAL_S:
            reported_s = now_s
            _complain(f"... {now_s - started_s:.0f} s, still starting ({obstacle})")
        if server.wait_for_end_or_signal(_PACE_S):
            return None


def _give_up(server: _Server) -> int:
    """Stop what is left of a server that has not answered, and name the exit code; 0 only after a signal."""
    ended_unasked = server.has_ended and server.stop_signal is None
    code = server.stop()
    if ended_unasked:
        _complain(f"The server ended before it answered, with exit code {code}; its reason is above.")
    return code if server.stop_signal is not None else code or ExitCode.BOOT_FAILED


def _show(image: NDArray[np.float32], label: int, answers: tuple[int, int]) -> None:
    """The digit with the answers beside it."""
    by_grpc, by_rest = answers
    beside = {3: f"gRPC says {by_grpc}, REST says {by_rest}, the label is {label}"}
    if answers != (label, label):
        beside[5] = "(The model reads about one digit in a hundred wrongly.)"
    drawing = digits.draw(image, sys.stdout.encoding)
    lines = [
        f"  {line}   {beside.get(number, '')}".rstrip() for number, line in enumerate(drawing.splitlines())
    ]
    _say("\n".join(["", *lines, ""]))


class _Signals:
    """The signals that matter here, in the order of their arrival; for the main thread only."""

    def __init__(self) -> None:
        self._reader, self._writer = socket.socketpair()
        self._reader.setblocking(False)
        self._writer.setblocking(False)
        self._wakeup_before = -1
        self._handlers_before: dict[int, Callable[[int, FrameType | None], object] | int | None] = {}

    def __enter__(self) -> Self:
        # Only signals with a Python handler are written to the descriptor. exec resets handlers, so the child
        # starts with the defaults.
        self._wakeup_before = signal.set_wakeup_fd(self._writer.fileno(), warn_on_full_buffer=False)
        for number in (*_STOP_SIGNALS, signal.SIGCHLD):
            self._handlers_before[number] = signal.signal(number, _leave_to_the_wakeup_descriptor)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        for number, handler in self._handlers_before.items():
            signal.signal(number, handler)
        signal.set_wakeup_fd(self._wakeup_before)
        self._reader.close()
        self._writer.close()

    def wait(self, timeout_s: float) -> list[int]:
        """The signals that have arrived, after the first of them or ``timeout_s``."""
        if not select.select([self._reader], [], [], max(timeout_s, 0.0))[0]:
            return []
        return list(self._reader.recv(4096))


class _Server:
    """The server as our child. Owner of the process: it does not outlive the ``with`` block."""

    def __init__(
        self,
        place: check.Place,
        server_args: Sequence[str],
        signals: _Signals,
        environment: Mapping[str, str],
    ) -> None:
        self.place = place
        self.stop_signal: int | None = None
        """The first signal that asked this process to stop."""
        self._signals = signals
        self._environment = environment
        self._command = [
            *module_command("ovms_mp", "model"),
            *("--model_name", digits.MODEL_NAME, "--model_path", str(digits.model_directory())),
            *("--port", str(place.port), "--rest_port", str(place.rest_port)),
            *("--grpc_bind_address", check.HOST, "--rest_bind_address", check.HOST),
            # What the user asks for beats what is quiet.
            *(() if environment.get("LOG_LEVEL") else _QUIET),
            *server_args,
        ]

    def __enter__(self) -> Self:
        self._child = subprocess.Popen(self._command, env=self._environment)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if not self.has_ended:
            self._child.terminate()
            self._wait(_CLEANUP_DEADLINE_S)
        if not self.has_ended:
            self._child.kill()
        self._child.wait()

    @property
    def has_ended(self) -> bool:
        """The child is dead and reaped."""
        return self._child.poll() is not None

    def wait_for_end_or_signal(self, timeout_s: float | None) -> bool:
        """Wait until the child ends or a signal asks to stop; whether either is so. None waits for ever."""
        deadline_s = None if timeout_s is None else time.monotonic() + timeout_s
        while not self.has_ended and self.stop_signal is None:
            left_s = _POLL_FOREVER_S if deadline_s is None else deadline_s - time.monotonic()
            if left_s <= 0:
                return False
            self._note(self._signals.wait(left_s))
        # After a Ctrl-C the child may have ended before its signal was read here.
        self._note(self._signals.wait(0.0))
        return True

    def stop(self) -> int:
        """Stop the child, wait for its end, and return its exit code (128 + n if signal n killed it).

        A Ctrl-C goes to the terminal's whole foreground process group, so the child has it already, and a
        second signal means to stop without draining: it gets none from here until it has had its time.
        """
        self._note(self._signals.wait(0.0))
        if self.stop_signal != signal.SIGINT or not self._wait(_GROUP_GRACE_S):
            self._child.terminate()
        if not self._wait(_STOP_DEADLINE_S):
            _complain(f"The server did not stop within {_STOP_DEADLINE_S:.0f} s; killing it.")
            self._child.kill()
        # SIGKILL leaves nothing to wait long for.
        code = self._child.wait()
        return code if code >= 0 else _SIGNAL_BASE - code

    def _wait(self, timeout_s: float) -> bool:
        """Wait for the child's end, whether it came; a further SIGTERM or SIGHUP of ours is passed on."""
        deadline_s = time.monotonic() + timeout_s
        while not self.has_ended:
            left_s = deadline_s - time.monotonic()
            if left_s <= 0:
                return False
            arrived = self._signals.wait(left_s)
            self._note(arrived)
            if signal.SIGTERM in arrived or signal.SIGHUP in arrived:
                self._child.terminate()
        return True

    def _note(self, arrived: Sequence[int]) -> None:
        for number in arrived:
            if number in _STOP_SIGNALS and self.stop_signal is None:
                self.stop_signal = number


def _leave_to_the_wakeup_descriptor(number: int, frame: FrameType | None) -> None:
    """The interpreter has written the number to the wake-up descriptor already."""


def _say(text: str) -> None:
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


def _complain(text: str) -> None:
    sys.stderr.write(f"{text}\n")
    sys.stderr.flush()
