# SPDX-License-Identifier: Apache-2.0
"""What is measured: one TOML file a scenario, in ``perf/scenarios/``, run in the order of the file names."""

from __future__ import annotations

import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import msgspec

from perf import CHECKOUT
from perf.load.h2load import Protocol

SCENARIO_DIRECTORY = CHECKOUT / "perf" / "scenarios"

FloorName = Literal[
    "grpc_echo",
    "native_echo",
    "grpcio_front",
    "tfs_grpc",
    "tfs_rest",
    "falcon_echo",
    "json_parse",
    "openvino_sync",
    "openvino_async",
]


class Target(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What the project wants of the server beside a floor.

    Attributes:
        measure: "rate_ratio": server's rate / floor's, at least ``limit``; "added_p50_ms": server's median
            latency less the floor's, at most ``limit``; "p50_ratio": server's median latency / floor's, at most.
    """

    floor: FloorName
    measure: Literal["rate_ratio", "added_p50_ms", "p50_ratio"]
    limit: float


class Scenario(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One load on a server with one model.

    Attributes:
        name: The file's name without its order number.
        concurrency: Requests in flight, over all connections.
        connections: gRPC only; REST has as many as requests in flight.
        seconds: Length of one timed load.
        grpc_front: What carries gRPC: "native" or "grpcio".
        plugin_config: OpenVINO properties, of the server's model and of the direct floors.
    """

    name: str
    model: Literal["tiny", "payload", "mirror", "resnet50"]
    protocol: Protocol
    concurrency: int
    connections: int = 1
    seconds: float = 4.0
    grpc_workers: int = 1
    grpc_front: Literal["native", "grpcio"] = "native"
    rest_workers: int = 1
    plugin_config: dict[str, str | int | float | bool] = {}
    floors: tuple[FloorName, ...] = ()
    targets: tuple[Target, ...] = ()

    def __post_init__(self) -> None:
        if self.concurrency < 1 or self.connections < 1 or self.concurrency % self.connections:
            raise ValueError(
                f"concurrency {self.concurrency} does not divide among {self.connections} connections"
            )
        missing = {target.floor for target in self.targets} - set(self.floors)
        if missing:
            raise ValueError(f"targets need floors that are not listed: {sorted(missing)}")


class ScenarioError(Exception):
    """A scenario file is wrong, or no scenario has the wanted name."""


def read_scenarios(directory: Path = SCENARIO_DIRECTORY) -> tuple[Scenario, ...]:
    """Read all scenarios.

    Raises:
        ScenarioError: A file is not TOML, has an unknown key or a wrong value.
    """
    found: list[Scenario] = []
    for path in sorted(directory.glob("*.toml")):
        try:
            scenario = msgspec.convert(tomllib.loads(path.read_text()), Scenario)
        except (tomllib.TOMLDecodeError, msgspec.ValidationError) as error:
            raise ScenarioError(f"{path}: {error}") from None
        if path.stem.partition("-")[2] != scenario.name:
            raise ScenarioError(f"{path}: its name is {scenario.name!r}, not that of the file")
        found.append(scenario)
    return tuple(found)


def select_scenarios(scenarios: Sequence[Scenario], names: Sequence[str]) -> tuple[Scenario, ...]:
    """The scenarios of these names; a name may end in ``*``; no names means all.

    Raises:
        ScenarioError: A name fits no scenario.
    """
    if not names:
        return tuple(scenarios)
    for name in names:
        if not any(_fits(scenario.name, name) for scenario in scenarios):
            raise ScenarioError(f"no scenario {name!r}; there are: {', '.join(s.name for s in scenarios)}")
    return tuple(s for s in scenarios if any(_fits(s.name, name) for name in names))


def _fits(name: str, wanted: str) -> bool:
    return name.startswith(wanted[:-1]) if wanted.endswith("*") else name == wanted
