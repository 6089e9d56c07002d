# SPDX-License-Identifier: Apache-2.0
"""Builds a model of openvino-tokenizers' own operations; a process of its own, as it imports openvino.

folded: ``x`` string [-1] -> ``y`` string [-1], in lower case. Without the package nothing is built.
"""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

import openvino as ov
import openvino.opset15 as ops
from openvino.utils.node_factory import NodeFactory

factory = NodeFactory()
"""It holds the library, which must not be unloaded before the last node of it has gone."""


def main() -> None:
    """Build below the directory of the first argument."""
    package = importlib.util.find_spec("openvino_tokenizers")
    if package is None:
        return
    factory.add_extension(
        str(Path((package.submodule_search_locations or [""])[0], "lib", "libopenvino_tokenizers.so"))
    )
    x = ops.parameter([-1], ov.Type.string, name="x")
    x.output(0).set_names({"x"})
    folded = factory.create("CaseFold", ops.string_tensor_unpack(x).outputs(), {"encoding": "utf-8"})
    result = ops.result(ops.string_tensor_pack(*folded.outputs()[:3]))
    result.output(0).set_names({"y"})
    directory = Path(sys.argv[1]) / "folded" / "1"
    directory.mkdir(parents=True)
    ov.save_model(ov.Model([result], [x], "folded"), directory / "model.xml")


if __name__ == "__main__":
    main()
