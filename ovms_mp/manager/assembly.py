# SPDX-License-Identifier: Apache-2.0
"""Builds the manager: takes ports, memory and signals, then makes each part from those that it needs.

Whatever happens later, no process, file or port is left behind.
"""

from __future__ import annotations

import contextlib
import ctypes
import logging
import os
from typing import TYPE_CHECKING, Protocol, TypeVar

from ovms_mp.child.memory import read_memory
from ovms_mp.child.process_use import use_of
from ovms_mp.config.addresses import parse_socket_mode
from ovms_mp.config.server import MEBIBYTE
from ovms_mp.errors import BootError
from ovms_mp.log_levels import LogLevels
from ovms_mp.manager.announcement import Announcement
from ovms_mp.manager.changes.changes import Changes
from ovms_mp.manager.changes.log_state import CurrentLevels, LogState
from ovms_mp.manager.changes.models import Models
from ovms_mp.manager.changes.region_socket import RegionSocket
from ovms_mp.manager.changes.regions import Regions
from ovms_mp.manager.changes.reloads import Reloads
from ovms_mp.manager.changes.signal_reloads import SignalReloads
from ovms_mp.manager.changes.trace_state import TraceState
from ovms_mp.manager.child_events import ChildEvents
from ovms_mp.manager.children.control import ControlChannel
from ovms_mp.manager.children.owned_directory import sweep
from ovms_mp.manager.children.process_limits import check_process_limits
from ovms_mp.manager.children.reaper import ReapingThread
from ovms_mp.manager.children.socket_directory import SocketDirectory
from ovms_mp.manager.children.spec_maker import SpecMaker, count_fronts
from ovms_mp.manager.children.supervisor import Supervisor
from ovms_mp.manager.fronts.api_keys import LOOK_INTERVAL_S, ApiKeys
from ovms_mp.manager.fronts.arbiter_pipes import ArbiterPipes
from ovms_mp.manager.fronts.arenas import ArenaPool
from ovms_mp.manager.fronts.fronts import Fronts
from ovms_mp.manager.fronts.ports import take_ports
from ovms_mp.manager.fronts.unix_sockets import bind_unix
from ovms_mp.manager.inbox import Inbox
from ovms_mp.manager.lifecycle import Lifecycle
from ovms_mp.manager.machine_use import read_throttling
from ovms_mp.manager.manager import Manager
from ovms_mp.manager.models.catalogue import Catalogue
from ovms_mp.manager.models.compile_caches import CompileCaches, cache_directory_of
from ovms_mp.manager.models.counter_pages import CounterPages
from ovms_mp.manager.models.fetchers import FetcherProcess
from ovms_mp.manager.models.load_reports import LoadReports
from ovms_mp.manager.models.quarantine import Quarantine
from ovms_mp.manager.models.rescan_request import RescanRequest
from ovms_mp.manager.models.rescans import Rescans
from ovms_mp.manager.models.stores import Stores
from ovms_mp.manager.models.trial_memory import TrialMemory
from ovms_mp.manager.models.trials import ProbeLauncher, Trials
from ovms_mp.manager.publisher import Publisher
from ovms_mp.manager.service.reports import ServiceReports
from ovms_mp.manager.shutdown import Shutdown
from ovms_mp.manager.signal_pipe import SignalPipe
from ovms_mp.manager.signals import Signals
from ovms_mp.manager.status_socket import StatusSocket, listen_for_status
from ovms_mp.manager.tally import LOOK_S, Tally
from ovms_mp.manager.terminal import Terminal
from ovms_mp.manager.timers import Timers
from ovms_mp.manager.turn_times import TurnTimes
from ovms_mp.manager.workers.machine import read_machine
from ovms_mp.manager.workers.provisioner import Provisioner
from ovms_mp.manager.workers.workers import Workers
from ovms_mp.wire.channels import Poller, Router
from ovms_mp.wire.counters import CountersFile
from ovms_mp.wire.records import TraceSettings
from ovms_mp.wire.status_document import status_document
from ovms_mp.wire.version_counters import VersionTotals

if TYPE_CHECKING:
    import socket
    from collections.abc import Iterator, Sequence

    from ovms_mp.config.server import ServerConfig
    from ovms_mp.manager.clock import Clock
    from ovms_mp.manager.service.service_manager import ServiceManager

_log = logging.getLogger(__name__)

_PR_SET_CHILD_SUBREAPER = 36
_WORKER_ROWS = 64
"""Of the counters; what the 65th worker at once counts is lost, which is no request. Unused ones take no memory."""


class _Owner(Protocol):
    def close(self) -> None: ...


