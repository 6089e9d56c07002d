# SPDX-License-Identifier: Apache-2.0
"""Keeps the children alive: spawns, watches, replaces, and knows when replacing is pointless.

Liveness is progress, not existence. A child that sends no heartbeat is stopped or gone and is killed; one
that beats but has work in flight and finishes nothing is stuck and is killed too. A death is noticed through
a pidfd, at once and without races. A successor is spawned at once when its predecessor had served, else after
a growing, capped delay. A child that cannot boot ends the server with its reason: exit code 3 or another
failure before it was ready, or dying again and again.
"""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from ovms_mp.child.lifetime import holding_log_signals
from ovms_mp.defects import contain, report
from ovms_mp.manager.children.child import Child, ChildState, Kind, exit_text
from ovms_mp.manager.children.priority import let_go_earlier
from ovms_mp.manager.children.processes import reap_strangers, wait_readable, watch_process
from ovms_mp.places import module_command, module_environment

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from ovms_mp.child.specs import ChildSpec
    from ovms_mp.config.server import SupervisionConfig
    from ovms_mp.manager.timers import Timers
    from ovms_mp.wire.channels import Poller

_log = logging.getLogger(__name__)

_BACKOFF_FIRST_S = 0.1
_BACKOFF_LONGEST_S = 5.0
_MAX_DEATHS_IN_BOOT = 8
_STABLE_S = 1.0
"""A child that was ready for so long has served, whatever it counts as progress."""
_KILL_LIMIT_S = 10.0
_SETTLE_AGAIN_S = 0.1
_LATE_LOOP_S = 1.0
"""If the manager's own loop was held up for longer, the children's silence says nothing about them."""

_WORKER_MMAP_THRESHOLD = str(4 << 20)
_MODULES = {
    Kind.WORKER: "ovms_mp.worker",
    Kind.PROBE: "ovms_mp.worker.probe",
    Kind.GRPC: "ovms_mp.front.grpc",
    Kind.ARBITER: "ovms_mp.front.rest",
}
_MEMORY_POINTS = {Kind.PROBE: 1000, Kind.WORKER: 200, Kind.GRPC: 100, Kind.ARBITER: 100}
"""When memory runs out: a trial loses nobody's work, a worker is replaced, and the manager goes last."""


class Observer(Protocol):
    """Who is told of deaths."""

    def child_exited(self, child: Child, reason: str) -> None:
        """A child has ended; it touches nothing any more."""

    def cannot_boot(self, reason: str) -> None:
        """A child cannot be started; the server must stop."""

    def role_failed(self, name: str, reason: str) -> None:
        """A child that the server can do without cannot be started; its role is given up."""


def _no_pause() -> float:
    return 0.0


@dataclass(slots=True)
class _Role:
    """A place that a child fills, and what its successors need."""

    name: str
    kind: Kind
    make_spec: Callable[[str], ChildSpec]
    descriptors: tuple[int, ...]
    generation: int = 0
    deaths_in_boot: int = 0
    quick_deaths: int = 0
    is_wanted: bool = True
    is_vital: bool = True
    pause_s: Callable[[], float] = _no_pause


