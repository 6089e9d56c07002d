# SPDX-License-Identifier: Apache-2.0
"""Loading a version with what batches it: a trial decides, and what it has found is kept beside the compile cache.

::

    version as it is served --> excluded? --> batch form, compiled beside --> trial --> verdict, kept
                                                  | where the version's own compiled model has an open batch, it is that

A version that is served as it was before a trial has a verdict already: only its answers are compared then, as what
was imported from the cache is another compiled model. A trial that fails leaves a version that serves one by one. What
was timed while the machine was busy with other things is not believed for ever.
"""

from __future__ import annotations

import contextlib
import logging
import os
import tempfile
import time
from dataclasses import replace
from typing import TYPE_CHECKING

import msgspec

from ovms_mp.errors import OvmsError
from ovms_mp.files import read_regular
from ovms_mp.model.batching import AUTO_BATCHING, BATCHING_OFF
from ovms_mp.wire.records import Record
from ovms_mp.worker.batching.eligibility import (
    LONGEST_AUTO_RUN_S,
    check_rows,
    most_of,
    opened,
    refuse_by_load,
    shapes_that_fit,
    trial_shapes,
    units_of,
)
from ovms_mp.worker.batching.form import BatchForm
from ovms_mp.worker.batching.plan import LEAST_GAIN, BatchPlan, gain_of, sizes_to_try, useful_sizes
from ovms_mp.worker.batching.rows import NotBatched, NotNow
from ovms_mp.worker.batching.trial import TrialBounds, try_batches
from ovms_mp.worker.engine.engine import engine_text
from ovms_mp.worker.load.kept import Facts, stand_in
from ovms_mp.worker.load.loaded import load_by
from ovms_mp.worker.load.maker import VariantMaker, is_imported

if TYPE_CHECKING:
    from pathlib import Path

    import openvino as ov

    from ovms_mp.child.specs import CpuShare
    from ovms_mp.wire.messages import LoadModel
    from ovms_mp.worker.load.batches import FirstForm
    from ovms_mp.worker.load.loaded import LoadedVersion
    from ovms_mp.worker.load.variants import Shapes

_log = logging.getLogger(__name__)

_FORM = "batch"
_MOST_VERDICT_BYTES = 1 << 16
_UNSURE_S = 3600.0
"""So long a verdict by times is kept that were taken on a machine that did much else."""


class Verdict(Record, frozen=True):
    """What a trial has found.

    Attributes:
        reason: Why the version is not batched; empty where it is.
        units: Shapes of a task's inputs.
        shapes: What the trial was run on.
        single_s: What a lone run took.
        costs_s: What a run took, by how many tasks it had.
        until_s: By the clock of the day, when it is to be found anew; 0 for never.
    """

    reason: str
    units: tuple[tuple[int, ...], ...] = ()
    shapes: tuple[tuple[tuple[int, ...], ...], ...] = ()
    single_s: float = 0.0
    costs_s: dict[int, float] = msgspec.field(default_factory=dict)
    until_s: float = 0.0


def load_with_batches(
    core: ov.Core,
    request: LoadModel,
    cpu: CpuShare,
    nireq: int | None = None,
    *,
    first: FirstForm | None = None,
) -> LoadedVersion:
    """Load a version, and batch it where that pays; see :func:`ovms_mp.worker.load.loaded.load_version`.

    Another form of a version that serves is batched as that is, where its answers allow it: it is compiled while
    requests have the machine, so that its times would say nothing.

    Raises:
        OvmsError: The version cannot be served; never as it cannot be batched.
    """
    settings = request.settings
    maker = VariantMaker(core, request, cpu, settings.nireq if nireq is None else nireq)
    loaded = load_by(maker)
    if settings.batching == BATCHING_OFF:
        return loaded
    try:
        text = _add_batches(maker, loaded, first)
    except NotBatched as reason:
        text = f"off ({reason})"
    except OvmsError as error:
        text = f"off (its trial failed: {error.message})"
    except Exception as error:
        # A defect, or an engine failure of a kind we have not met; the version itself is proven.
        _log.exception("event=batching_raised model=%s version=%d", request.name, request.version)
        text = f"off ({type(error).__name__})"
    return replace(loaded, detail=f"{loaded.detail} batching={text}")