OwnerT = TypeVar("OwnerT", bound=_Owner)


@contextlib.contextmanager
def opened_manager(
    config: ServerConfig,
    run_id: str,
    clock: Clock,
    service_manager: ServiceManager,
    inherited: Sequence[socket.socket],
) -> Iterator[Manager]:
    """A manager that holds its ports, memory and signals, and has no child yet.

    Args:
        config: Everything that the server is told.
        run_id: Names this run in each line of the log.
        clock: What all parts go by.
        service_manager: What started this process, or nobody.
        inherited: Its listening sockets; ours from now on.

    Raises:
        BootError: A port is taken, the memory is refused, or a limit of the process is too low.
    """
    with contextlib.ExitStack() as stack:
        # REST fronts whose arbiter died become our children, so that we can reap them also where init does
        # not.
        ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
        timers, machine = Timers(clock), read_machine()
        service_reports = _owned(stack, ServiceReports(service_manager, timers, clock))
        check_process_limits(count_fronts(config), config.limits.arena_size_mb)
        poller = _owned(stack, Poller())
        reaper = _owned(stack, ReapingThread(poller))
        ports = _owned(stack, take_ports(config, inherited))
        arenas = _owned(stack, _take_arenas(config))
        counters = _owned(stack, _take_counters(config))
        memory = (*arenas.descriptors(), counters.handle.descriptor)
        sweep()  # What killed servers of this user left in the temporary directory.
        pipes = _owned(stack, ArbiterPipes(poller))
        sockets = _owned(stack, SocketDirectory())
        control_endpoint = sockets.new_endpoint()
        router = _owned(stack, Router(control_endpoint))
        poller.register(router)
        control = ControlChannel(router)
        current_levels = CurrentLevels(LogLevels.of(config.log.level))
        specs = SpecMaker(
            config,
            run_id,
            control_endpoint,
            arenas.handles,
            read_memory(),
            current_levels.read,
            sockets.new_endpoint,
            counters.handle,
        )
        supervision = config.supervision
        caches = _owned(stack, CompileCaches(cache_directory_of(config.engine)))
        workers = _owned(stack, Workers(control, timers, supervision.load_timeout_s, counters))
        cores = machine.quota_cores or len(machine.cores)
        tally = Tally(counters.own_row, clock, use_of, read_throttling, cores)
        supervisor = Supervisor(supervision, timers, poller, reaper, clock, tally.died)

        fronts = Fronts(config, supervisor, control, specs, ports, arenas, pipes, counters)
        provisioner = Provisioner(config, machine, supervisor, workers, control, specs, memory, timers, clock)
        trials = Trials(
            ProbeLauncher(supervisor, specs, provisioner, arenas.descriptors()),
            timers,
            time_limit_s=supervision.load_timeout_s,
            most_at_once=max(1, min(8, len(machine.cores) // 2)),
            caches=caches,
            memory=TrialMemory(config.engine.trial_memory_limit_mb),
        )
        announcement = Announcement(config)
        request = RescanRequest()
        catalogue = Catalogue(
            config.models,
            config.limits,
            workers,
            trials,
            clock,
            CounterPages(counters.clear, has_metrics=bool(config.metrics.names)),
            on_outdated=request.ask,
            on_loaded=announcement.loaded,
            on_failed=tally.load_failed,
        )
        catalogue.refuse(config.refused)
        fetcher = FetcherProcess(supervisor, specs, control)
        stores = Stores(
            config.repository,
            fetcher,
            catalogue,
            request,
            timers,
            clock,
            config_store=config.config_store,
            on_fetched=tally.fetched,
            on_moved=tally.fetching,
        )
        rescans = _owned(
            stack, Rescans(config, catalogue, stores, provisioner, request, poller, timers, clock)
        )
        quarantine = Quarantine(catalogue, provisioner, clock)
        load_reports = LoadReports(config, catalogue, trials, workers, timers, clock)
        regions = Regions(config.clients.shm_limit_mb * MEBIBYTE)
        log_file = os.path.basename(config.log.path)
        api_keys = ApiKeys(config.access)
        if api_keys:
            timers.call_every(LOOK_INTERVAL_S, api_keys.look)
        log_state = LogState(current_levels, log_file, supervisor, control, pipes)
        trace_state = TraceState(TraceSettings() if config.trace.is_on else None)
        shutdown = Shutdown(
            supervision.stop_grace_s,
            supervision.stop_notice_s,
            supervisor,
            fronts,
            trials,
            stores,
            control,
            timers,
            clock,
        )
        lifecycle = Lifecycle(
            config,
            supervisor,
            workers,
            provisioner,
            fronts,
            catalogue,
            rescans,
            load_reports,
            shutdown,
            service_reports,
            timers,
            clock,
        )
        publisher = Publisher(
            lifecycle,
            catalogue,
            workers,
            provisioner,
            quarantine,
            rescans,
            stores,
            regions,
            log_state,
            api_keys,
            trace_state,
            fronts,
            announcement,
            service_reports,
            supervision.ready_when,
        )
        reloads = Reloads(catalogue, rescans)
        changes = Changes(
            reloads,
            Models(catalogue, rescans),
            regions,
            log_state,
            trace_state,
            publisher,
            timers,
            clock,
            is_allowed=config.clients.may_change_state,
        )
        region_socket = _owned(stack, _region_socket(config, regions, changes, poller, timers, clock))
        events = ChildEvents(
            supervisor=supervisor,
            control=control,
            lifecycle=lifecycle,
            shutdown=shutdown,
            publisher=publisher,
            fronts=fronts,
            workers=workers,
            provisioner=provisioner,
            catalogue=catalogue,
            trials=trials,
            load_reports=load_reports,
            quarantine=quarantine,
            rescans=rescans,
            stores=stores,
            changes=changes,
            log_state=log_state,
            tally=tally,
        )
        inbox = Inbox(control, supervisor, catalogue.deployments, timers, events)
        turn_times = TurnTimes(clock)
        timers.call_every(LOOK_S, lambda: tally.look(supervisor.living(), turn_times.longest_s()))
        status = _owned(
            stack, _status_socket(config, poller, timers, publisher, rescans, counters, turn_times)
        )
        signals = Signals(
            lifecycle,
            supervisor,
            SignalReloads(reloads, changes, service_reports),
            Terminal(clock),
            timers,
        )
        signal_pipe = _owned(stack, SignalPipe(poller))
        stack.callback(supervisor.kill_all)  # First of all.
        yield Manager(
            poller=poller,
            timers=timers,
            signal_pipe=signal_pipe,
            signals=signals,
            supervisor=supervisor,
            inbox=inbox,
            events=events,
            fronts=fronts,
            rescans=rescans,
            changes=changes,
            lifecycle=lifecycle,
            publisher=publisher,
            status=status,
            region_socket=region_socket,
            clock=clock,
            turn_times=turn_times,
        )


def _owned(stack: contextlib.ExitStack, owner: OwnerT) -> OwnerT:
    """Close it when the manager is left."""
    return stack.enter_context(contextlib.closing(owner))


def _take_arenas(config: ServerConfig) -> ArenaPool:
    """Arenas for all fronts and as many successors.

    Raises:
        BootError: The memory is refused.
    """
    try:
        return ArenaPool(2 * count_fronts(config), config.limits.arena_size_mb * MEBIBYTE)
    except OSError as error:
        raise BootError(f"--arena_size_mb {config.limits.arena_size_mb}: {error.strerror}") from None


def _take_counters(config: ServerConfig) -> CountersFile:
    """A row for each arena, as its number is the row of the front that owns it, and some for workers.

    Raises:
        BootError: The memory is refused.
    """
    try:
        return CountersFile(2 * count_fronts(config), _WORKER_ROWS)
    except OSError as error:
        raise BootError(f"memory for counters (memfd_create): {error.strerror}") from None


def _region_socket(
    config: ServerConfig, regions: Regions, changes: Changes, poller: Poller, timers: Timers, clock: Clock
) -> RegionSocket:
    """Where clients hand over memory, if they may.

    Raises:
        BootError: The socket cannot be made.
    """
    path = config.clients.shm_socket
    mode = parse_socket_mode(config.unix.mode)
    bound = bind_unix([path] if path else [], "client_shm_socket", mode, config.unix.group)
    return RegionSocket(bound[0] if bound else None, regions, changes, poller, timers, clock)


def _status_socket(
    config: ServerConfig,
    poller: Poller,
    timers: Timers,
    publisher: Publisher,
    rescans: Rescans,
    counters: CountersFile,
    turn_times: TurnTimes,
) -> StatusSocket:
    listener = None
    try:
        listener = listen_for_status(config.grpc.tcp_port, config.rest.tcp_port)
    except OSError as error:
        _log.warning("event=no_status_socket `ovms_mp status` needs --rest_port here: %s", error)

    def totals_of(page: int) -> VersionTotals:
        return VersionTotals.of(counters.reader.pages(page))

    return StatusSocket(
        listener,
        poller,
        timers,
        lambda: status_document(
            publisher.snapshot(),
            totals_of,
            rescans.momentary_notes(),
            rescans.config_notes(),
            longest_turn_s=turn_times.longest_s(),
        ),
    )
