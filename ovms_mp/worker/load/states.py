# SPDX-License-Identifier: Apache-2.0
"""Models with states (ReadValue and Assign operations): every request begins with the initial ones.

An infer request of such a model keeps its states from one run to the next, and serves whoever comes. Until requests can
name the sequence that they belong to, the states are reset before each run, so that no client's answer depends on
another client's request, nor on the trial inference. PERF: 1 us a run, and nothing for models without states.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

    import openvino as ov


def has_states(request: ov.InferRequest) -> bool:
    """Whether an infer request keeps something from one run to the next."""
    try:
        return bool(request.query_state())
    except RuntimeError:
        return False  # A device that knows no states compiles no model that has some.


def state_notices(request: ov.InferRequest) -> Iterator[str]:
    """What people should know of a model that has states; ``request`` is one of its infer requests."""
    if has_states(request):
        names = ", ".join(sorted(repr(state.name) for state in request.query_state()))
        yield (
            f"the model has states ({names}), which are reset before each request: sequences of requests are not "
            "supported"
        )
