# SPDX-License-Identifier: Apache-2.0
"""Makes named functions of ``ovms_mp`` raise or stay once they are armed.

Every process of a server under test imports this.

Python imports a module of this name at its start from ``PYTHONPATH``; see :mod:`tests.support.injection`, which is how
tests use it. Nothing of the package knows of it.
"""

from __future__ import annotations

import functools
import importlib.machinery
import os
import sys
import threading
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from types import ModuleType

DIRECTORY = os.environ.get("OVMS_MP_TEST_FAULTS", "")
ARMED, FIRED, TARGETS = (os.path.join(DIRECTORY, name) for name in ("armed", "fired", "targets"))


STAY, STAY_S = -1, 60.0
"""Armed so, a call does not go on for so long; whoever waits for it ends the process meanwhile."""


class InjectedFault(Exception):
    """Raised in place of a call."""


def file_name(target: str) -> str:
    return target.replace(":", "-")


_left: dict[str, int] = {}
"""Calls of this process that are still to raise."""


def fire(target: str) -> None:
    """Raise if the target is armed; each arming raises in so many calls of the process that comes first."""
    left = _left.pop(target, 0) or claim(target)
    if not left:
        return
    if left == STAY:
        note(target)
        threading.Event().wait(STAY_S)
        return
    if left > 1:
        _left[target] = left - 1
    note(target)
    raise InjectedFault(target)


def note(target: str) -> None:
    with open(os.path.join(FIRED, file_name(target)), "a") as file:
        file.write(f"{os.getpid()}\n")


def claim(target: str) -> int:
    """How many calls are to raise, if the target is armed and no other process was quicker; else 0."""
    armed = os.path.join(ARMED, file_name(target))
    if not os.path.exists(armed):
        return 0
    claimed = f"{armed}.{os.getpid()}.{threading.get_ident()}"
    try:
        os.rename(armed, claimed)
    except FileNotFoundError:
        return 0
    with open(claimed) as file:
        count = int(file.read())
    os.unlink(claimed)
    return count


def wrap(function: Callable[..., Any], target: str) -> Callable[..., Any]:
    @functools.wraps(function, updated=())
    def wrapped(*arguments: Any, **named: Any) -> Any:
        fire(target)
        return function(*arguments, **named)

    return wrapped


def wrap_in(module: ModuleType, target: str) -> None:
    owner: Any = module
    *outer, name = target.partition(":")[2].split(".")
    for part in outer:
        owner = getattr(owner, part)
    setattr(owner, name, wrap(getattr(owner, name), target))


class Loader:
    """Loads a module as its own loader does, and wraps its targets then."""

    def __init__(self, inner: Any, targets: Sequence[str]) -> None:
        self._inner = inner
        self._targets = targets

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> ModuleType | None:
        created: ModuleType | None = self._inner.create_module(spec)
        return created

    def exec_module(self, module: ModuleType) -> None:
        self._inner.exec_module(module)
        for target in self._targets:
            wrap_in(module, target)


class Finder:
    """Finds modules that have targets."""

    def __init__(self, targets: Sequence[str]) -> None:
        self._by_module: dict[str, list[str]] = {}
        for target in targets:
            self._by_module.setdefault(target.partition(":")[0], []).append(target)

    def find_spec(
        self, name: str, path: Sequence[str] | None = None, _target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        targets = self._by_module.get(name)
        if targets is None:
            return None
        spec = importlib.machinery.PathFinder.find_spec(name, path)
        if spec is not None and spec.loader is not None:
            spec.loader = Loader(spec.loader, targets)  # type: ignore[assignment]  # the two methods are all that is used
        return spec


if DIRECTORY:
    with open(TARGETS) as file:
        sys.meta_path.insert(0, Finder(file.read().split()))
