# SPDX-License-Identifier: Apache-2.0
"""Who wants to know of calls: what counts, traces and logs them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from ovms_mp.codes import Code
    from ovms_mp.errors import OvmsError
    from ovms_mp.front.call_context import CallContext


class CallObserver(Protocol):
    """Told of each call's begin and end, in the front's event loop. Neither may raise or wait.

    A subclass that does not define ``begun`` is not told of begins.
    """

    def begun(self, context: CallContext) -> None:
        """The call's head is known. What refuses it, if anything does, comes later."""
        return  # Else a subclass had to define it.

    def ended(self, context: CallContext, code: Code | None, failure: OvmsError | None) -> None:
        """The call has its answer, which has not left yet; once for each call that has begun.

        Args:
            context: With all that was learnt of it.
            code: None for OK; CANCELLED where the client has gone before.
            failure: What the client is told; None where the transport itself ended the call, e.g. at its deadline.
        """
