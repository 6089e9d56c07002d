# SPDX-License-Identifier: Apache-2.0
"""Settings that are tried: how many streams, workers and infer requests."""

from __future__ import annotations

import json
import shlex
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from ovms_mp.config.model_keys import MODEL_KEYS

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

_HINTS = ("LATENCY", "THROUGHPUT")
_MOST_WORKERS = 8
_DEVICE_STREAMS = 4
"""The most that is tried first on other devices than the CPU."""
_BATCHING = ("auto", "off")


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """What is set; what is empty or 0 is left to the server.

    Attributes:
        workers: Inference workers (``--cpu_workers``).
        hint: OpenVINO's PERFORMANCE_HINT.
        streams: OpenVINO's NUM_STREAMS, of each worker.
        nireq: Infer requests of each worker.
        batching: Whether requests of several clients are run together.
    """

    workers: int = 1
    hint: str = ""
    streams: int = 0
    nireq: int = 0
    batching: str = ""

    @property
    def plugin_config(self) -> dict[str, str]:
        """OpenVINO's properties."""
        named = {"PERFORMANCE_HINT": self.hint, "NUM_STREAMS": str(self.streams) if self.streams else ""}
        return {name: value for name, value in named.items() if value}

    @property
    def model_keys(self) -> dict[str, object]:
        """Keys of the model in the configuration file."""
        keys: dict[str, object] = {}
        if self.plugin_config:
            keys["plugin_config"] = self.plugin_config
        if self.nireq:
            keys["nireq"] = self.nireq
        if self.batching:
            keys["batching"] = self.batching
        return keys

    @property
    def complexity(self) -> int:
        """How much it sets; the least is the simplest."""
        return len(self.plugin_config) + bool(self.nireq) + bool(self.batching) + 2 * (self.workers - 1)

    def text(self) -> str:
        """For people."""
        words = [f"{name} {value}" for name, value in self.plugin_config.items()]
        words += [f"nireq {self.nireq}"] if self.nireq else []
        words += [f"batching {self.batching}"] if self.batching else []
        words += [f"cpu_workers {self.workers}"] if self.workers > 1 else []
        return ", ".join(words) or "nothing set"


NOTHING = Candidate()


def first_candidates(cores: int, device: str, given: Mapping[str, object]) -> list[Candidate]:
    """The coarse grid, which begins with what a user has who sets nothing.

    Args:
        cores: That the server may use.
        device: OpenVINO's name. Only the CPU has several workers.
        given: Keys of the model that its user has fixed; those are not varied.
    """
    is_cpu = device == "CPU"
    found: dict[Candidate, None] = {}
    for workers in _powers(min(cores, _MOST_WORKERS)) if is_cpu else (1,):
        if "plugin_config" in given:
            found[Candidate(workers=workers)] = None
            continue
        if workers == 1:
            found.update(dict.fromkeys([NOTHING, *(Candidate(hint=hint) for hint in _HINTS)]))
        own_cores = cores // workers if is_cpu else _DEVICE_STREAMS
        if own_cores == 1:
            found[Candidate(workers=workers)] = None  # A core has one stream whatever is said.
        for streams in _powers(own_cores) if own_cores > 1 else ():
            found[Candidate(workers=workers, streams=streams)] = None
    return list(found)


def neighbours(best: Candidate, cores: int, given: Mapping[str, object]) -> list[Candidate]:
    """What differs from the best so far in one setting, and is not on the coarse grid."""
    found: dict[Candidate, None] = {}
    streams = best.streams or cores // best.workers
    if "nireq" not in given:
        for nireq in (max(1, streams), 2 * max(1, streams)):
            found[replace(best, nireq=nireq)] = None
    if best.streams and "plugin_config" not in given:
        for other in {best.streams * 3 // 2, best.streams * 3 // 4, best.streams * 2} - {0, best.streams}:
            found[replace(best, streams=other)] = None
    if "batching" in MODEL_KEYS and "batching" not in given:
        for batching in _BATCHING:
            found[replace(best, batching=batching)] = None
    found.pop(best, None)
    return list(found)


def _powers(most: int) -> Iterator[int]:
    """1, 2, 4 and so on, and ``most`` itself."""
    value = 1
    while value < most:
        yield value
        value *= 2
    yield most


def entry_text(candidate: Candidate, name: str, path: str, given: Mapping[str, object]) -> str:
    """The model's entry in a configuration file."""
    return json.dumps({"config": {"name": name, "base_path": path, **given, **candidate.model_keys}})


def command_text(candidate: Candidate, name: str, path: str, given: Mapping[str, object]) -> str:
    """The same as a command line."""
    words = ["ovms_mp", "model", "--model_name", name, "--model_path", path]
    for key, value in {**given, **candidate.model_keys}.items():
        words += [f"--{key}", value if isinstance(value, str) else json.dumps(value)]
    if candidate.workers > 1:
        words += ["--cpu_workers", str(candidate.workers)]
    return shlex.join(words)
