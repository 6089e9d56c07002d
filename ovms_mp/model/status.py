# SPDX-License-Identifier: Apache-2.0
"""The status machine of a model version. States, numbers and words are TensorFlow Serving's.

::

    START --> LOADING --> AVAILABLE --> UNLOADING --> END
      ^        |   ^          |                        |
      |        |   +----------+ (its worker died)      |
      +--------+ (a failed load is tried again)        |
      +------------------------------------------------+ (the directory came back)

A failed load stays LOADING with an error, as OVMS clients expect; END entries are kept. Pure; the manager
holds the records and publishes them.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass, replace

from ovms_mp.errors import Code


class State(enum.IntEnum):
    """``tensorflow.serving.ModelVersionStatus.State``."""

    START = 10
    LOADING = 20
    AVAILABLE = 30
    UNLOADING = 40
    END = 50


_NEXT: dict[State, frozenset[State]] = {
    State.START: frozenset({State.LOADING, State.END}),
    State.LOADING: frozenset({State.START, State.LOADING, State.AVAILABLE, State.UNLOADING, State.END}),
    State.AVAILABLE: frozenset({State.LOADING, State.UNLOADING}),
    State.UNLOADING: frozenset({State.END}),
    State.END: frozenset({State.START}),
}


class IllegalTransition(Exception):
    """The caller's defect: the status machine has no such arrow."""


@dataclass(frozen=True, slots=True)
class VersionStatus:
    """State of one version, with the error of its last failed load.

    Attributes:
        version: Positive version number.
        state: Where in the life cycle.
        error_code: gRPC code number, 0 for none. A failed load has 2 (UNKNOWN), as every OVMS generation
            reports it.
        error_message: Empty when there is no error; legacy clients compare it with "".
    """

    version: int
    state: State = State.START
    error_code: int = 0
    error_message: str = ""

    def to(self, state: State) -> VersionStatus:
        """The status after a step of the life cycle; an error is forgotten.

        Raises:
            IllegalTransition: The machine has no such arrow.
        """
        if state not in _NEXT[self.state]:
            raise IllegalTransition(f"version {self.version}: {self.state.name} -> {state.name}")
        return replace(self, state=state, error_code=0, error_message="")

    def failed(self, message: str) -> VersionStatus:
        """The status after a failed load: still LOADING, with the reason."""
        return replace(
            self, state=State.LOADING, error_code=Code.UNKNOWN.number, error_message=message or "load failed"
        )