def _add_batches(maker: VariantMaker, loaded: LoadedVersion, first: FirstForm | None) -> str:
    """Give a version its batch form; how it is batched, for people.

    Raises:
        NotBatched: It is not.
        OvmsError: The form cannot be compiled, or its trial cannot run.
    """
    settings = maker.request.settings
    is_auto = settings.batching == AUTO_BATCHING
    verdict_file = maker.entry.beside(f"batching{settings.batching}.json") if maker.entry else None
    verdict: Verdict | None
    if first is None:
        refuse_by_load(loaded, settings.device, is_auto=is_auto)
        verdict = _read(verdict_file)
    elif isinstance(first.verdict, Verdict):
        verdict = first.verdict
    else:
        raise NotBatched("as the form that the version was loaded with")
    if verdict is not None and verdict.reason:
        raise NotBatched(verdict.reason)
    if verdict is None:
        try:
            verdict, compiled = _try(maker, loaded, settings.batching)
        except NotNow:
            raise
        except NotBatched as reason:
            _write(verdict_file, Verdict(str(reason)))
            raise
        _write(verdict_file, verdict)
        if verdict.reason:
            raise NotBatched(verdict.reason)
    else:
        compiled = _form_of(maker, loaded, verdict.units)
        bounds = TrialBounds(tuple(verdict.costs_s), is_auto, has_timing=False)
        try_batches(loaded.compiled, compiled, verdict.units, verdict.shapes, bounds)
    plan = BatchPlan(verdict.single_s, verdict.costs_s)
    # Bits are compared on these shapes; longer ones may run on other kernels.
    longest = verdict.shapes[-1] if is_auto else None
    loaded.compiled.batches = BatchForm(compiled, verdict.units, plan, longest, verdict)
    return f"{plan.sizes[-1]} (gain {plan.gain:.1f})"


def _try(maker: VariantMaker, loaded: LoadedVersion, batching: int) -> tuple[Verdict, ov.CompiledModel]:
    is_auto = batching == AUTO_BATCHING
    prepared, inputs = maker.source(), loaded.compiled.inputs
    units = units_of(prepared, loaded)
    own_most = most_of(inputs)
    sizes = tuple(size for size in sizes_to_try(batching) if not own_most or size <= own_most)
    if not sizes:
        raise NotBatched(f"its batch is {own_most} at most")
    shapes, sizes = shapes_that_fit(prepared.model, inputs, trial_shapes(inputs, units), sizes)
    for each in shapes:
        check_rows(prepared.model, each, sizes, is_auto=is_auto)
    compiled = _form_of(maker, loaded, units)
    longest_s = LONGEST_AUTO_RUN_S if is_auto else float("inf")
    bounds = TrialBounds(sizes, is_auto, has_timing=True, longest_s=longest_s)
    timing = try_batches(loaded.compiled, compiled, units, shapes, bounds)
    costs_s = useful_sizes(timing.single_s, timing.costs_s, LEAST_GAIN if is_auto else 0.0)
    until_s = 0.0 if timing.is_calm else time.time() + _UNSURE_S
    if not costs_s:
        best = max(gain_of(timing.single_s, size, cost_s) for size, cost_s in timing.costs_s.items())
        reason = f"it does not pay: {best:.2f} times the rate at best"
        return Verdict(reason, until_s=until_s), compiled
    return Verdict("", units, timing.shapes, timing.single_s, costs_s, until_s), compiled


def _form_of(maker: VariantMaker, loaded: LoadedVersion, units: Shapes) -> ov.CompiledModel:
    """The compiled model with an open batch: the version's own, or one that is compiled beside it, or kept."""
    if most_of(loaded.compiled.inputs) != 0:
        return loaded.compiled.compiled
    entry = maker.entry.of_form(_FORM) if maker.entry else None
    if entry is None:
        return maker.compile_beside(opened(maker.source().model, units), {})
    with entry.trying() as facts:
        if facts is not None:
            try:
                compiled = maker.compile_beside(stand_in(), entry.import_properties())
                if is_imported(compiled):
                    return compiled
                reason = "OpenVINO does not take what was kept"
            except OvmsError as error:
                reason = error.message
    if facts is not None:
        entry.refuse(reason)
    filling = entry.fill()
    model = opened(maker.source().model, units)
    if filling is None:
        return maker.compile_beside(model, {})
    try:
        compiled = maker.compile_beside(model, filling.properties())
        if entry.is_current():
            filling.publish(Facts((), (), None, (), (), (), (), (), (), ""))
    finally:
        filling.close()
    return compiled


def _read(path: Path | None) -> Verdict | None:
    """What was found before; None where that is not known, or not for sure any more."""
    if path is None:
        return None
    try:
        verdict = msgspec.json.decode(read_regular(path, _MOST_VERDICT_BYTES), type=Verdict)
    except (OSError, ValueError):
        return None
    return None if 0.0 < verdict.until_s < time.time() else verdict


def _write(path: Path | None, verdict: Verdict) -> None:
    if path is None:
        return
    try:
        # No parents: a private directory that was removed with its server must not come back.
        path.parent.mkdir(exist_ok=True)
        descriptor, name = tempfile.mkstemp(prefix=".", suffix=".verdict", dir=path.parent)
        try:
            with open(descriptor, "wb") as file:
                file.write(msgspec.json.encode(verdict))
            os.rename(name, path)
        except OSError:
            with contextlib.suppress(OSError):
                os.unlink(name)
            raise
    except OSError as error:
        _log.info("event=verdict_not_kept path=%s: %s", path, engine_text(error))
