# SPDX-License-Identifier: Apache-2.0
"""What happens when handling a child's message raised: only what the message was about fails."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ovms_mp.errors import INTERNAL_ERROR_TEXT, OvmsError
from ovms_mp.manager.models.deployment import load_failure
from ovms_mp.wire.messages import (
    ChangeState,
    Drained,
    FetchProgress,
    Heartbeat,
    LoadProgress,
    ModelStateChanged,
    PlanChanged,
    ProbeDone,
    RequestConvicted,
    SnapshotApplied,
    StateChanged,
)
from ovms_mp.wire.records import ErrorRecord

if TYPE_CHECKING:
    from ovms_mp.manager.children.child import Child
    from ovms_mp.manager.children.control import ControlChannel
    from ovms_mp.manager.models.deployments import Deployments

_NOT_LOADED = "the manager could not take note of the outcome of its load; the log has the reason"


def make_up_for(
    child: Child,
    message: object,
    deployments: Deployments,
    control: ControlChannel,
) -> None:
    """Fail the version or request that a message was about, or have the child replaced, whose successor repeats it.

    Args:
        child: The sender.
        message: What raised when it was handled.
        deployments: All of them.
        control: The way to the children.
    """
    match message:
        case (
            Heartbeat()
            | SnapshotApplied()
            | Drained()
            | RequestConvicted()
            | LoadProgress()
            | PlanChanged()
            | FetchProgress()
        ):
            return  # Said again in a moment, found out again, or not needed any more.
        case ModelStateChanged(handle=handle) | ProbeDone(handle=handle):
            deployment = deployments.find(handle)
            if deployment is not None:
                deployments.give_up(deployment, load_failure(_NOT_LOADED))
        case ChangeState(request_id=request_id):
            error = ErrorRecord.of(OvmsError(INTERNAL_ERROR_TEXT))
            control.send(child, StateChanged(request_id, is_changed=False, error=error))
        case _:
            child.end(f"its {type(message).__name__} could not be followed")
