# SPDX-License-Identifier: Apache-2.0
"""``python -m ovms_mp.bench.generator``: one process that makes load.

It reads a :class:`Job` from stdin, connects, says ``ready``, begins when it is told to, and writes the record of its
requests to a file. SIGINT has it write what it has. It dies with the process that started it.

An open loop sends each request at its time of a schedule that was fixed before. That needs a loop which wakes up in
time: epoll counts in milliseconds, ``select`` in microseconds (Python's selectors). A closed loop waits for answers
only and runs on uvloop.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import gc
import math
import os
import resource
import selectors
import signal
import sys
import threading
import time
from array import array
from collections import deque
from typing import TYPE_CHECKING

import msgspec
import numpy as np
import uvloop

from ovms_mp.bench.asking import connect
from ovms_mp.bench.failure import NoMeasurement
from ovms_mp.bench.load import Load
from ovms_mp.bench.schedule import arrival_times
from ovms_mp.bench.wire_client import CONNECTION_LOST, OK, WireClient
from ovms_mp.child.lifetime import die_with_parent
from ovms_mp.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Sequence

READY, GO = b"ready\n", b"go\n"
TIMED_OUT = "timeout"
_RECONNECT_AFTER_S = 0.05
_LEAST_GRACE_S = 2.0
_MOST_SELECTED = 900
"""Below the 1,024 descriptors that ``select`` can watch."""


class Job(msgspec.Struct, frozen=True, kw_only=True):
    """What one process does of a load.

    Attributes:
        in_flight: Its share.
        part: Which of ``parts`` it is.
        result_path: Where it writes the record.
    """

    load: Load
    in_flight: int
    connections: int
    part: int
    parts: int
    result_path: str
    parent_pid: int


class Outcome(msgspec.Struct, frozen=True, kw_only=True):
    """What a process says beside the record."""

    outcomes: tuple[str, ...] = ()
    answer_bytes: float = 0.0
    cpu_share: float = 0.0
    held_back: int = 0
    is_cut: bool = False
    failure: str = ""


class _Run:
    """The requests of this process."""

    def __init__(self, job: Job) -> None:
        self.job = job
        self.load = job.load
        self.is_cut = False
        self._clients: list[WireClient] = []
        self._shares: dict[WireClient, int] = {}
        self._intended = array("d")
        self._sent = array("d")
        self._ended = array("d")
        self._codes = array("H")
        self._outcomes = {OK: 0}
        self._bytes = 0
        self._answers = 0
        self._held_back: deque[int] = deque()
        self._held_back_ever = 0
        self._turn = 0
        self._over = asyncio.Event()
        self._is_sending = False
        self._tasks: set[asyncio.Task[None]] = set()
        self._loop = asyncio.get_running_loop()
        self._begun_s = 0.0
        self._left = 0

    async def connect(self) -> None:
        """Open all connections."""
        total, count = self.job.in_flight, self.job.connections
        for index in range(count):
            share = (total * (index + 1)) // count - (total * index) // count
            await self._add(share)

    async def _add(self, share: int) -> WireClient:
        client = await connect(self.load.endpoint, self.load.trust, self.load.request, self)
        self._clients.append(client)
        self._shares[client] = share
        return client

    def cut(self) -> None:
        """End now."""
        self.is_cut = True
        self._over.set()

    async def run(self) -> Outcome:
        """Apply the load and record it."""
        self._begun_s = time.monotonic()
        self._is_sending = True
        sweeper = asyncio.create_task(self._sweep())
        cpu_s = _cpu_s()
        if self.load.in_flight:
            for client in self._clients:
                self._fill(client)
            self._loop.call_later(self.load.total_s, self._over.set)
        else:
            self._schedule()
        await self._over.wait()
        elapsed_s = time.monotonic() - self._begun_s
        self._is_sending = False
        cpu_s = _cpu_s() - cpu_s
        sweeper.cancel()
        for client in self._clients:
            client.close()
        self._write()
        return Outcome(
            outcomes=tuple(self._outcomes),
            answer_bytes=self._bytes / self._answers if self._answers else 0.0,
            cpu_share=cpu_s / elapsed_s,
            held_back=self._held_back_ever,
            is_cut=self.is_cut,
        )

    def _write(self) -> None:
        columns = (np.frombuffer(column, np.float64) for column in (self._intended, self._sent, self._ended))
        intended, sent, ended = columns
        np.savez(
            self.job.result_path,
            intended=intended,
            sent=sent,
            ended=ended,
            codes=np.frombuffer(self._codes, np.uint16),
        )

    # Closed loop.

    def _fill(self, client: WireClient) -> None:
        for _ in range(min(self._shares[client], client.most) - client.in_flight):
            self._send(client, time.monotonic() - self._begun_s)
        client.flush()

    def _send(self, client: WireClient, intended_s: float) -> None:
        token = self._new(intended_s)
        self._sent[token] = time.monotonic() - self._begun_s
        client.send(token)

    def _new(self, intended_s: float) -> int:
        token = len(self._intended)
        self._intended.append(intended_s)
        self._sent.append(math.nan)
        self._ended.append(math.nan)
        self._codes.append(0)
        return token

    # Open loop.

    def _schedule(self) -> None:
        load = self.load
        times = arrival_times(
            load.rate_per_s, load.total_s, load.arrivals, part=self.job.part, parts=self.job.parts
        )
        self._arrivals = times.tolist()
        self._left = len(self._arrivals)
        self._next = 0
        self._loop.call_later(load.total_s, self._check_end)
        self._loop.call_later(load.total_s + self._grace_s, self._over.set)
        self._arrive()

    @property
    def _grace_s(self) -> float:
        """For the last answers of an open loop."""
        return min(self.load.timeout_s, max(_LEAST_GRACE_S, self.load.seconds))

    def _arrive(self) -> None:
        """Send what is due, and come back for the next."""
        now_s = time.monotonic() - self._begun_s
        arrivals = self._arrivals
        while self._next < len(arrivals) and arrivals[self._next] <= now_s:
            self._issue(self._new(arrivals[self._next]))
            self._next += 1
        for client in self._clients:
            client.flush()
        if self._next < len(arrivals) and self._is_sending:
            self._loop.call_at(self._begun_s + arrivals[self._next], self._arrive)

    def _issue(self, token: int) -> None:
        count = len(self._clients)
        for step in range(count):
            client = self._clients[(self._turn + step) % count]
            if client.in_flight < client.most:
                self._turn = (self._turn + step + 1) % count
                self._sent[token] = time.monotonic() - self._begun_s
                client.send(token)
                return
        self._held_back.append(token)
        self._held_back_ever += 1

    def _check_end(self) -> None:
        if (
            not self.load.in_flight
            and not self._left
            and time.monotonic() - self._begun_s >= self.load.total_s
        ):
            self._over.set()

    # What comes back.

    def on_answer(self, client: WireClient, token: int, outcome: str, nbytes: int) -> None:
        """Record it, and send the next."""
        self._record(token, outcome)
        if outcome == OK:
            self._answers += 1
            self._bytes += nbytes
        if not self._is_sending:
            return
        if self.load.in_flight:
            if client.in_flight < min(self._shares[client], client.most):
                self._send(client, time.monotonic() - self._begun_s)
        elif self._held_back and client.in_flight < client.most:
            held = self._held_back.popleft()
            self._sent[held] = time.monotonic() - self._begun_s
            client.send(held)

    def _record(self, token: int, outcome: str) -> None:
        self._ended[token] = time.monotonic() - self._begun_s
        if outcome != OK:
            self._codes[token] = self._outcomes.setdefault(outcome, len(self._outcomes))
        if not self.load.in_flight:
            self._left -= 1
            if not self._left:
                self._check_end()

    def on_lost(self, client: WireClient, tokens: list[int], reason: str) -> None:
        """Count what it carried, and connect again."""
        if not self._is_sending or client not in self._shares:
            return
        for token in tokens:
            self._record(token, CONNECTION_LOST)
        self._clients.remove(client)
        task = asyncio.create_task(self._replace(self._shares.pop(client)))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _replace(self, share: int) -> None:
        while self._is_sending:
            with contextlib.suppress(NoMeasurement):
                client = await self._add(share)
                if self.load.in_flight:
                    self._fill(client)
                return
            await asyncio.sleep(_RECONNECT_AFTER_S)

    async def _sweep(self) -> None:
        """Give up requests that take too long."""
        limit_s = self.load.timeout_s
        while True:
            await asyncio.sleep(min(1.0, limit_s / 4))
            late_s = time.monotonic() - self._begun_s - limit_s
            for client in list(self._clients):
                for token in client.give_up(functools.partial(self._was_sent_before, late_s)):
                    self._record(token, TIMED_OUT)
                if self.load.in_flight:
                    self._fill(client)

    def _was_sent_before(self, time_s: float, token: int) -> bool:
        return self._sent[token] < time_s


def _cpu_s() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


async def _work(job: Job) -> Outcome:
    run = _Run(job)
    try:
        await run.connect()
    except (NoMeasurement, ConfigError) as error:
        return Outcome(failure=error.message)
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, run.cut)
    sys.stdout.buffer.write(READY)
    sys.stdout.buffer.flush()
    told = asyncio.Event()

    def listen() -> None:
        sys.stdin.buffer.readline()
        loop.call_soon_threadsafe(told.set)

    threading.Thread(target=listen, daemon=True).start()
    await told.wait()
    gc.freeze()
    gc.disable()  # Nothing here makes cycles, and a collection would be in somebody's latency.
    return await run.run()


def _loop_of(job: Job) -> asyncio.AbstractEventLoop:
    if job.load.in_flight or job.connections > _MOST_SELECTED:
        return uvloop.new_event_loop()
    return asyncio.SelectorEventLoop(selectors.SelectSelector())


def main(_arguments: Sequence[str] = ()) -> int:
    """Do the job that stdin has."""
    job = msgspec.json.decode(sys.stdin.buffer.readline(), type=Job)
    die_with_parent(job.parent_pid)
    with asyncio.Runner(loop_factory=lambda: _loop_of(job)) as runner:
        outcome = runner.run(_work(job))
    sys.stdout.buffer.write(msgspec.json.encode(outcome) + b"\n")
    sys.stdout.buffer.flush()
    # The thread that waits for stdin does not keep the process.
    os._exit(0)


if __name__ == "__main__":
    main()
