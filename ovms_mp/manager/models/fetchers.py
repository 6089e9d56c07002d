# SPDX-License-Identifier: Apache-2.0
"""The process that downloads models from object stores: one for all of them, started when there is something to do.

It stays for the next listing, as its libraries take most of a second to be imported, and ends when no model comes from
a store any more. One that dies, or is ended because a fetch hangs in it, is started again for the next fetch;
downloads go on where they were.
"""

from __future__ import annotations

import logging
from functools import partial
from typing import TYPE_CHECKING

from ovms_mp.defects import contain
from ovms_mp.manager.children.child import ChildState
from ovms_mp.manager.children.kinds import Kind
from ovms_mp.manager.children.priority import give_some_time
from ovms_mp.wire.messages import Drain

if TYPE_CHECKING:
    from ovms_mp.manager.children.child import Child
    from ovms_mp.manager.children.control import ControlChannel
    from ovms_mp.manager.children.spec_maker import SpecMaker
    from ovms_mp.manager.children.supervisor import Supervisor
    from ovms_mp.wire.messages import Fetch

_log = logging.getLogger(__name__)

_END_WITHIN_S = 10.0


class FetcherProcess:
    """Owned by the manager's loop."""

    def __init__(self, supervisor: Supervisor, specs: SpecMaker, control: ControlChannel) -> None:
        self._supervisor = supervisor
        self._specs = specs
        self._control = control
        self._child: Child | None = None
        self._waiting: list[Fetch] = []
        self._count = 0

    def send(self, fetch: Fetch) -> bool:
        """Have something fetched, by a new process where there is none; False where the system refuses one."""
        if self._child is None:
            self._count += 1
            self._child = self._supervisor.spawn_once(
                Kind.FETCHER, self._specs.fetcher(f"fetcher.{self._count}"), ()
            )
            if self._child is None:
                return False
        if self._child.state is ChildState.READY:
            self._control.send(self._child, fetch)
        else:
            self._waiting.append(fetch)
        return True

    def ready(self, child: Child) -> None:
        """It takes work."""
        if child is not self._child:
            return
        # Now that it has its threads: what is served comes first.
        contain("manager.priority", child.child_id, give_some_time, child.pid)
        waiting, self._waiting = self._waiting, []
        for fetch in waiting:
            self._control.send(child, fetch)

    def exited(self, child: Child) -> bool:
        """A fetcher has ended; whether with it all that it was given."""
        if child is not self._child:
            return False
        self._child = None
        self._waiting.clear()
        return True

    def end(self, reason: str, *, is_dismissed: bool = False) -> None:
        """End it at once."""
        if self._child is not None:
            self._child.end(reason, is_dismissed=is_dismissed)

    def dismiss(self) -> None:
        """There is nothing to fetch any more."""
        child, self._child = self._child, None
        self._waiting.clear()
        if child is None:
            return
        if child.state is not ChildState.READY or not contain(
            "manager.drain", child.child_id, self._control.send, child, Drain(0)
        ):
            child.end("nothing is to be fetched any more", is_dismissed=True)
            return
        child.to(ChildState.DRAINING)
        contain(
            "manager.drain",
            child.child_id,
            partial(self._supervisor.end_within, child, _END_WITHIN_S),
        )