class Supervisor:
    """Owns all child processes of the manager."""

    def __init__(
        self, settings: SupervisionConfig, timers: Timers, poller: Poller, observer: Observer
    ) -> None:
        self._settings = settings
        self._timers = timers
        self._poller = poller
        self._observer = observer
        self._roles: dict[str, _Role] = {}
        self._children: dict[str, Child] = {}
        self._by_pidfd: dict[int, Child] = {}
        self._looked_at = time.monotonic()

    def fill(
        self,
        name: str,
        kind: Kind,
        make_spec: Callable[[str], ChildSpec],
        descriptors: tuple[int, ...],
        *,
        is_vital: bool = True,
        pause_s: Callable[[], float] = _no_pause,
    ) -> None:
        """Keep a child of this kind running from now on.

        Args:
            name: The role's name.
            kind: What it runs.
            make_spec: Makes the command line of a process with the given child id.
            descriptors: What it inherits.
            is_vital: Whether the server must stop when it cannot be started.
            pause_s: How long a successor must wait at least; asked when one is due.
        """
        self._roles[name] = _Role(name, kind, make_spec, descriptors, is_vital=is_vital, pause_s=pause_s)
        self._spawn(self._roles[name])

    def spawn_once(self, kind: Kind, spec: ChildSpec, descriptors: tuple[int, ...]) -> Child | None:
        """Run a child that is not replaced when it ends; None when the system refuses."""
        try:
            child = self._start(spec.child_id, kind, spec, descriptors)
        except OSError as error:
            _log.error("event=spawn_failed child=%s error=%s", spec.child_id, error)
            return None
        except Exception as error:
            report("manager.spawn", error, spec.child_id)
            return None
        return child

    def adopt(self, child_id: str, kind: Kind, pid: int) -> Child | None:
        """Watch a process that a child of ours started; None when it is gone already."""
        try:
            pidfd = watch_process(pid)
        except ProcessLookupError:
            return None
        now = time.monotonic()
        child = Child(child_id, child_id, kind, pid, pidfd, None, now, now)
        self._watch(child)
        return child

    def _spawn(self, role: _Role) -> None:
        role.generation += 1
        child_id = f"{role.name}.{role.generation}"
        try:
            self._start(role.name, role.kind, role.make_spec(child_id), role.descriptors)
        except OSError as error:
            _log.error("event=spawn_failed child=%s error=%s", child_id, error)
            self._spawn_again(role, f"{child_id} cannot be spawned: {error}")
        except Exception as error:
            report("manager.spawn", error, child_id)
            self._spawn_again(role, f"{child_id} cannot be spawned: {error}")

    def _start(self, name: str, kind: Kind, spec: ChildSpec, descriptors: tuple[int, ...]) -> Child:
        # A process group of its own: what a terminal sends to the group is for the manager to decide about.
        with holding_log_signals():
            process = subprocess.Popen(
                module_command(_MODULES[kind], spec.to_argument()),
                stdin=subprocess.DEVNULL,
                cwd="/",
                pass_fds=descriptors,
                env=_child_environment(kind),
                process_group=0,
            )
        try:
            pidfd = watch_process(process.pid)
        except OSError:
            process.kill()  # Nobody could watch it.
            process.wait(timeout=_KILL_LIMIT_S)
            raise
        let_go_earlier(process.pid, _MEMORY_POINTS[kind])
        now = time.monotonic()
        child = Child(name, spec.child_id, kind, process.pid, pidfd, process, now, now)
        self._watch(child)
        _log.info("event=spawned child=%s pid=%d", spec.child_id, process.pid)
        return child

    def _spawn_again(self, role: _Role, reason: str) -> None:
        """Spawn after a while, unless a role's processes come to nothing again and again."""
        role.deaths_in_boot += 1
        if role.deaths_in_boot > _MAX_DEATHS_IN_BOOT:
            self._give_up(role, reason)
            return
        self._timers.call_after(_BACKOFF_LONGEST_S / 5, lambda: self._spawn(role) if role.is_wanted else None)

    def _watch(self, child: Child) -> None:
        self._children[child.child_id] = child
        self._by_pidfd[child.pidfd] = child
        self._poller.register(child.pidfd)
        if child.kind is not Kind.PROBE:  # Whose whole life has a deadline.
            self._timers.call_after(self._settings.boot_timeout_s, lambda: self._check_boot(child))

    def _check_boot(self, child: Child) -> None:
        if child.state not in (ChildState.SPAWNED, ChildState.BOOTING):
            return
        limit = self._settings.boot_timeout_s
        role = self._roles.get(child.name)
        if child.is_waiting:
            # For the arena of a dead front, which a long inference may still be using.
            self._timers.call_after(limit, lambda: self._check_boot(child))
        elif role is not None and role.generation == 1:
            self._give_up(role, f"{child.child_id} was not ready within {limit:g} s (--boot_timeout_s)")
        else:
            # A successor: its predecessor could boot, so this one may have been stopped or starved.
            _log.error(
                "event=boot_hangs child=%s not ready in %g s (--boot_timeout_s); killing",
                child.child_id,
                limit,
            )
            child.end(f"not ready within {limit:g} s (--boot_timeout_s)")

    def find(self, child_id: str) -> Child | None:
        """A living child."""
        return self._children.get(child_id)

    def living(self, *kinds: Kind) -> Iterator[Child]:
        """All living children, or those of these kinds."""
        return (child for child in list(self._children.values()) if not kinds or child.kind in kinds)

    def beat(
        self, child: Child, progress: int | None = None, in_flight: int = 0, oldest_run_s: float = 0.0
    ) -> None:
        """A child gave a sign of life."""
        now = time.monotonic()
        child.beat_at = now
        if progress is not None and (progress != child.progress or not in_flight):
            child.progress = progress
            child.progress_at = now
        child.in_flight = in_flight
        child.oldest_run_s = oldest_run_s

    def check_liveness(self) -> None:
        """Kill who is silent or stuck. Called every heartbeat interval."""
        now = time.monotonic()
        held_up = now - self._looked_at - self._settings.heartbeat_interval_s
        self._looked_at = now
        for child in self.living():
            if held_up > _LATE_LOOP_S:
                child.beat_at = max(child.beat_at, now - self._settings.heartbeat_timeout_s / 2)
            contain("manager.liveness", child.child_id, self._check_child, child, now)

    def _check_child(self, child: Child, now: float) -> None:
        if child.state is not ChildState.READY:
            return  # Booting and draining have deadlines of their own.
        silence = now - child.beat_at
        standstill = now - max(child.progress_at, child.spawned_at) if child.in_flight else 0.0
        # One run that never ends is stuck, too, whatever is answered beside it.
        standstill = max(standstill, child.oldest_run_s)
        settings = self._settings
        if silence > settings.heartbeat_timeout_s:
            self._kill(
                child,
                "silent",
                f"no heartbeat within {settings.heartbeat_timeout_s:g} s (--heartbeat_timeout_s)",
            )
        elif standstill > settings.stuck_timeout_s:
            self._kill(
                child, "stuck", f"no progress within {settings.stuck_timeout_s:g} s (--stuck_timeout_s)"
            )

    def _kill(self, child: Child, event: str, reason: str) -> None:
        _log.error("event=%s child=%s pid=%d %s; killing", event, child.child_id, child.pid, reason)
        child.end(reason)

    def collect(self, readable: set[int]) -> None:
        """Reap every child whose pidfd is readable; tell the observer; respawn."""
        for descriptor in readable:
            child = self._by_pidfd.get(descriptor)
            if child is not None:
                contain("manager.collect", child.child_id, self._collect_one, child)
        reap_strangers({child.pid for child in self._children.values()})

    def _collect_one(self, child: Child) -> None:
        self._poller.unregister(child.pidfd)
        del self._by_pidfd[child.pidfd]
        del self._children[child.child_id]
        status = child.status = child.reap()
        child.close()
        previous = child.state
        child.to(ChildState.EXITED)
        # A crash in the moment before is more than what it would have been ended for.
        was_ended = child.killed_for and not child.has_crashed
        reason = f"ended: {child.killed_for}" if was_ended else exit_text(status)
        is_expected = previous is ChildState.DRAINING or (child.is_dismissed and was_ended)
        if is_expected or (child.kind is Kind.PROBE and status == 0):
            _log.info("event=exited child=%s pid=%d %s", child.child_id, child.pid, reason)
        else:
            _log.error(
                "event=died child=%s pid=%d state=%s %s", child.child_id, child.pid, previous.name, reason
            )
        if not contain("manager.exit", child.child_id, self._settle, child, previous, status, reason):
            self._timers.call_after(_SETTLE_AGAIN_S, lambda: self._settle(child, previous, status, reason))

    def _settle(self, child: Child, previous: ChildState, status: int | None, reason: str) -> None:
        """Tell of a death, and replace who died: in this order, as a successor takes its predecessor's place."""
        self._observer.child_exited(child, reason)
        role = self._roles.get(child.name)
        if role is not None and role.is_wanted and previous is not ChildState.DRAINING:
            self._replace(role, child, status, reason)

    def _replace(self, role: _Role, child: Child, status: int | None, reason: str) -> None:
        if not child.was_ready and status is not None and status >= 0:
            self._give_up(role, f"{child.child_id} could not start: {reason}; its reason is in the log above")
            return
        role.deaths_in_boot = 0 if child.was_ready else role.deaths_in_boot + 1
        if role.deaths_in_boot > _MAX_DEATHS_IN_BOOT:
            self._give_up(
                role,
                f"{role.name} died {role.deaths_in_boot} times in a row before it was ready; the last one: {reason}",
            )
            return
        # A worker's progress is requests answered; a front's only says that its loop turns.
        has_answered = child.kind is Kind.WORKER and child.progress > 0
        has_served = child.was_ready and (has_answered or time.monotonic() - child.ready_at > _STABLE_S)
        role.quick_deaths = 0 if has_served else role.quick_deaths + 1
        delay_s = 0.0
        if role.quick_deaths > 1:
            delay_s = min(_BACKOFF_LONGEST_S, _BACKOFF_FIRST_S * 2.0 ** (role.quick_deaths - 2))
        delay_s = max(delay_s, role.pause_s())
        _log.warning("event=respawn role=%s in_s=%g", role.name, delay_s)
        if delay_s:
            self._timers.call_after(delay_s, lambda: self._spawn(role) if role.is_wanted else None)
        else:
            self._spawn(role)

    def report_boot_failure(self, child: Child, reason: str) -> None:
        """A child says that starting it again would fail again."""
        role = self._roles.get(child.name)
        if role is None:
            _log.error("event=boot_failed child=%s reason=%s", child.child_id, reason)
        else:
            self._give_up(role, f"{child.child_id}: {reason}")

    def _give_up(self, role: _Role, reason: str) -> None:
        if role.is_vital:
            self._observer.cannot_boot(reason)
        elif role.is_wanted:
            _log.error("event=role_failed role=%s reason=%s", role.name, reason)
            self.end_role(role.name)
            self._observer.role_failed(role.name, reason)

    def reopen_logs(self) -> None:
        """Have every child take its log files by their names again; the arbiter tells the REST fronts."""
        for child in self.living(Kind.WORKER, Kind.PROBE, Kind.GRPC, Kind.ARBITER):
            child.signal(signal.SIGUSR1)

    def stop_replacing(self, name: str = "") -> None:
        """From now on a death is final, for one role or for all."""
        for role in self._roles.values():
            if name in ("", role.name):
                role.is_wanted = False

    def end_role(self, name: str) -> None:
        """Kill whoever fills a role, and fill it no more."""
        self.stop_replacing(name)
        for child in self.living():
            if child.name == name:
                child.end("its role is given up", is_dismissed=True)

    def end_within(self, child: Child, within_s: float) -> None:
        """Kill a draining child that has not ended by then."""
        self._timers.call_after(
            within_s,
            lambda: child.end(f"it did not end within {within_s:g} s of being asked to"),
        )

    def kill_all(self) -> None:
        """SIGKILL everything and reap it; nothing is left when this returns."""
        self.stop_replacing()
        for child in self.living():
            contain("manager.kill", child.child_id, child.signal, signal.SIGKILL)
        for child in self.living():
            # SIGKILL cannot be refused; only a process in an uninterruptible system call takes longer.
            wait_readable(child.pidfd, _KILL_LIMIT_S)
            if child.process is not None:
                child.process.wait(timeout=_KILL_LIMIT_S)
            self._poller.unregister(child.pidfd)
            child.close()
        self._children.clear()
        self._by_pidfd.clear()
        reap_strangers()


def _child_environment(kind: Kind) -> dict[str, str]:
    """The manager's environment with what our processes need to stay small."""
    environment = module_environment(os.environ)
    # Fronts and workers do no linear algebra in NumPy; OpenBLAS would start a thread and 30 MB for every
    # core.
    environment.setdefault("OPENBLAS_NUM_THREADS", "1")
    environment.setdefault("MALLOC_ARENA_MAX", "2")
    if kind is Kind.WORKER:
        # glibc raises these limits by itself when a model's large blocks are freed, and then keeps the next model's
        # on its heap, where they leave holes: 200 loads of 100 MB ended at 1.29 times the memory, so at 1.01.
        environment.setdefault("MALLOC_MMAP_THRESHOLD_", _WORKER_MMAP_THRESHOLD)
        environment.setdefault("MALLOC_TRIM_THRESHOLD_", _WORKER_MMAP_THRESHOLD)
    return environment
