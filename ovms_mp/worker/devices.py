# SPDX-License-Identifier: Apache-2.0
"""``ovms_mp devices``: the devices that OpenVINO finds on this machine, what is missing, and what AUTO would choose.

A short-lived process of its own, as it imports openvino: ``python -m ovms_mp.worker.devices FLAGS``, with the flags of
:mod:`ovms_mp.config.device_flags`.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import openvino as ov
import openvino.opset13 as ops

from ovms_mp.child.specs import CpuShare, EngineSpec
from ovms_mp.codes import ExitCode
from ovms_mp.config.device_flags import PROG, read_device_flags
from ovms_mp.errors import ConfigError, OvmsError
from ovms_mp.model.devices import OPENVINO_DEVICES, advice_on, family_of, meta_device
from ovms_mp.model.formats import SAVED_MODEL, models_among, unfinished_text, version_number
from ovms_mp.model.input_settings import InputSettings
from ovms_mp.wire.records import ModelSettings
from ovms_mp.worker.engine.engine import compile_for, create_core, engine_text
from ovms_mp.worker.engine.properties import compile_properties
from ovms_mp.worker.load.prepare import prepare_model

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

_AUTO_TEXT = """\
AUTO (and an empty target_device) takes the first of these that is there and supports the model's precision:
  1. a discrete GPU, 2. an integrated GPU, 3. the CPU. An NPU is taken only where it is named, e.g. AUTO:NPU,CPU.
  AUTO:a,b takes the first of a, b; AUTO:-a all but a. With PERFORMANCE_HINT CUMULATIVE_THROUGHPUT it uses all at once.
MULTI:a,b, HETERO:a,b and BATCH:d(n) are built from the devices above."""


def main(arguments: Sequence[str]) -> int:
    """Print the devices; the exit code."""
    try:
        query = read_device_flags(arguments)
        core = create_core(EngineSpec(cpu_extension=query.cpu_extension, plugins_xml=query.plugins_xml))
        lines = list(_report(core, query.model, query.target_device))
    except OvmsError as error:
        sys.stderr.write(f"{PROG}: {error}\n")
        return ExitCode.USAGE
    sys.stdout.write("\n".join(lines) + "\n")
    return ExitCode.CLEAN


def _report(core: ov.Core, model_path: str, device: str) -> Iterator[str]:
    model = _read(core, _model_file(Path(model_path))) if model_path else None
    yield f"OpenVINO {ov.get_version()}"
    if device:
        yield device
        yield from _plan(core, model or _add_one(), device)
        return
    existing = tuple(core.available_devices)
    for name in existing:
        yield name
        yield f"  full name: {_property(core, name, 'FULL_DEVICE_NAME')}"
        if family_of(name) != "CPU":
            yield f"  type: {_property(core, name, 'DEVICE_TYPE').rpartition('.')[2].lower()}"
        yield f"  optimization capabilities: {_property(core, name, 'OPTIMIZATION_CAPABILITIES')}"
        if model is not None:
            yield from _plan_or_reason(core, model, name)
    for family in OPENVINO_DEVICES:
        if not any(family_of(name) == family for name in existing):
            yield f"{family} is not available; {advice_on(family)}"
            yield f"  OpenVINO says: {_refusal(core, family)}"
    yield _AUTO_TEXT
    yield f"AUTO now{f', for {model_path}' if model_path else ''}:"
    yield from _plan_or_reason(core, model or _add_one(), "AUTO")


def _refusal(core: ov.Core, device: str) -> str:
    """What OpenVINO says when it is asked to use a device that is not there."""
    try:
        core.compile_model(_add_one(), device)
    except RuntimeError as error:
        return engine_text(error)
    return "nothing; it just compiled a model for it"


def _read(core: ov.Core, model_file: Path) -> ov.Model:
    return prepare_model(core, str(model_file), _settings("")).model


def _plan_or_reason(core: ov.Core, model: ov.Model, device: str) -> Iterator[str]:
    """The plan, or one line that says why there is none."""
    try:
        yield from _plan(core, model, device)
    except OvmsError as error:
        yield f"  {error}"


def _plan(core: ov.Core, model: ov.Model, device: str) -> Iterator[str]:
    """How a device would run a model with the server's defaults.

    Raises:
        OvmsError: It cannot.
    """
    settings = _settings(device)
    properties = compile_properties(core, settings, CpuShare(), "")
    if meta_device(device) == "AUTO":
        # Else AUTO may say CPU only because the GPU is still compiling.
        properties["ENABLE_STARTUP_FALLBACK"] = False
    compiled = compile_for(core, model, device, {}, properties)
    yield f"  computes on: {_text(compiled.get_property('EXECUTION_DEVICES'))}"
    nireq = compiled.get_property("OPTIMAL_NUMBER_OF_INFER_REQUESTS")
    yield f"  OPTIMAL_NUMBER_OF_INFER_REQUESTS (nireq): {nireq}, with the default PERFORMANCE_HINT LATENCY"
    for name, streams, threads in _streams(compiled):
        yield f"  streams on {name}: {streams}, threads: {threads}"


def _streams(compiled: ov.CompiledModel) -> Iterator[tuple[str, object, object]]:
    """Streams and threads of each device below; AUTO, MULTI and HETERO have none of their own."""
    try:
        per_device = compiled.get_property("DEVICE_PROPERTIES")
    except RuntimeError:
        per_device = {}
    for name, properties in per_device.items():
        yield name, properties.get("NUM_STREAMS", "?"), properties.get("INFERENCE_NUM_THREADS", "-")
    if per_device:
        return
    found = []
    for key in ("NUM_STREAMS", "INFERENCE_NUM_THREADS"):
        try:
            found.append(compiled.get_property(key))
        except RuntimeError:
            found.append("-")
    yield _text(compiled.get_property("EXECUTION_DEVICES")), found[0], found[1]


def _property(core: ov.Core, device: str, key: str) -> str:
    try:
        return _text(core.get_property(device, key))
    except RuntimeError as error:
        return f"unknown ({engine_text(error)})"


def _text(value: object) -> str:
    if isinstance(value, (list, tuple, set)):
        return ", ".join(map(str, value))
    return str(value)


def _settings(device: str) -> ModelSettings:
    """What a model without any settings is compiled with."""
    return ModelSettings(
        device=device,
        nireq=0,
        plugin_config={},
        inputs=InputSettings(),
        allow_cache=False,
        max_queue_tasks=1,
        max_queue_bytes=1,
    )


def _add_one() -> ov.Model:
    """A model to ask AUTO about when none is given."""
    x = ops.parameter([1], np.float32)
    return ov.Model([ops.result(ops.add(x, np.float32(1)))], [x], "add_one")


def _model_file(path: Path) -> Path:
    """The model that a path means: a file, a version directory, or a base path with its greatest version."""
    if not path.exists():
        raise ConfigError(f"--model {path}: there is no such file or directory")
    if path.is_file():
        return path
    try:
        versions = {
            number: entry
            for entry in path.iterdir()
            if (number := version_number(entry.name)) is not None and entry.is_dir()
        }
        directory = versions[max(versions)] if versions else path
        names = [entry.name for entry in directory.iterdir()]
    except OSError as error:
        raise ConfigError(f"--model {path}: {error.strerror}") from None
    models = models_among(names)
    if not models:
        raise ConfigError(
            f"--model: {directory} {unfinished_text(names)}; give a model file, a version directory, or a base path "
            "with version directories 1/, 2/, ..."
        )
    return directory if models[0] == SAVED_MODEL else directory / models[0]


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
