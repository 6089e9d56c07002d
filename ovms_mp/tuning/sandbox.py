# SPDX-License-Identifier: Apache-2.0
"""Servers of our own, on Unix sockets in a private directory, that are gone when the ``with`` block ends.

One for each number of workers, started when it is first needed. A server serves many settings of the model at once,
each under a name of its own, so that they can be measured by turns; those that wait cost no processor time. Where
memory does not allow that, :meth:`Sandbox.serve` is called with one at a time.

Nothing is left behind: a server dies with this process whatever ends it, and its directory goes with the block.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import os
import signal
import subprocess
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from ovms_mp.bench.asking import ask
from ovms_mp.bench.dialects import Dialect
from ovms_mp.bench.endpoint import Endpoint, Trust
from ovms_mp.bench.failure import NoMeasurement
from ovms_mp.child.lifetime import die_with_parent
from ovms_mp.places import module_command, module_environment

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from types import TracebackType
    from typing import Self

    from ovms_mp.tuning.candidates import Candidate

_START_TIMEOUT_S = 60.0
_STOP_TIMEOUT_S = 15.0
_CALL_TIMEOUT_S = 10.0
_PACE_S = 0.05
_LOG_CHARACTERS = 2000
_AVAILABLE = 30
"""ModelVersionStatus.State of TensorFlow Serving."""


class Sandbox:
    """The servers."""

    def __init__(
        self,
        base_path: str,
        given: Mapping[str, object],
        environment: Mapping[str, str],
        load_timeout_s: float,
        flags: Sequence[str] = (),
    ) -> None:
        """Start nothing yet.

        Args:
            base_path: The model's, absolute.
            given: Keys of the model that are not varied.
            environment: The servers'.
            load_timeout_s: How long a server may take to load a setting.
            flags: Further ones of the servers.
        """
        self._base_path = base_path
        self._given = given
        self._environment = module_environment(environment)
        self._load_timeout_s = load_timeout_s
        self._flags = flags
        self._names: dict[Candidate, str] = {}
        self._servers: dict[int, _Server] = {}
        self._stack = contextlib.ExitStack()

    def __enter__(self) -> Self:
        self.directory = Path(self._stack.enter_context(tempfile.TemporaryDirectory(prefix="ovms-mp-tune-")))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._stack.close()

    def endpoint(self, candidate: Candidate) -> Endpoint:
        """Where a setting is served."""
        return self._servers[candidate.workers].endpoint

    def name(self, candidate: Candidate) -> str:
        """The model's name with a setting."""
        return self._names.setdefault(candidate, f"setting-{len(self._names)}")

    def check(self) -> None:
        """See that all servers are still there.

        Raises:
            NoMeasurement: One has ended.
        """
        for server in self._servers.values():
            server.check()

    def serve(self, candidates: Sequence[Candidate]) -> dict[Candidate, str]:
        """Serve these and nothing else; those that cannot be served, with the reason.

        Raises:
            NoMeasurement: A server does not start.
        """
        by_workers: dict[int, list[Candidate]] = {workers: [] for workers in self._servers}
        for candidate in candidates:
            by_workers.setdefault(candidate.workers, []).append(candidate)
        failures: dict[Candidate, str] = {}
        for workers, group in by_workers.items():
            entries = {self.name(candidate): candidate.model_keys for candidate in group}
            models = [
                {"name": name, "base_path": self._base_path, **self._given, **keys}
                for name, keys in entries.items()
            ]
            server = self._servers.get(workers)
            if server is None:
                server = _Server(self.directory, workers, self._flags, self._environment)
                server.configure(models)
                self._servers[workers] = self._stack.enter_context(server)
            else:
                server.configure(models)
            for candidate in group:
                failure = asyncio.run(server.loaded(self.name(candidate), self._load_timeout_s))
                if failure:
                    failures[candidate] = failure
        return failures


class _Server:
    """One server as our child."""

    def __init__(
        self, directory: Path, workers: int, flags: Sequence[str], environment: Mapping[str, str]
    ) -> None:
        self._config_path = directory / f"config-{workers}.json"
        self._log_path = directory / f"log-{workers}"
        self._environment = environment
        self.endpoint = Endpoint(is_grpc=True, unix_path=str(directory / f"grpc-{workers}"))
        self._command = [
            *module_command("ovms_mp", "config", "--config_path", str(self._config_path)),
            *("--port", "0", "--grpc_bind_address", f"unix:{self.endpoint.unix_path}"),
            *("--cpu_workers", str(workers), "--cache_dir", str(directory / "cache"), "--log_level", "ERROR"),
            *flags,
        ]

    def __enter__(self) -> Self:
        with self._log_path.open("ab") as log:
            self._child = subprocess.Popen(
                self._command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=self._environment,
                start_new_session=True,  # Ctrl-C is for us, who stop it.
                preexec_fn=functools.partial(die_with_parent, os.getpid()),  # no threads here
            )
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        try:
            self._child.send_signal(signal.SIGTERM)
            self._child.wait(_STOP_TIMEOUT_S)
        except (subprocess.TimeoutExpired, KeyboardInterrupt):
            self._child.kill()
            self._child.wait()

    def configure(self, models: Sequence[Mapping[str, object]]) -> None:
        """Write the configuration, by a rename: the server watches it."""
        fresh = self._config_path.with_suffix(".new")
        fresh.write_bytes(msgspec.json.encode({"model_config_list": [{"config": model} for model in models]}))
        fresh.replace(self._config_path)

    def check(self) -> None:
        """See that it is still there.

        Raises:
            NoMeasurement: It has ended.
        """
        if self._child.poll() is not None:
            raise NoMeasurement(f"the server that was to be measured has ended:\n{self._log_tail()}")

    async def loaded(self, name: str, within_s: float) -> str:
        """Wait until a model is served; why it is not, or nothing.

        Raises:
            NoMeasurement: The server has ended, or does not answer.
        """
        begun_s = time.monotonic()
        has_answered = False
        while True:
            self.check()
            try:
                state, error = await self._state(name)
                has_answered = True
            except NoMeasurement:
                state, error = 0, ""  # It is not there yet.
            if state == _AVAILABLE or error:
                return error
            waited_s = time.monotonic() - begun_s
            if has_answered and waited_s > within_s:
                return f"not loaded within {within_s:g} s; see --load_timeout"
            if not has_answered and waited_s > _START_TIMEOUT_S:
                raise NoMeasurement(
                    f"the server that was to be measured does not answer in {_START_TIMEOUT_S:g} s:\n{self._log_tail()}"
                )
            await asyncio.sleep(_PACE_S)

    async def _state(self, name: str) -> tuple[int, str]:
        """State of a model's version and the error it has ended with; 0 where it is not known yet.

        Raises:
            NoMeasurement: There is no answer.
        """
        dialect = Dialect(self.endpoint, "tfs", name, "", "")
        answer = await ask(self.endpoint, Trust(), dialect.status_request(), _CALL_TIMEOUT_S)
        return (0, "") if answer.outcome else dialect.state(answer.body)

    def _log_tail(self) -> str:
        return self._log_path.read_text(errors="replace")[-_LOG_CHARACTERS:].strip()
