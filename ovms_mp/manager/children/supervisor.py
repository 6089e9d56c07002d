# SPDX-License-Identifier: Apache-2.0
"""Keeps the children alive: spawns them, learns of their deaths, replaces them, and knows when replacing is pointless.

A death is noticed through a pidfd, at once and without races, and collected by :mod:`.reaper`. Who replaces whom and
when is in :mod:`.roles`, who is killed for silence or standstill in :mod:`.liveness`. A child that cannot boot ends the
server with its reason: exit code 3 or another failure before it was ready, or dying again and again.
"""

from __future__ import annotations

import logging
import signal
from collections import deque
from functools import partial
from typing import TYPE_CHECKING, Protocol

from ovms_mp.defects import contain, report
from ovms_mp.manager.children.child import Child, ChildState, exit_text
from ovms_mp.manager.children.kinds import Kind
from ovms_mp.manager.children.liveness import Liveness
from ovms_mp.manager.children.processes import collect_stranger, ended_child, wait_readable, watch_process
from ovms_mp.manager.children.roles import BACKOFF_LONGEST_S, Role, RoleFailure, no_pause
from ovms_mp.manager.children.spawning import spawn

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from ovms_mp.child.specs import ChildSpec
    from ovms_mp.config.server import SupervisionConfig
    from ovms_mp.manager.children.reaper import Reaper
    from ovms_mp.manager.clock import Clock
    from ovms_mp.manager.timers import Timers
    from ovms_mp.wire.channels import Poller

_log = logging.getLogger(__name__)

_KILL_LIMIT_S = 10.0
_SETTLE_AGAIN_S = 0.1


class ExitListener(Protocol):
    """Is told when children exit."""

    def child_exited(self, child: Child, reason: str) -> None:
        """A child has exited and been reaped."""


