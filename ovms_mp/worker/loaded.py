# SPDX-License-Identifier: Apache-2.0
"""Loading a model version: prepare, compile, make infer requests, try, describe.

A version with ``auto`` shapes is one dynamic compiled model where the model and the device can do that, and else one
compiled model for each set of shapes that clients send (:mod:`ovms_mp.worker.variants`).
"""

from __future__ import annotations

import logging
import os
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ovms_mp.errors import DeviceUnavailable, ModelLoadFailed, OvmsError
from ovms_mp.model.device_text import meta_device
from ovms_mp.worker.compiled import CompiledVersion, OutputPath, specs_of
from ovms_mp.worker.engine import compile_for
from ovms_mp.worker.exactness import exactness_notices, with_exact_ranges
from ovms_mp.worker.prepare import prepare_model
from ovms_mp.worker.proof import Plan, PlanFailed, prove
from ovms_mp.worker.properties import compile_properties
from ovms_mp.worker.spec_records import check_size
from ovms_mp.worker.states import state_notices
from ovms_mp.worker.variants import MOST_VARIANTS

if TYPE_CHECKING:
    import openvino as ov

    from ovms_mp.model.tensors import TensorSpec
    from ovms_mp.wire.messages import LoadModel
    from ovms_mp.wire.specs import CpuShare
    from ovms_mp.worker.prepare import Prepared
    from ovms_mp.worker.proof import Proof
    from ovms_mp.worker.variants import Shapes

_log = logging.getLogger(__name__)

_CACHE_KEY = "CACHE_DIR"


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadedVersion:
    """What a load brings.

    Attributes:
        inputs: As metadata shows them.
        outputs: The same.
        compiled: The compiled model; for a version with variants, the one for ``shapes``.
        shapes: What ``compiled`` was compiled for, where the version has variants; else None.
        run_time_s: Of the trial inference; None when there could be none.
        detail: The plan it runs by, for people.
        notices: What people should know of its answers.
        maker: Compiles further variants, and tells which shapes the model can take; None where the specs say that.
    """

    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    compiled: CompiledVersion
    shapes: Shapes | None
    run_time_s: float | None
    detail: str
    notices: tuple[str, ...]
    maker: VariantMaker | None


class VariantMaker:
    """Compiles one version, as it is or for given shapes. For threads that may wait; one call at a time from each."""

    def __init__(
        self, core: ov.Core, request: LoadModel, prepared: Prepared, cpu: CpuShare, nireq: int
    ) -> None:
        """Keep what compiling takes; see :func:`load_version`."""
        self.request = request
        self._core = core
        self._title = f"{request.name} version {request.version}"
        self._settings = request.settings
        self._prepared = prepared
        self._cache_directory = request.cache_directory
        self._properties = compile_properties(core, request.settings, cpu, request.cache_directory)
        self._nireq = nireq
        self._has_several_devices = (
            meta_device(request.settings.device) in ("AUTO", "MULTI") and len(core.available_devices) > 1
        )

    def make(self, shapes: Shapes) -> CompiledVersion:
        """Compile the version for these shapes.

        Raises:
            OvmsError: The model cannot take them, or cannot be compiled for them.
        """
        model = self._prepared.reshaped(shapes)
        properties = dict(self._properties)
        # What the probe filled is deleted after the load, and OpenVINO would make the directory again.
        if not os.path.isdir(self._cache_directory):
            properties.pop(_CACHE_KEY, None)
        return self.compile_and_prove(model, shapes, must_run=False, properties=properties)[0]

    def make_dynamic(self) -> CompiledVersion:
        """Compile the version as it was loaded once more.

        Raises:
            OvmsError: It cannot be compiled any more, e.g. for want of memory.
        """
        return self.compile_and_prove(self._prepared.model, self._prepared.own_shapes, must_run=False)[0]

    def refusal(self, shapes: Shapes) -> OvmsError | None:
        """Why the model cannot take these shapes; None when it can."""
        try:
            self._prepared.reshaped(shapes)
        except OvmsError as error:
            return error
        return None

    def compile_and_prove(
        self,
        model: ov.Model,
        shapes: Shapes | None = None,
        *,
        must_run: bool,
        properties: dict[str, object] | None = None,
    ) -> tuple[CompiledVersion, Proof]:
        """Compile a model of this version and find out how its outputs may reach shared memory.

        Args:
            model: To be compiled.
            shapes: To try it on; without them, dynamic dimensions are as small as they may be.
            must_run: Whether a model that has one shape only, or was given ``shapes``, must run on zeros.
            properties: In place of the version's.

        Raises:
            ModelLoadFailed: It cannot be compiled, has tensors that no protocol of ours can carry, cannot run though it
                must, or does not answer as the engine itself does.
            DeviceUnavailable: The device or a property does not exist here.
        """
        plan = Plan()
        while True:
            compiled = self._compile(model, properties)
            is_bound_to_run = must_run and (shapes is not None or compiled.is_static)
            try:
                proof = prove(
                    compiled, plan, shapes, must_run=is_bound_to_run, must_agree=not self._has_several_devices
                )
            except PlanFailed as failure:
                compiled.close()
                plan = failure.next_plan
                _log.info("event=compiling_again model=%r reason=%r", self._title, plan.remark)
                continue
            if proof.path is not (OutputPath.BOUND if compiled.can_bind else OutputPath.COPIED):
                _log.warning("event=outputs_not_bound model=%r %s", self._title, proof)
            return compiled, proof

    def _compile(self, model: ov.Model, properties: dict[str, object] | None = None) -> CompiledVersion:
        settings = self._settings
        compiled = compile_for(
            self._core,
            model,
            settings.device,
            settings.plugin_config,
            self._properties if properties is None else properties,
        )
        return CompiledVersion(
            compiled, self._prepared.inputs, self._prepared.outputs, self._nireq or _optimal_nireq(compiled)
        )


