# SPDX-License-Identifier: Apache-2.0
"""Prepares models for the tests, as a worker does; a process of its own for a whole table of cases.

``python -m tests.support.prepare_child DIRECTORY < request``: the request is a JSON list of :class:`Case`, the answer
(on stdout) one of :class:`Outcome`.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import openvino as ov
import openvino.opset13 as ops

from ovms_mp.child.specs import CpuShare, EngineSpec
from ovms_mp.errors import DeviceUnavailable, OvmsError
from ovms_mp.wire.records import ModelSettings
from ovms_mp.worker.engine.engine import compile_for, create_core
from ovms_mp.worker.engine.properties import compile_properties
from ovms_mp.worker.load.prepare import Prepared, prepare_model
from tests.support.prepared import Case, Outcome, Run

Node = Any
_F32 = np.float32


def main() -> None:
    """Answer all cases."""
    directory = Path(sys.argv[1])
    core = create_core(EngineSpec())
    cases = msgspec.json.decode(sys.stdin.buffer.read(), type=list[Case])
    outcomes = [_outcome(core, directory / str(number), case) for number, case in enumerate(cases)]
    sys.stdout.buffer.write(msgspec.json.encode(outcomes))


def _outcome(core: ov.Core, directory: Path, case: Case) -> Outcome:
    directory.mkdir(parents=True)
    file = directory / "model.xml"
    ov.save_model(_MODELS[case.model](), file, compress_to_fp16=False)
    if case.mapping is not None:
        (directory / "mapping_config.json").write_text(case.mapping)
    settings = ModelSettings(case.device, 0, case.plugin_config, case.settings, False, 1, 1)
    try:
        prepared = prepare_model(core, str(file), settings)
    except OvmsError as error:
        return Outcome(error=f"{type(error).__name__}: {error}")
    outcome = Outcome(
        inputs=_ports(prepared.inputs, prepared.model.inputs),
        outputs=_ports(prepared.outputs, prepared.model.outputs),
        notices=list(prepared.notices),
        auto=sorted(prepared.auto),
        own_shapes=prepared.own_shapes,
        refusals=[_refusal(prepared, shapes) for shapes in case.reshape],
    )
    if case.is_compiled:
        try:
            properties = compile_properties(core, settings, CpuShare(), "")
            compiled = compile_for(core, prepared.model, case.device, case.plugin_config, properties)
            outcome.runs = [_run(compiled, prepared, shapes) for shapes in case.runs]
        except DeviceUnavailable as error:
            outcome.compile_error = f"{type(error).__name__}: {error}"
        except OvmsError as error:
            outcome.compile_error = f"{type(error).__name__}: {error}"
            outcome.runs = [_run_reshaped(core, prepared, shapes) for shapes in case.runs]
    return outcome


def _ports(names: tuple[str, ...], ports: list[Any]) -> dict[str, str]:
    return {
        name: f"{port.get_element_type().get_type_name()} {port.get_partial_shape()}"
        for name, port in zip(names, ports, strict=True)
    }


def _refusal(prepared: Prepared, shapes: tuple[tuple[int, ...], ...]) -> str:
    try:
        model = prepared.reshaped(shapes)
    except OvmsError as error:
        return f"{type(error).__name__}: {error}"
    return " ".join(str(port.get_partial_shape()) for port in model.outputs)


def _run_reshaped(core: ov.Core, prepared: Prepared, shapes: tuple[tuple[int, ...], ...]) -> Run:
    return _run(core.compile_model(prepared.reshaped(shapes), "CPU"), prepared, shapes)


def _run(compiled: ov.CompiledModel, prepared: Prepared, shapes: tuple[tuple[int, ...], ...]) -> Run:
    random = np.random.default_rng(7)
    given = [
        random.integers(0, 255, shape).astype(port.get_element_type().to_dtype())
        for port, shape in zip(compiled.inputs, shapes, strict=True)
    ]
    try:
        got = compiled(given)
    except RuntimeError as error:
        return Run(error=str(error))
    return Run(
        given={name: array.tolist() for name, array in zip(prepared.inputs, given, strict=True)},
        got={name: got[place].tolist() for place, name in enumerate(prepared.outputs)},
    )


def _parameter(name: str, shape: list[int] | None, dtype: ov.Type = ov.Type.f32) -> Node:
    node = ops.parameter(
        ov.PartialShape.dynamic() if shape is None else ov.PartialShape(shape), dtype, name=name
    )
    node.output(0).set_names({name})
    return node


def _model(inputs: list[Node], **results: Node) -> ov.Model:
    nodes = []
    for name, value in results.items():
        node = ops.result(value)
        node.output(0).set_names({name})
        nodes.append(node)
    return ov.Model(nodes, inputs, "test")


def _weights(*shape: int) -> np.ndarray[Any, np.dtype[np.float32]]:
    return np.random.default_rng(len(shape)).standard_normal(shape).astype(_F32)


def _plain(shape: list[int] | None, dtype: ov.Type = ov.Type.f32) -> Callable[[], ov.Model]:
    """``y`` = ``x``, by way of a node that changes nothing."""

    def build() -> ov.Model:
        x = _parameter("x", shape, dtype)
        return _model([x], y=ops.multiply(x, ops.constant(np.array(1), dtype)))

    return build


def _through(shape: list[int], function: Callable[[Node], Node]) -> Callable[[], ov.Model]:
    def build() -> ov.Model:
        x = _parameter("x", shape)
        return _model([x], y=function(x))

    return build


def _identity() -> ov.Model:
    """One tensor is input and output."""
    x = _parameter("x", [1, 3, 4, 5])
    return ov.Model([ops.result(x)], [x], "test")


def _two_added() -> ov.Model:
    a, b = _parameter("a", [1, 4]), _parameter("b", [1, 4])
    return _model([a, b], y=ops.add(a, b))


def _bert_like() -> ov.Model:
    """Ids and mask share batch and length; ``scores`` is a class for each sample, ``tokens`` one for each token."""
    ids, mask = _parameter("ids", [1, 16], ov.Type.i64), _parameter("mask", [1, 16])
    embedded = ops.gather(_weights(256, 8), ids, np.array(0))
    hidden = ops.multiply(embedded, ops.unsqueeze(mask, np.array(2)))
    scores = ops.matmul(ops.reduce_mean(hidden, np.array([1]), False), _weights(8, 2), False, False)
    tokens = ops.matmul(ops.reshape(hidden, np.array([-1, 8]), False), _weights(8, 3), False, False)
    return _model([ids, mask], scores=scores, tokens=tokens)


def _with_fixed_partner() -> ov.Model:
    """``a`` and ``b`` may grow together, ``c`` has the same size by chance and may not."""
    a, b, c = (_parameter(name, [2, 4]) for name in "abc")
    fixed = ops.matmul(ops.reshape(c, np.array([1, 8]), False), _weights(8, 4), False, False)
    return _model([a, b, c], y=ops.add(ops.add(a, b), fixed))


def _convolution(x: Node, channels: int = 4) -> Node:
    return ops.relu(ops.convolution(x, _weights(channels, 3, 3, 3), [1, 1], [1, 1], [1, 1], [1, 1]))


def _global_pool(x: Node) -> Node:
    pooled = ops.reduce_mean(_convolution(x), np.array([2, 3]), False)
    return ops.matmul(pooled, _weights(4, 2), False, False)


def _flatten(x: Node) -> Node:
    flat = ops.reshape(_convolution(x), np.array([0, -1]), True)
    return ops.matmul(flat, _weights(4 * 8 * 8, 2), False, False)


def _flatten_row(x: Node) -> Node:
    flat = ops.reshape(_convolution(x), np.array([0, -1]), True)
    return ops.matmul(flat, _weights(4 * 8, 2), False, False)


def _unet(x: Node) -> Node:
    def down(node: Node) -> Node:
        return ops.max_pool(node, [2, 2], [1, 1], [0, 0], [0, 0], [2, 2], "floor", "valid").output(0)

    def up(node: Node) -> Node:
        scales = np.array([2.0, 2.0], _F32)
        return ops.interpolate(node, scales, "nearest", "scales", axes=np.array([2, 3]))

    middle = down(x)
    return ops.concat([up(ops.concat([up(down(middle)), middle], 1)), x], 1)


def _detections() -> ov.Model:
    """Lists of detections: (image, ...) rows of all samples, [1, 1, N * 5, 7]."""
    boxes, scores = _parameter("boxes", [1, 20]), _parameter("scores", [1, 10])
    priors = ops.constant(np.zeros((1, 2, 20), _F32))
    attributes = {
        "num_classes": 2, "background_label_id": 0, "top_k": 5, "variance_encoded_in_target": False,
        "keep_top_k": np.array([5]), "code_type": "caffe.PriorBoxParameter.CORNER", "share_location": True,
        "nms_threshold": np.float32(0.5), "confidence_threshold": np.float32(0.1), "clip_after_nms": False,
        "clip_before_nms": False, "decrease_label_id": False, "normalized": True, "input_height": np.uint64(1),
        "input_width": np.uint64(1), "objectness_score": np.float32(0),
    }  # fmt: skip
    return _model([boxes, scores], found=ops.detection_output(boxes, scores, priors, attributes))


def _listed_pair() -> ov.Model:
    """A list of detections that an operation for them has not made; one input is a factor for each sample."""
    image, factor = _parameter("image", [1, 4, 5, 7]), _parameter("factor", [1, 1])
    scaled = ops.multiply(image, ops.reshape(factor, np.array([0, 1, 1, 1]), True))
    return _model([image, factor], found=ops.reshape(scaled, np.array([1, 1, -1, 7]), False))


def _suppressed() -> ov.Model:
    boxes, scores = _parameter("boxes", [1, 20, 4]), _parameter("scores", [1, 2, 20])
    most, overlap, least = ops.constant(np.int64(5)), ops.constant(_F32(0.5)), ops.constant(_F32(0.1))
    kept = ops.non_max_suppression(boxes, scores, most, overlap, least)
    found = ops.reshape(ops.convert(kept.output(1), "f32"), np.array([1, 1, -1, 3]), False)
    return _model([boxes, scores], found=found)


def _two_outputs() -> ov.Model:
    x = _parameter("x", [1, 3, 4, 5])
    return _model([x], y=ops.multiply(x, _F32(2)), z=ops.add(x, _F32(1)))


_MODELS: dict[str, Callable[[], ov.Model]] = {
    "plain4": _plain([1, 3, 4, 6]),
    "plain4_u8": _plain([1, 3, 4, 6], ov.Type.u8),
    "plain4_dynamic": _plain([-1, 3, -1, -1]),
    "gray4": _plain([1, 1, 4, 6]),
    "plain2": _plain([2, 3]),
    "any_rank": _plain(None),
    "scalar": _plain([]),
    "identity": _identity,
    "two_outputs": _two_outputs,
    "no_inputs": lambda: _model([], y=ops.constant(np.ones((1, 2), _F32))),
    "mlp": _through([1, 8], lambda x: ops.matmul(ops.relu(x), _weights(8, 3), False, False)),
    "global_pool": _through([1, 3, 8, 8], _global_pool),
    "flatten": _through([1, 3, 8, 8], _flatten),
    "flatten_row": _through([1, 3, 1, 8], _flatten_row),
    "two_added": _two_added,
    "bert_like": _bert_like,
    "with_fixed_partner": _with_fixed_partner,
    "glued": _through([1, 4], lambda x: ops.relu(ops.reshape(x, np.array([1, -1]), False))),
    "mixed": _through([1, 3, 4], lambda x: ops.relu(ops.reshape(x, np.array([3, -1]), False))),
    "time_major": _through([1, 3, 4], lambda x: ops.relu(ops.transpose(x, np.array([1, 0, 2])))),
    "squeezed": _through([1, 4], lambda x: ops.relu(ops.squeeze(x, np.array([], np.int64)))),
    "unet": _through([1, 3, 8, 8], _unet),
    "detections": _detections,
    "listed": _through([1, 4, 5, 7], lambda x: ops.reshape(ops.relu(x), np.array([1, 1, -1, 7]), False)),
    "listed_pair": _listed_pair,
    "listed_six": _through([1, 4, 5, 6], lambda x: ops.reshape(ops.relu(x), np.array([1, 1, -1, 6]), False)),
    "suppressed": _suppressed,
    # Compiles for the CPU with static shapes only: "Cannot fallback on ngraph reference implementation".
    # The batch is baked in; OpenVINO's reshape mends that.
    "baked_batch": _through(
        [1, 3, 8, 8],
        lambda x: ops.matmul(
            ops.reshape(_convolution(x), np.array([1, 256]), False), _weights(256, 2), False, False
        ),
    ),
    "static_only": _through(
        [1, 4, 8, 8],
        lambda x: ops.psroi_pooling(x, np.array([[0, 0, 0, 4, 4]], _F32), 1, 2, 1.0, 2, 2, "average"),
    ),
}


if __name__ == "__main__":
    main()