class Supervisor:
    """Owns all child processes of the manager."""

    def __init__(
        self,
        settings: SupervisionConfig,
        timers: Timers,
        poller: Poller,
        reaper: Reaper,
        clock: Clock,
        on_death: Callable[[Child], None] = lambda _: None,
    ) -> None:
        """Begin without children.

        Args:
            settings: How long they may take for what.
            timers: The manager's.
            poller: The manager's.
            reaper: Collects those that have ended.
            clock: The manager's.
            on_death: Called with a child that has ended without having been asked to.
        """
        self._on_death = on_death
        self._settings = settings
        self._timers = timers
        self._poller = poller
        self._reaper = reaper
        self._clock = clock
        self._liveness = Liveness(settings, clock)
        self._roles: dict[str, Role] = {}
        self._failures: deque[RoleFailure] = deque()
        self._children: dict[str, Child] = {}
        self._by_pidfd: dict[int, Child] = {}
        self._ending: dict[int, Child | None] = {}
        """Being collected, by number; None are strangers."""

    def fill(
        self,
        name: str,
        kind: Kind,
        make_spec: Callable[[str], ChildSpec],
        descriptors: tuple[int, ...],
        *,
        is_vital: bool = True,
        pause_s: Callable[[], float] = no_pause,
    ) -> None:
        """Keep a child of this kind running from now on; see :class:`~.roles.Role`."""
        role = self._roles[name] = Role(name, kind, make_spec, descriptors, is_vital, pause_s)
        self._spawn(role)

    def spawn_once(self, kind: Kind, spec: ChildSpec, descriptors: tuple[int, ...]) -> Child | None:
        """Spawn a child that is not replaced when it exits; None if the system refuses."""
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
        """Watch a process that one of our children forked; None if it has exited already."""
        try:
            pidfd = watch_process(pid)
        except ProcessLookupError:
            return None
        child = Child(child_id, child_id, kind, pid, pidfd, None, self._clock)
        self._watch(child)
        return child

    def _spawn(self, role: Role) -> None:
        child_id = role.next_id()
        try:
            self._start(role.name, role.kind, role.make_spec(child_id), role.descriptors)
        except OSError as error:
            _log.error("event=spawn_failed child=%s error=%s", child_id, error)
            self._spawn_again(role, f"{child_id} cannot be spawned: {error}")
        except Exception as error:
            report("manager.spawn", error, child_id)
            self._spawn_again(role, f"{child_id} cannot be spawned: {error}")

    def _start(self, role: str, kind: Kind, spec: ChildSpec, descriptors: tuple[int, ...]) -> Child:
        child = spawn(role, kind, spec, descriptors, self._clock)
        self._watch(child)
        return child

    def _spawn_again(self, role: Role, reason: str) -> None:
        """Retry after a delay, unless spawning has failed too often in a row."""
        if role.spawn_failed():
            self._timers.call_after(BACKOFF_LONGEST_S / 5, partial(self._spawn_if_wanted, role))
        else:
            self._give_up(role, reason)

    def _spawn_if_wanted(self, role: Role) -> None:
        if role.is_wanted:
            self._spawn(role)

    def _watch(self, child: Child) -> None:
        self._children[child.child_id] = child
        self._by_pidfd[child.pidfd] = child
        self._poller.register(child.pidfd)
        if child.kind is not Kind.PROBE:  # Whose whole life has a deadline.
            self._timers.call_after(self._settings.boot_timeout_s, partial(self._check_boot, child))

    def _check_boot(self, child: Child) -> None:
        if child.state not in (ChildState.SPAWNED, ChildState.BOOTING):
            return
        limit = self._settings.boot_timeout_s
        role = self._roles.get(child.role)
        if child.is_waiting:
            # For the arena of a dead front, which a long inference may still be using.
            self._timers.call_after(limit, partial(self._check_boot, child))
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
        """Record a heartbeat of a child."""
        self._liveness.beat(child, progress, in_flight, oldest_run_s)

    def check_liveness(self) -> None:
        """Kill children that are silent or stuck. Called every heartbeat interval."""
        self._liveness.check(self.living())

    def collect(self, readable: set[int], listener: ExitListener) -> None:
        """Have those collected that have ended, as their pidfds tell; tell the listener of the collected; respawn."""
        for descriptor in readable:
            child = self._by_pidfd.pop(descriptor, None)
            if child is not None:
                self._poller.unregister(descriptor)
                child.has_ended = True
                self._ending[child.pid] = child
                self._reaper.begin(child.pid, child.reap)
        self._collect_strangers()
        for reaped in self._reaper.take(readable):
            child = self._ending.pop(reaped.pid)
            if child is not None:
                self._collect_surely(child, reaped.status, listener)

    def _collect_surely(self, child: Child, status: int | None, listener: ExitListener) -> None:
        """What is reaped is told once: where that raises before anybody heard of it, it is done again."""
        if not contain("manager.collect", child.child_id, self._collect_one, child, status, listener):
            self._timers.call_after(_SETTLE_AGAIN_S, partial(self._collect_surely, child, status, listener))

    def _collect_strangers(self) -> None:
        """Behind a process that is being collected strangers wait for the next call."""
        ours = {child.pid for child in self._children.values()}
        while (pid := ended_child()) is not None and pid not in ours and pid not in self._ending:
            self._ending[pid] = None
            self._reaper.begin(pid, partial(collect_stranger, pid))

    def _collect_one(self, child: Child, status: int | None, listener: ExitListener) -> None:
        self._children.pop(child.child_id, None)
        child.status = status
        child.close()
        previous = child.state
        child.to(ChildState.EXITED)
        # A crash in the moment before is more than what it would have been ended for.
        was_ended = child.killed_for and not child.has_crashed
        reason = f"ended: {child.killed_for}" if was_ended else exit_text(status)
        is_expected = previous is ChildState.DRAINING or (child.is_dismissed and was_ended)
        if is_expected or (child.kind.ends_by_itself and status == 0):
            _log.info("event=exited child=%s pid=%d %s", child.child_id, child.pid, reason)
        else:
            _log.error(
                "event=died child=%s pid=%d state=%s %s", child.child_id, child.pid, previous.name, reason
            )
            contain("manager.count", child.child_id, self._on_death, child)
        if not contain("manager.exit", child.child_id, self._settle, child, reason, listener):
            self._timers.call_after(_SETTLE_AGAIN_S, partial(self._settle, child, reason, listener))

    def _settle(self, child: Child, reason: str, listener: ExitListener) -> None:
        """Report a death, then replace the child: in this order, as a successor takes over its predecessor's role."""
        listener.child_exited(child, reason)
        role = self._roles.get(child.role)
        if role is not None and role.is_wanted and not child.was_drained:
            self._replace(role, child, reason)

    def _replace(self, role: Role, child: Child, reason: str) -> None:
        hopeless = role.died(child, reason, self._clock.monotonic())
        if hopeless:
            self._give_up(role, hopeless)
            return
        delay_s = role.delay_s()
        _log.warning("event=respawn role=%s in_s=%g", role.name, delay_s)
        if delay_s:
            self._timers.call_after(delay_s, partial(self._spawn_if_wanted, role))
        else:
            self._spawn(role)

    def report_boot_failure(self, child: Child, reason: str) -> None:
        """A child reports that starting it again would fail again."""
        role = self._roles.get(child.role)
        if role is None:
            _log.error("event=boot_failed child=%s reason=%s", child.child_id, reason)
        else:
            self._give_up(role, f"{child.child_id}: {reason}")

    def _give_up(self, role: Role, reason: str) -> None:
        if role.is_vital:
            self._failures.append(RoleFailure(role.name, reason, is_vital=True))
        elif role.is_wanted:
            _log.error("event=role_failed role=%s reason=%s", role.name, reason)
            self.end_role(role.name)
            self._failures.append(RoleFailure(role.name, reason, is_vital=False))

    def take_failure(self) -> RoleFailure | None:
        """Remove and return the oldest failure of a role; None if there is none."""
        return self._failures.popleft() if self._failures else None

    def reopen_logs(self) -> None:
        """Have every child reopen its log files; the arbiter forwards it to the REST fronts."""
        for child in self.living(Kind.WORKER, Kind.PROBE, Kind.FETCHER, Kind.GRPC, Kind.ARBITER):
            child.signal(signal.SIGUSR1)

    def stop_replacing(self, name: str = "") -> None:
        """Stop replacing children that die, of one role or of all."""
        for role in self._roles.values():
            if name in ("", role.name):
                role.is_wanted = False

    def end_role(self, name: str) -> None:
        """Kill the child of a role and do not replace it."""
        self.stop_replacing(name)
        for child in self.living():
            if child.role == name:
                child.end("its role is given up", is_dismissed=True)

    def end_within(self, child: Child, within_s: float) -> None:
        """Kill a draining child that has not ended by then."""
        reason = f"it did not end within {within_s:g} s of being asked to"
        self._timers.call_after(within_s, partial(child.end, reason))

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
            if not child.has_ended:
                self._poller.unregister(child.pidfd)
            child.close()
        self._children.clear()
        self._by_pidfd.clear()
        self._ending.clear()
        while (pid := ended_child()) is not None:
            collect_stranger(pid)
