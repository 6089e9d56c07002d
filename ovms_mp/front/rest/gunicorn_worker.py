# SPDX-License-Identifier: Apache-2.0
"""The gunicorn worker class: uvicorn on uvloop and httptools, four times gthread here (design record, section 7)."""

from __future__ import annotations

import signal
from typing import TYPE_CHECKING, Any

from uvicorn_worker import UvicornWorker

from ovms_mp.child.lifetime import STOP_SIGNALS, holding_log_signals, take_log_signals
from ovms_mp.defects import contain

if TYPE_CHECKING:
    from typing import ClassVar


class RestWorker(UvicornWorker):
    """uvicorn with its C parts named, so that a missing one is an error and not a slow server."""

    CONFIG_KWARGS: ClassVar[dict[str, Any]] = {
        "loop": "uvloop",
        "http": "ovms_mp.front.rest.secure:new_protocol",  # Loaded behind the fork.
        "lifespan": "on",
        "access_log": False,
        "server_header": False,
        # Whom a proxy speaks for is decided by the gate; uvicorn believes whoever connects from this machine.
        "proxy_headers": False,
        "ws": "none",
    }

    def __init__(self, age: int, ppid: int, sockets: list[Any], *rest: Any) -> None:
        """Take the sockets out of gunicorn's wrappers.

        uvloop detaches a socket whose descriptor it closes. A wrapper it can only close, and so closes the number a
        second time, which may be another file's by then.
        """
        super().__init__(age, ppid, [wrapper.sock for wrapper in sockets], *rest)

    def init_signals(self) -> None:
        """Have no signal end this process that is not meant to; for a moment gunicorn lets all of them."""
        with holding_log_signals():
            super().init_signals()
            take_log_signals()
        # Held since the fork; one that came meanwhile ends this process now.
        signal.pthread_sigmask(signal.SIG_UNBLOCK, STOP_SIGNALS)

    async def callback_notify(self) -> None:
        """Tell the arbiter that this worker lives; what that raises would else end uvicorn's loop."""
        contain("rest.notify", "this sign of life", self.notify)
