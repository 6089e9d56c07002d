# SPDX-License-Identifier: Apache-2.0
"""Loading a model version: prepare, compile, make infer requests, try, describe; or take what was kept of that.

A version with ``auto`` shapes is one dynamic compiled model where the model and the device can do that, and else one
compiled model for each set of shapes that clients send (:mod:`ovms_mp.worker.load.variants`).
"""

from __future__ import annotations

import logging
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from ovms_mp.errors import DeviceUnavailable, ModelLoadFailed, OvmsError
from ovms_mp.worker.load.compiled import CompiledVersion, specs_of
from ovms_mp.worker.load.exactness import exactness_notices, with_exact_ranges
from ovms_mp.worker.load.kept import Facts
from ovms_mp.worker.load.maker import VariantMaker
from ovms_mp.worker.load.referable import referable_inputs
from ovms_mp.worker.load.spec_records import check_size
from ovms_mp.worker.load.states import state_notices
from ovms_mp.worker.load.variants import MOST_VARIANTS

if TYPE_CHECKING:
    import openvino as ov

    from ovms_mp.child.specs import CpuShare
    from ovms_mp.model.tensors import TensorSpec
    from ovms_mp.wire.messages import LoadModel
    from ovms_mp.worker.load.prepare import Prepared
    from ovms_mp.worker.load.proof import Proof
    from ovms_mp.worker.load.variants import Shapes

_log = logging.getLogger(__name__)

_FROM_CACHE = "cache=used"
_ON_ONE_THREAD = "one_thread=as quick as all"


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
        rt_info: What the file says of the model, as JSON.
        answers: See :class:`ovms_mp.worker.load.proof.Proof`.
    """

    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    compiled: CompiledVersion
    shapes: Shapes | None
    run_time_s: float | None
    detail: str
    notices: tuple[str, ...]
    maker: VariantMaker | None
    rt_info: str
    answers: bytes


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
    return load_by(VariantMaker(core, request, cpu, request.settings.nireq if nireq is None else nireq))


def load_by(maker: VariantMaker) -> LoadedVersion:
    """The same, by what compiles the version; see :func:`load_version`."""
    request, settings = maker.request, maker.request.settings
    kept = _load_kept(maker)
    if kept is not None:
        return kept
    prepared = maker.source()
    _log_remarks(request, prepared.notices)
    if not settings.inputs.is_auto:
        return _load_and_keep(maker, prepared)
    try:
        return _loaded(maker, prepared, prepared.model, "auto=dynamic")[0]
    except DeviceUnavailable:
        raise
    except ModelLoadFailed as error:
        return _load_variants(maker, prepared, error)


def _load_kept(maker: VariantMaker) -> LoadedVersion | None:
    """Take the version from the cache; None where it is not there, or is of no use."""
    entry = maker.entry
    if entry is None:
        return None
    with entry.trying() as facts:
        if facts is None:
            return None
        try:
            compiled, proof = maker.import_kept(facts, maker.properties | entry.import_properties())
        except OvmsError as error:
            reason = error.message
        else:
            _log_remarks(maker.request, facts.remarks)
            return _described(maker, compiled, proof, (compiled.inputs, compiled.outputs), facts, _FROM_CACHE)
    entry.refuse(reason)
    return None


def _load_and_keep(maker: VariantMaker, prepared: Prepared) -> LoadedVersion:
    """Compile a version, and keep what was compiled if there is a place for it."""
    entry = maker.entry
    filling = None if entry is None else entry.fill()
    if entry is None or filling is None:
        return _loaded(maker, prepared, prepared.model)[0]
    try:
        properties = maker.properties | filling.properties()
        loaded, facts = _loaded(maker, prepared, prepared.model, properties=properties)
        if entry.is_current():
            filling.publish(facts)
    finally:
        filling.close()
    return loaded


def _loaded(
    maker: VariantMaker,
    prepared: Prepared,
    model: ov.Model,
    auto_text: str = "",
    shapes: Shapes | None = None,
    properties: dict[str, object] | None = None,
) -> tuple[LoadedVersion, Facts]:
    compiled, proof = maker.compile_and_prove(
        model, prepared.own_shapes, must_run=True, properties=properties
    )
    on_one = None
    if shapes is None:
        on_one = maker.on_one_thread((compiled, proof), model, prepared.own_shapes, properties)
    if on_one is not None:
        compiled, proof = on_one
    specs = compiled.inputs, compiled.outputs
    if shapes is not None:
        specs = (
            specs_of(prepared.model.inputs, prepared.inputs, "input"),
            specs_of(prepared.model.outputs, prepared.outputs, "output"),
        )
    check_size(*specs)
    inputs = with_exact_ranges(specs[0], prepared.model)
    is_refused = maker.request.settings.refuses_lossy
    facts = Facts(
        inputs=prepared.inputs,
        outputs=prepared.outputs,
        own_shapes=prepared.own_shapes,
        exact=tuple(spec.exact for spec in inputs),
        images=prepared.images,
        layouts=prepared.layouts,
        referable=referable_inputs(prepared.model),
        remarks=prepared.notices,
        notices=tuple(exactness_notices(inputs, specs[1], prepared.model, is_refused=is_refused)),
        rt_info=prepared.rt_info,
        does_with_one=on_one is not None,
    )
    return _described(maker, compiled, proof, specs, facts, auto_text, shapes), facts


def _described(
    maker: VariantMaker,
    compiled: CompiledVersion,
    proof: Proof,
    specs: tuple[tuple[TensorSpec, ...], tuple[TensorSpec, ...]],
    facts: Facts,
    remark: str = "",
    shapes: Shapes | None = None,
) -> LoadedVersion:
    request = maker.request
    on_one = _ON_ONE_THREAD if facts.does_with_one else ""
    notices = (*facts.notices, *state_notices(compiled.slots[0].request))
    for notice in notices:
        _log.warning("event=notice model=%s version=%d notice=%r", request.name, request.version, notice)
    inputs = tuple(
        replace(spec, takes_images=flag, layout=layout, is_referable=is_referable)
        for spec, flag, layout, is_referable in zip(
            specs[0], facts.images, facts.layouts, facts.referable, strict=True
        )
    )
    if request.settings.refuses_lossy:
        inputs = tuple(replace(spec, exact=exact) for spec, exact in zip(inputs, facts.exact, strict=True))
    return LoadedVersion(
        inputs=inputs,
        outputs=specs[1],
        compiled=compiled,
        shapes=shapes,
        run_time_s=proof.run_time_s,
        detail=" ".join(filter(None, (compiled.describe(), on_one, remark, str(proof)))),
        notices=notices,
        # It keeps the model in memory beside what was compiled from it.
        maker=None if compiled.is_static and shapes is None else maker,
        rt_info=facts.rt_info,
        answers=proof.answers,
    )


def _log_remarks(request: LoadModel, remarks: tuple[str, ...]) -> None:
    for remark in remarks:
        _log.info("event=prepared model=%s version=%d notice=%r", request.name, request.version, remark)


def _load_variants(maker: VariantMaker, prepared: Prepared, why: ModelLoadFailed) -> LoadedVersion:
    """Serve each set of shapes by a compiled model of its own, beginning with the model's own shapes."""
    shapes = prepared.own_shapes
    if shapes is None:
        raise why
    text = f"auto=compiled for each shape, {MOST_VARIANTS} at most (as one dynamic model: {why.message})"
    return _loaded(maker, prepared, prepared.reshaped(shapes), text, shapes)[0]
