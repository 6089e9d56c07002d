# SPDX-License-Identifier: Apache-2.0
"""Cases for :mod:`tests.support.prepare_child` and what comes of them; imports no openvino."""

from __future__ import annotations

import subprocess
import sys
from typing import TYPE_CHECKING, Any, TypeAlias

import msgspec

from ovms_mp.model.input_settings import InputSettings

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

Nested: TypeAlias = Any
"""Lists of lists of numbers, as deep as the tensor has dimensions."""
Shapes: TypeAlias = tuple[tuple[int, ...], ...]
NOTHING = InputSettings()


class Case(msgspec.Struct, kw_only=True):
    """One model to prepare.

    ``reshape`` are shapes to ask ``reshaped`` for; ``runs`` shapes to run the compiled model with, on the models that
    ``reshaped`` makes where it cannot be compiled.
    """

    model: str
    settings: InputSettings = NOTHING
    mapping: str | None = None
    device: str = "CPU"
    plugin_config: dict[str, str | int | float | bool] = msgspec.field(
        default_factory=lambda: {"INFERENCE_PRECISION_HINT": "f32"}
    )
    reshape: tuple[Shapes, ...] = ()
    runs: tuple[Shapes, ...] = ()
    is_compiled: bool = False

    def __post_init__(self) -> None:
        self.is_compiled = self.is_compiled or bool(self.runs)


class Run(msgspec.Struct, kw_only=True):
    """One inference, or why there was none."""

    given: dict[str, Nested] = {}
    got: dict[str, Nested] = {}
    error: str = ""


class Outcome(msgspec.Struct, kw_only=True):
    """What came of a case."""

    error: str = ""
    inputs: dict[str, str] = {}
    outputs: dict[str, str] = {}
    notices: list[str] = []
    auto: list[tuple[int, int]] = []
    own_shapes: Shapes | None = None
    refusals: list[str] = []
    compile_error: str = ""
    runs: list[Run] = []


def prepare_all(cases: Mapping[str, Case], directory: Path) -> dict[str, Outcome]:
    """Prepare all models, in one process."""
    done = subprocess.run(
        [sys.executable, "-m", "tests.support.prepare_child", str(directory)],
        input=msgspec.json.encode(list(cases.values())),
        capture_output=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr.decode()[-4000:]
    outcomes = msgspec.json.decode(done.stdout, type=list[Outcome])
    return dict(zip(cases, outcomes, strict=True))
