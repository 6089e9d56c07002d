# SPDX-License-Identifier: Apache-2.0
"""Makes functions inside the processes of a real server raise, on demand and so many times, or stay where they are.

``targets`` are named as ``module:function`` or ``module:Class.method``. All are wrapped when their modules are imported
(``tests/support/faults/sitecustomize.py``), and do nothing before they are armed.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from tests.support.waiting import eventually

if TYPE_CHECKING:
    from collections.abc import Iterable

_RIG = Path(__file__).parent / "faults"
_WITHIN_S = 30.0
_STAY = -1


class Injection:
    """The faults of one server."""

    def __init__(self, directory: Path, targets: Iterable[str]) -> None:
        self._directory = directory
        for name in ("armed", "fired"):
            (directory / name).mkdir(parents=True)
        (directory / "targets").write_text("\n".join(sorted(set(targets))))

    @property
    def environment(self) -> dict[str, str]:
        """For the server."""
        return {"PYTHONPATH": str(_RIG), "OVMS_MP_TEST_FAULTS": str(self._directory)}

    def arm(self, target: str, times: int = 1) -> None:
        """Have the next calls raise."""
        armed = self._directory / "armed" / self._name(target)
        half_done = armed.with_name(f".{armed.name}")
        half_done.write_text(str(times))
        half_done.rename(armed)

    def arm_stay(self, target: str) -> None:
        """Have the next call stay there for a minute, so that its process can be ended in the middle of it."""
        self.arm(target, _STAY)

    def wait_fired(self, target: str, times: int = 1) -> None:
        """Wait until as many calls as were armed have raised; fails where they do not."""
        eventually(lambda: self.fired(target) >= times, _WITHIN_S, f"{target} raised {times} times")

    def fired(self, target: str) -> int:
        """How many calls have raised."""
        path = self._directory / "fired" / self._name(target)
        return len(path.read_text().splitlines()) if path.exists() else 0

    def forget(self, target: str) -> None:
        """Begin to count anew."""
        for kind in ("armed", "fired"):
            (self._directory / kind / self._name(target)).unlink(missing_ok=True)

    @staticmethod
    def _name(target: str) -> str:
        return target.replace(":", "-")
