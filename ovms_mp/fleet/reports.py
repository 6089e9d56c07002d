# SPDX-License-Identifier: Apache-2.0
"""What the fleet's actors tell each other, as plain values: Ray carries them."""

from __future__ import annotations

from typing import Any

import msgspec

from ovms_mp.fleet.decisions.observation import ObservedModel, ObservedServer, ServerState


class ServerSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How a server is started: what :attr:`ServerSpec.settings` holds.

    Attributes:
        flags: Of its command line.
        cores: For it alone, where the machine has as many to spare.
        resources: Further ones that Ray knows, e.g. of a device: how much of each.
        directory: On its machine, for logs, configuration and models from object stores.
        drain_s: For requests that are under way when it stops.
    """

    flags: tuple[str, ...] = ()
    cores: int = 1
    resources: dict[str, float] = {}
    directory: str = ""
    drain_s: float = 60.0


class ServerReport(msgspec.Struct, kw_only=True):
    """From a server's actor to the controller, each turn.

    Attributes:
        host: Where it listens.
        node: Ray's number of the machine.
        pid: Of its parent, whose process group it is in.
        cores: Those that it has for itself; empty where it shares them.
        log: Path of its log on its machine.
        exit_code: Of one that has ended.
        models: Of each the revision that it was told, the one that it serves, failure and load.
    """

    state: str
    revision: str
    host: str
    port: int
    rest_port: int
    node: str = ""
    pid: int = 0
    cores: tuple[int, ...] = ()
    log: str = ""
    exit_code: int | None = None
    queue_depth: float | None = None
    utilisation: float | None = None
    used_bytes: int | None = None
    models: dict[str, tuple[str, str, str, float]] = {}

    def observed(self, number: int) -> ObservedServer:
        """As the decisions take it."""
        models = {
            name: ObservedModel(revision=revision, served=served, failure=failure, load=load)
            for name, (revision, served, failure, load) in self.models.items()
        }
        return ObservedServer(
            number=number,
            state=ServerState(self.state),
            revision=self.revision,
            queue_depth=self.queue_depth,
            utilisation=self.utilisation,
            used_bytes=self.used_bytes,
            models=models,
        )


def plain(value: object) -> dict[str, Any]:
    """A structure in what every Python has, for Ray to carry."""
    return dict(msgspec.to_builtins(value))
