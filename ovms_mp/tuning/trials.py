# SPDX-License-Identifier: Apache-2.0
"""Measure a setting in the sandbox."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ovms_mp.bench.endpoint import Trust
from ovms_mp.bench.failure import NoMeasurement
from ovms_mp.bench.load import Load
from ovms_mp.bench.measuring import Means, measure
from ovms_mp.bench.preparation import Subject, prepare

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from ovms_mp.bench.figures import Level
    from ovms_mp.bench.preparation import Prepared
    from ovms_mp.tuning.candidates import Candidate
    from ovms_mp.tuning.sandbox import Sandbox
    from ovms_mp.tuning.target import Target

_WARMUP_SHARE = 0.25
_LEAST_ANSWERS = 10
"""Of a run: fewer say little, and of slow models a short run has none."""
_LONGEST_S = 30.0
_LONGER = 5.0
"""How many times as long a run is made that had too few."""
_COPIES = 3
"""Of a model's files, that a loaded setting is held to take in memory: weights, their packed form, activations."""
_MEMORY_SHARE = 0.5
"""Of the memory that is free, which loaded settings may take."""
_MODEL_SUFFIXES = frozenset((".bin", ".onnx", ".pb", ".tflite", ".pdiparams", ".data"))


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """What is sent: see :func:`~ovms_mp.bench.inputs.make_tensors`."""

    given: Sequence[str]
    shapes: Mapping[str, tuple[int, ...]]
    batch: int = 1
    timeout_s: float = 30.0


class Trials:
    """Measures settings; keeps what was seen of each.

    Attributes:
        levels: Figures of all runs.
        failures: Why a setting cannot serve.
    """

    def __init__(
        self,
        sandbox: Sandbox,
        target: Target,
        sample: Sample,
        environment: Mapping[str, str],
        most_loaded: int,
    ) -> None:
        """Measure nothing yet.

        Args:
            sandbox: Where settings are served.
            target: Which load, and which of its figures counts.
            sample: What is sent.
            environment: Of processes that make load.
            most_loaded: How many settings may be loaded at once.
        """
        self.levels: dict[Candidate, list[Level]] = {}
        self.failures: dict[Candidate, str] = {}
        self._sandbox = sandbox
        self._target = target
        self._sample = sample
        self._environment = environment
        self._most_loaded = most_loaded
        self._loaded: frozenset[Candidate] = frozenset()
        self._prepared: dict[Candidate, Prepared] = {}
        self._least_s = 0.0

    def prepare(self, candidates: Sequence[Candidate]) -> None:
        """Have these loaded, where memory allows all of them at once."""
        if len(candidates) <= self._most_loaded:
            self._serve(candidates)

    def measure(self, candidate: Candidate, seconds: float) -> float:
        """The score of a run.

        Raises:
            KeyboardInterrupt: Ctrl-C ended it.
            NoMeasurement: The server has ended.
        """
        if candidate not in self._loaded and candidate not in self.failures:
            self._serve([candidate])
        if candidate in self.failures:
            return 0.0
        try:
            level = self._long_enough(candidate, seconds)
        except NoMeasurement as error:
            self._sandbox.check()
            # It has answered once; it is the setting that does not stand a load.
            self.failures[candidate] = error.message
            return 0.0
        self.levels.setdefault(candidate, []).append(level)
        return self._target.score(level)

    def _long_enough(self, candidate: Candidate, seconds: float) -> Level:
        level = self._run(candidate, max(seconds, self._least_s))
        if level.answered < _LEAST_ANSWERS and not level.errors:
            level = self._run(candidate, min(_LONGEST_S, _LONGER * level.seconds))
            if level.rate_per_s:
                self._least_s = min(_LONGEST_S, _LEAST_ANSWERS / level.rate_per_s)
        return level

    def _run(self, candidate: Candidate, seconds: float) -> Level:
        prepared = self._prepared[candidate]
        load = Load(
            endpoint=self._sandbox.endpoint(candidate),
            request=prepared.request,
            in_flight=self._target.in_flight,
            rate_per_s=self._target.rate_per_s,
            warmup_s=_WARMUP_SHARE * seconds,
            seconds=seconds,
            timeout_s=self._sample.timeout_s,
        )
        means = Means(
            answer_bytes=prepared.answer_bytes, scratch=self._sandbox.directory, environment=self._environment
        )
        level = measure(load, means, self._sandbox.name(candidate))
        if level.is_cut:
            raise KeyboardInterrupt
        return level

    @property
    def inputs(self) -> tuple[str, ...]:
        """What is sent, and what its user should know of it."""
        prepared = next(iter(self._prepared.values()), None)
        return () if prepared is None else (", ".join(prepared.inputs), *prepared.notes)

    def _serve(self, candidates: Sequence[Candidate]) -> None:
        if not self._prepared:
            self._prove(candidates[0])
        wanted = [candidate for candidate in candidates if candidate not in self.failures]
        self.failures.update(self._sandbox.serve(wanted))
        self._loaded = frozenset(candidate for candidate in wanted if candidate not in self.failures)
        for candidate in self._loaded - self._prepared.keys():
            try:
                self._prepared[candidate] = prepare(self._subject(candidate))
            except NoMeasurement as error:
                self.failures[candidate] = error.message

    def _prove(self, candidate: Candidate) -> None:
        """Serve the first setting alone: what keeps the model from being served keeps it from that with any setting.

        Raises:
            NoMeasurement: The model cannot be served, or does not answer.
        """
        for reason in self._sandbox.serve([candidate]).values():
            raise NoMeasurement(f"the model cannot be served: {reason}")
        self._prepared[candidate] = prepare(self._subject(candidate))

    def _subject(self, candidate: Candidate) -> Subject:
        return Subject(
            endpoint=self._sandbox.endpoint(candidate),
            model=self._sandbox.name(candidate),
            trust=Trust(),
            given=self._sample.given,
            shapes=self._sample.shapes,
            batch=self._sample.batch,
            timeout_s=self._sample.timeout_s,
        )


def most_loaded(base_path: Path, workers: int, meminfo: str) -> int:
    """How many settings may be loaded at once, by the size of the model's files and the memory that is free.

    Args:
        base_path: A model file, or a directory with versions.
        workers: The most that a setting has, each with a copy of its own.
        meminfo: Text of /proc/meminfo.
    """
    files = [base_path] if base_path.is_file() else base_path.rglob("*")
    size = max((_size(file) for file in files if file.suffix in _MODEL_SUFFIXES), default=1 << 20)
    free = next(
        (int(line.split()[1]) << 10 for line in meminfo.splitlines() if "MemAvailable" in line), 1 << 30
    )
    return max(1, int(free * _MEMORY_SHARE / (size * _COPIES * workers)))


def _size(file: Path) -> int:
    """Of a file; at least 1, also where it has gone or its link leads nowhere."""
    try:
        return max(1, file.stat().st_size)
    except OSError:
        return 1