def load_version(core: ov.Core, request: LoadModel, cpu: CpuShare, nireq: int | None = None) -> LoadedVersion:
    """Read, compile and try a version. Takes seconds; runs in the loader thread, or in a probe.

    Args:
        core: The process's core.
        request: What to load, and how.
        cpu: This worker's part of the machine.
        nireq: Number of infer requests instead of the one in the settings. What is compiled does not depend on it, so
            that a probe with one fills the cache for a worker with many.

    Raises:
        ModelLoadFailed: The files are no model that this server can serve.
        DeviceUnavailable: The device or a property does not exist here.
    """
    settings = request.settings
    prepared = prepare_model(core, request.model_file, settings)
    for notice in prepared.notices:
        _log.info("event=prepared model=%s version=%d notice=%r", request.name, request.version, notice)
    maker = VariantMaker(core, request, prepared, cpu, settings.nireq if nireq is None else nireq)
    if not settings.inputs.is_auto:
        return _loaded(maker, prepared, prepared.model)
    try:
        return _loaded(maker, prepared, prepared.model, "auto=dynamic")
    except DeviceUnavailable:
        raise
    except ModelLoadFailed as error:
        return _load_variants(maker, prepared, error)


def _loaded(
    maker: VariantMaker,
    prepared: Prepared,
    model: ov.Model,
    auto_text: str = "",
    shapes: Shapes | None = None,
) -> LoadedVersion:
    compiled, proof = maker.compile_and_prove(model, prepared.own_shapes, must_run=True)
    specs = compiled.inputs, compiled.outputs
    if shapes is not None:
        specs = (
            specs_of(prepared.model.inputs, prepared.inputs, "input"),
            specs_of(prepared.model.outputs, prepared.outputs, "output"),
        )
    check_size(*specs)
    request = maker.request
    refuses_lossy = request.settings.refuses_lossy
    inputs = with_exact_ranges(specs[0], prepared.model)
    notices = (
        *exactness_notices(inputs, specs[1], prepared.model, is_refused=refuses_lossy),
        *state_notices(compiled),
    )
    for notice in notices:
        _log.warning("event=notice model=%s version=%d notice=%r", request.name, request.version, notice)
    return LoadedVersion(
        inputs=inputs if refuses_lossy else specs[0],
        outputs=specs[1],
        compiled=compiled,
        shapes=shapes,
        run_time_s=proof.run_time_s,
        detail=" ".join(filter(None, (compiled.describe(), auto_text, str(proof)))),
        notices=notices,
        # It keeps the model in memory beside what was compiled from it.
        maker=None if compiled.is_static and shapes is None else maker,
    )


def _load_variants(maker: VariantMaker, prepared: Prepared, why: ModelLoadFailed) -> LoadedVersion:
    """Serve each set of shapes by a compiled model of its own, beginning with the model's own shapes."""
    shapes = prepared.own_shapes
    if shapes is None:
        raise why
    text = f"auto=compiled for each shape, {MOST_VARIANTS} at most (as one dynamic model: {why.message})"
    return _loaded(maker, prepared, prepared.reshaped(shapes), text, shapes)


def _optimal_nireq(compiled: ov.CompiledModel) -> int:
    try:
        return max(1, int(compiled.get_property("OPTIMAL_NUMBER_OF_INFER_REQUESTS")))
    except RuntimeError:
        return 1
