# SPDX-License-Identifier: Apache-2.0
"""Loads models that a proof has something to say about; a process of its own for all of them.

``python -m tests.support.proof_child DIRECTORY``: writes a JSON object of each model's detail, or of its error, to
stdout.
"""

from __future__ import annotations

import json
import math
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import openvino as ov
import openvino.opset13 as ops

from ovms_mp.child.specs import CpuShare, EngineSpec
from ovms_mp.errors import OvmsError
from ovms_mp.wire.messages import LoadModel
from ovms_mp.worker.engine.engine import create_core
from ovms_mp.worker.load import proof
from ovms_mp.worker.load.loaded import load_version
from tests.support.worker import settings

if TYPE_CHECKING:
    from collections.abc import Callable

Node = Any

proof._QUICK_RUN_S = math.inf  # All rounds, however long a run takes on a busy machine.


class _Custom(ov.Op):  # type: ignore[misc]  # the package has no type for it
    """An operation of a plugin; keeps the shape and type of its input."""

    def __init__(self, inputs: list[Node] | None = None) -> None:
        super().__init__(self, inputs)

    def validate_and_infer_types(self) -> None:
        self.set_output_type(0, self.get_input_element_type(0), self.get_input_partial_shape(0))

    def clone_with_new_inputs(self, inputs: list[Node]) -> Node:
        return type(self)(inputs)

    def has_evaluate(self) -> bool:
        return True


class Partial(_Custom):
    """Writes the first element only."""

    def evaluate(self, outputs: list[ov.Tensor], inputs: list[ov.Tensor]) -> bool:
        outputs[0].data[0, 0] = inputs[0].data[0, 0] + 1
        return True


class Wearing(_Custom):
    """Answers differently from its fifth run on: after the engine has been asked, twice."""

    runs = 0

    def evaluate(self, outputs: list[ov.Tensor], inputs: list[ov.Tensor]) -> bool:
        Wearing.runs += 1
        outputs[0].data[:] = inputs[0].data + (Wearing.runs > 4)
        return True


class Choosy(_Custom):
    """Takes zeros only."""

    def evaluate(self, outputs: list[ov.Tensor], inputs: list[ov.Tensor]) -> bool:
        outputs[0].data[:] = inputs[0].data
        return not inputs[0].data.any()


class Refusing(_Custom):
    """Takes nothing."""

    def evaluate(self, _outputs: list[ov.Tensor], _inputs: list[ov.Tensor]) -> bool:
        return False


class WearingCore:
    """A core whose compiled models all begin with :class:`Wearing` unused, and that lists the devices it is told."""

    def __init__(self, core: ov.Core, devices: list[str]) -> None:
        self._core = core
        self.available_devices = devices

    def compile_model(self, *arguments: Any) -> ov.CompiledModel:
        Wearing.runs = 0
        return self._core.compile_model(*arguments)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._core, name)


def parameter(name: str, shape: list[int], dtype: ov.Type = ov.Type.f32) -> Node:
    """An input."""
    node = ops.parameter(ov.PartialShape(shape), dtype, name=name)
    node.output(0).set_names({name})
    return node


def _custom(kind: type[_Custom], size: int = 4) -> ov.Model:
    x = parameter("x", [1, size])
    return ov.Model([ops.result(kind([x]))], [x], "m")


def _key_beside_sum() -> ov.Model:
    x, key = parameter("x", [1, 3]), parameter("key", [1, 2], ov.Type.i64)
    return ov.Model([ops.result(ops.add(x, np.float32(1))), ops.result(key)], [x, key], "m")


def _one_input(shape: list[int], *make: Callable[[Node], Node]) -> ov.Model:
    x = parameter("x", shape)
    return ov.Model([ops.result(function(x)) for function in make], [x], "m")


def _passes_by_a_conversion() -> ov.Model:
    """Found by the random graphs: the conversion is none."""
    x = parameter("x", [-1, 3], ov.Type.i32)
    same = ops.convert(x, "i32")
    picked = ops.gather(same, np.array([1, 2, 0]), np.array(1))
    return ov.Model([ops.result(picked), ops.result(same)], [x], "m")


def _choosy_and_input() -> ov.Model:
    x = parameter("x", [1, 4])
    return ov.Model([ops.result(Choosy([x])), ops.result(x)], [x], "m")


def _shared() -> ov.Model:
    x = parameter("x", [1, 3])
    node = ops.add(x, np.float32(1))
    return ov.Model([ops.result(node), ops.result(node)], [x], "m")


def _random(_x: Node) -> Node:
    return ops.random_uniform(np.array([1, 8]), np.float32(0), np.float32(1), "f32", 0, 0)


_MODELS: dict[str, Callable[[], ov.Model]] = {
    "computed": lambda: _one_input([1, 3], lambda x: ops.add(x, np.float32(1))),
    "passes": lambda: _one_input([1, 3], lambda x: x),
    "passes twice": lambda: _one_input([1, 3], lambda x: x, lambda x: x),
    "key beside sum": _key_beside_sum,
    "two of one tensor": _shared,
    "reshape": lambda: _one_input([2, 3], lambda x: ops.reshape(x, np.array([3, 2]), False)),
    "constant": lambda: _one_input([1, 3], ops.relu, lambda _: ops.constant(np.arange(4, dtype=np.int64))),
    "no elements": lambda: _one_input([0, 3], ops.relu),
    "dynamic": lambda: _one_input([-1, 3], ops.relu),
    "dynamic, passes": lambda: _one_input([-1, 3], lambda x: x),
    "dynamic in, static out": lambda: _one_input([-1, 3], lambda x: ops.reduce_max(x, np.array([0]), False)),
    "smallest shapes do not fit": lambda: _one_input(
        [-1, -1], lambda x: ops.reshape(x, np.array([2, 3]), False)
    ),
    "random": lambda: _one_input([1, 8], lambda x: ops.add(x, _random(x))),
    "partial": lambda: _custom(Partial),
    "wearing": lambda: _custom(Wearing),
    "dynamic, passes by a conversion": _passes_by_a_conversion,
    "choosy, and passes": _choosy_and_input,
    "choosy": lambda: _custom(Choosy),
    "refusing": lambda: _custom(Refusing),
}


def main() -> None:
    """Load all models."""
    directory = Path(sys.argv[1])
    core = create_core(EngineSpec())
    for kind in (Partial, Wearing, Choosy, Refusing):
        core.add_extension(kind)
    outcomes: dict[str, str] = {}
    for number, (name, make) in enumerate(_MODELS.items()):
        file = directory / f"{number}.xml"
        ov.save_model(make(), file, compress_to_fp16=False)
        outcomes[name] = _load(core, file, ["CPU"], "CPU")
        if name == "wearing":
            outcomes[f"{name}, one device of several"] = _load(core, file, ["CPU", "GPU"], "CPU")
            outcomes[f"{name}, several devices"] = _load(core, file, ["CPU", "GPU"], "AUTO")
    sys.stdout.write(json.dumps(outcomes))


def _load(core: ov.Core, file: Path, devices: list[str], device: str) -> str:
    request = LoadModel(1, "model", 1, str(file), settings(nireq=2, device=device), "")
    try:
        return load_version(WearingCore(core, devices), request, CpuShare()).detail
    except OvmsError as error:
        return f"{type(error).__name__}: {error.message}"


if __name__ == "__main__":
    main()
