# SPDX-License-Identifier: Apache-2.0
"""Has model files read that want more than they are: ``python -m tests.support.hostile_child DIRECTORY``.

The answer, on stdout, is a JSON object: of each case the name of the model that was read with what it adds to zeros, or
the refusal. A process of its own, as the tests import neither openvino nor onnx, and a file may crash who reads it.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
from pathlib import Path

import numpy as np
import onnx
import openvino as ov
import openvino.opset13 as ops

from ovms_mp.child.specs import EngineSpec
from ovms_mp.errors import OvmsError
from ovms_mp.model.input_settings import InputSettings
from ovms_mp.wire.records import ModelSettings
from ovms_mp.worker.engine.engine import create_core
from ovms_mp.worker.load.prepare import prepare_model

SECRET = np.array([4, 5, 6, 7], np.float32)
OWN = np.array([0, 1, 2, 3], np.float32)
_SETTINGS = ModelSettings("CPU", 0, {"INFERENCE_PRECISION_HINT": "f32"}, InputSettings(), False, 1, 1)


def main() -> None:
    """Answer all cases."""
    root = Path(sys.argv[1])
    secret = root / "secret.bin"
    secret.write_bytes(SECRET.tobytes())
    core = create_core(EngineSpec())
    found = {}
    for name, (file, content) in {**_onnx_cases(secret), **_ir_cases()}.items():
        directory = root / name / "1"
        directory.mkdir(parents=True)
        (directory / "own.bin").write_bytes(OWN.tobytes())
        if "link" in name:
            (directory / "link.bin").symlink_to("../../secret.bin")
        (directory / file).write_bytes(content)
        if file.endswith(".xml"):
            (directory / "model.bin").write_bytes(OWN.tobytes())
        if "kubernetes" in name:
            _behind_links(directory)
        found[name] = _outcome(core, directory / file)
    json.dump(found, sys.stdout)


def _outcome(core: ov.Core, file: Path) -> str:
    try:
        prepared = prepare_model(core, str(file), _SETTINGS)
        compiled = core.compile_model(prepared.model, "CPU")
        (sums,) = compiled([np.zeros(4, np.float32)]).values()
    except OvmsError as error:
        return f"{type(error).__name__}: {error}"
    return f"{prepared.model.friendly_name} {sums.astype(int).tolist()}"


def _onnx_cases(secret: Path) -> dict[str, tuple[str, bytes]]:
    address = OWN.ctypes.data  # What is there is known, so that whoever reads it finds something.
    memory = _onnx("*/_ORT_MEM_ADDR_/*", offset=address, length=16)
    return {
        "own": ("model.onnx", _onnx("own.bin")),
        "kubernetes": ("model.onnx", _onnx("own.bin")),
        "parent": ("model.onnx", _onnx("../../secret.bin")),
        "absolute": ("model.onnx", _onnx(str(secret))),
        "through": ("model.onnx", _onnx("nowhere/../../../secret.bin")),
        "passwd": ("model.onnx", _onnx("../../../../../../../../../etc/passwd", length=16)),
        "endless": ("model.onnx", _onnx("/dev/zero", length=16)),
        "link": ("model.onnx", _onnx("link.bin")),
        "beyond": ("model.onnx", _onnx("own.bin", offset=1 << 40, length=16)),
        "memory": ("model.onnx", memory),
        "memory as pb": ("model.pb", memory),
        "memory as pdmodel": ("model.pdmodel", memory),
        "memory as tflite": ("model.tflite", memory),
        "memory as xml": ("model.xml", memory),
    }


def _onnx(location: str, **range_of: int) -> bytes:
    """``y`` = ``x`` + weights that lie elsewhere."""
    weights = onnx.TensorProto(name="w", data_type=onnx.TensorProto.FLOAT, dims=[4])
    weights.data_location = onnx.TensorProto.EXTERNAL
    for key, value in {"location": location, **range_of}.items():
        weights.external_data.add(key=key, value=str(value))
    ends = [onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, [4]) for name in "xy"]
    node = onnx.helper.make_node("Add", ["x", "w"], ["y"])
    graph = onnx.helper.make_graph([node], "graph", ends[:1], ends[1:], [weights])
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 13)], ir_version=8)
    content: bytes = model.SerializeToString()
    return content


def _ir_cases() -> dict[str, tuple[str, bytes]]:
    plain = _ir()
    body = plain.split("?>", 1)[1]
    nine = "".join(f'<!ENTITY a{level} "{f"&a{level - 1};" * 10}">' for level in range(1, 10))
    entity = '<?xml version="1.0"?><!DOCTYPE net [<!ENTITY e SYSTEM "file:///etc/passwd">]>'
    laughs = f'<?xml version="1.0"?><!DOCTYPE net [<!ENTITY a0 "ha">{nine}]>'
    include = '<include xmlns="http://www.w3.org/2001/XInclude" href="/etc/passwd" parse="text"/>'
    return {
        name: ("model.xml", text.encode())
        for name, text in {
            "plain": plain,
            "entity": entity + body.replace('name="plain"', 'name="&e;"'),
            "laughs": laughs + body.replace('name="plain"', 'name="&a9;"'),
            "include": plain.replace("<layers>", f"{include}<layers>"),
            "offset": plain.replace('offset="0"', 'offset="4096"'),
            "negative offset": plain.replace('offset="0"', 'offset="-16"'),
            "wide offset": plain.replace('offset="0"', f'offset="{(1 << 64) - 8}"'),
            "long": plain.replace('offset="0" size="16"', f'offset="0" size="{1 << 62}"'),
        }.items()
    }


def _ir() -> str:
    """The text of ``y`` = ``x`` + the 16 bytes of its weights."""
    x = ops.parameter([4], np.float32, name="x")
    model = ov.Model([ops.add(x, ops.constant(SECRET))], [x], "plain")
    xml, weights = Path(sys.argv[1]) / "plain.xml", Path(sys.argv[1]) / "plain.bin"
    ov.save_model(model, xml, compress_to_fp16=False)
    text = xml.read_text()
    for file in (xml, weights):
        file.unlink()
    return text


def _behind_links(directory: Path) -> None:
    """Put what is in a directory where a ConfigMap's volume has it."""
    data = directory / "..2026_11_28"
    data.mkdir()
    (directory / "..data").symlink_to(data.name)
    for name in [name for name in os.listdir(directory) if not name.startswith("..")]:
        shutil.move(directory / name, data / name)
        (directory / name).symlink_to(f"..data/{name}")


if __name__ == "__main__":
    main()
