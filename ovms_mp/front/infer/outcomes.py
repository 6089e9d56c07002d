# SPDX-License-Identifier: Apache-2.0
"""How a task ends without a result: what its sender may do about it, as exceptions of the dispatcher's ``infer``."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from ovms_mp.errors import VersionNotFound, error_from_record

if TYPE_CHECKING:
    from ovms_mp.errors import OvmsError
    from ovms_mp.wire.tasks import InferFailed


@dataclass(frozen=True, slots=True)
class WorkerEnd:
    """How a worker ended that was running a task.

    Attributes:
        reason: For people.
        has_crashed: By a signal that a process brings on itself.
        was_alone: It ran nothing else.
    """

    reason: str
    has_crashed: bool
    was_alone: bool


class WorkerGone(Exception):
    """The task's worker was reaped before its answer; the lease is whole, so the task can be sent to a successor."""

    def __init__(self, end: WorkerEnd | None = None) -> None:
        super().__init__()
        self.end = end
        """What the worker had to do with the task; None where it is not known to have run it."""


class RouteWasStale(Exception):
    """The version was unloaded while the task was on its way; it has not run, so another route may be tried."""


class OutputsDidNotFit(Exception):
    """The output region was too small."""

    def __init__(self, needed_nbytes: int) -> None:
        super().__init__(needed_nbytes)
        self.needed_nbytes = needed_nbytes


def failure_of(answer: InferFailed) -> RouteWasStale | OutputsDidNotFit | OvmsError:
    """What a worker's refusal is raised as."""
    if answer.error_name == VersionNotFound.__name__:
        return RouteWasStale()
    if answer.needed_nbytes:
        return OutputsDidNotFit(answer.needed_nbytes)
    error = error_from_record(answer.error_name, answer.error_message)
    error.retry_after_s = answer.retry_after_s
    return error
