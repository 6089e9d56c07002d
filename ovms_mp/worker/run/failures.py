# SPDX-License-Identifier: Apache-2.0
"""The terminal answers of tasks that failed."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ovms_mp.errors import INTERNAL_ERROR_TEXT, InferenceFailed
from ovms_mp.wire.records import bounded_text
from ovms_mp.wire.tasks import InferFailed

if TYPE_CHECKING:
    from ovms_mp.errors import OvmsError
    from ovms_mp.wire.tasks import InferResult, InferTask


def failure(task: InferTask, error: OvmsError) -> InferFailed:
    """The answer of a task that failed."""
    text = bounded_text(error.message)
    return InferFailed(task.task_id, type(error).__name__, text, retry_after_s=error.retry_after_s)


def defect_answer(task: InferTask | InferResult | InferFailed) -> InferFailed:
    """The answer of a task for which a step of the worker raised."""
    return InferFailed(task.task_id, InferenceFailed.__name__, INTERNAL_ERROR_TEXT)
