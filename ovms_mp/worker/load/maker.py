# SPDX-License-Identifier: Apache-2.0
"""What compiles a version: as it is, for given shapes, for one thread, or from what was kept; and proves each."""

from __future__ import annotations

import logging
import os
from typing import TYPE_CHECKING

from ovms_mp.errors import ModelLoadFailed, OvmsError
from ovms_mp.model.devices import meta_device
from ovms_mp.worker.engine.engine import compile_for
from ovms_mp.worker.engine.properties import compile_properties
from ovms_mp.worker.engine.stages import hearing_stages
from ovms_mp.worker.load.compiled import CompiledVersion, OutputPath
from ovms_mp.worker.load.kept import entry_of, is_kept, stand_in
from ovms_mp.worker.load.one_thread import ONE_THREAD, does_with_one, may_do_with_one
from ovms_mp.worker.load.prepare import prepare_model
from ovms_mp.worker.load.proof import Attempt, AttemptFailed, prove

if TYPE_CHECKING:
    import openvino as ov

    from ovms_mp.child.specs import CpuShare
    from ovms_mp.wire.messages import LoadModel
    from ovms_mp.worker.load.kept import Facts
    from ovms_mp.worker.load.prepare import Prepared
    from ovms_mp.worker.load.proof import Proof
    from ovms_mp.worker.load.variants import Shapes

_log = logging.getLogger(__name__)

_CACHE_KEY = "CACHE_DIR"


class VariantMaker:
    """Compiles one version, as it is or for given shapes. For threads that may wait; one call at a time from each."""

    def __init__(self, core: ov.Core, request: LoadModel, cpu: CpuShare, nireq: int) -> None:
        """Keep what compiling takes; see :func:`load_version`.

        Raises:
            DeviceUnavailable: The device or a property does not exist here.
        """
        self.request = request
        self._core = core
        self._title = f"{request.name} version {request.version}"
        self._settings = request.settings
        self._source: Prepared | None = None
        self._facts: Facts | None = None
        self._cache_directory = "" if is_kept(request.settings) else request.cache_directory
        self.properties = compile_properties(core, request.settings, cpu, self._cache_directory)
        self.entry = entry_of(core, request, self.properties)
        self._nireq = nireq
        self._has_several_devices = (
            meta_device(request.settings.device) in ("AUTO", "MULTI") and len(core.available_devices) > 1
        )

    def source(self) -> Prepared:
        """The model to be compiled, which holds the weights; it is read when it is asked for first.

        Raises:
            ModelLoadFailed: The files are no model that this server can serve, or not those that were loaded.
        """
        if self._source is None:
            if self._facts is not None and not (self.entry and self.entry.is_current()):
                raise ModelLoadFailed("its files were changed after it was loaded from the cache")
            self._source = prepare_model(self._core, self.request.model_file, self._settings)
        return self._source

    def make(self, shapes: Shapes) -> CompiledVersion:
        """Compile the version for these shapes.

        Raises:
            OvmsError: The model cannot take them, or cannot be compiled for them.
        """
        model = self.source().reshaped(shapes)
        properties = dict(self.properties)
        # What the probe filled is deleted after the load, and OpenVINO would make the directory again.
        if not os.path.isdir(self._cache_directory):
            properties.pop(_CACHE_KEY, None)
        return self.compile_and_prove(model, shapes, must_run=False, properties=properties)[0]

    def make_dynamic(self) -> CompiledVersion:
        """Compile the version as it was loaded once more.

        Raises:
            OvmsError: It cannot be compiled any more, e.g. for want of memory.
        """
        prepared = self.source()
        return self.compile_and_prove(prepared.model, prepared.own_shapes, must_run=False)[0]

    def refusal(self, shapes: Shapes) -> OvmsError | None:
        """Why the model cannot take these shapes; None when it can, or when that cannot be said."""
        try:
            prepared = self.source()
        except OvmsError as error:
            _log.warning("event=not_examined model=%r reason=%s", self._title, error.message)
            return None
        try:
            prepared.reshaped(shapes)
        except OvmsError as error:
            return error
        return None

    def compile_beside(self, model: ov.Model, properties: dict[str, object]) -> ov.CompiledModel:
        """Compile something else of this version, for its device.

        Raises:
            OvmsError: It cannot be compiled.
        """
        return compile_for(
            self._core,
            model,
            self._settings.device,
            self._settings.plugin_config,
            self.properties | properties,
        )

    def import_kept(self, facts: Facts, properties: dict[str, object]) -> tuple[CompiledVersion, Proof]:
        """Take the compiled model that OpenVINO finds by these properties, and do with it as with one compiled here.

        Raises:
            OvmsError: See :meth:`compile_and_prove`; and if OpenVINO does not take it.
        """
        self._facts = facts
        if facts.does_with_one:
            properties = {**properties, **ONE_THREAD}
        try:
            return self.compile_and_prove(None, facts.own_shapes, must_run=True, properties=properties)
        except OvmsError:
            self._facts = None
            raise

    def compile_and_prove(
        self,
        model: ov.Model | None,
        shapes: Shapes | None = None,
        *,
        must_run: bool,
        properties: dict[str, object] | None = None,
    ) -> tuple[CompiledVersion, Proof]:
        """Compile a model of this version and find out how its outputs may reach shared memory.

        Args:
            model: To be compiled; None for what is kept where the properties say.
            shapes: To try it on; without them, dynamic dimensions are as small as they may be.
            must_run: Whether a model that has one shape only, or was given ``shapes``, must run on zeros.
            properties: In place of the version's.

        Raises:
            ModelLoadFailed: It cannot be compiled, has tensors that no protocol of ours can carry, cannot run though it
                must, or does not answer as the engine itself does.
            DeviceUnavailable: The device or a property does not exist here.
        """
        attempt = Attempt()
        while True:
            compiled = self._compile(model, self.properties if properties is None else properties)
            is_bound_to_run = must_run and (shapes is not None or compiled.is_static)
            try:
                proof = prove(
                    compiled,
                    attempt,
                    shapes,
                    must_run=is_bound_to_run,
                    must_agree=not self._has_several_devices,
                )
            except AttemptFailed as failure:
                compiled.close()
                attempt = failure.next_attempt
                _log.info("event=compiling_again model=%r reason=%r", self._title, attempt.remark)
                continue
            if proof.path is not (OutputPath.BOUND if compiled.can_bind else OutputPath.COPIED):
                _log.warning("event=outputs_not_bound model=%r %s", self._title, proof)
            return compiled, proof

    def on_one_thread(
        self,
        on_all: tuple[CompiledVersion, Proof],
        model: ov.Model,
        shapes: Shapes | None,
        properties: dict[str, object] | None,
    ) -> tuple[CompiledVersion, Proof] | None:
        """Compile a small model for one thread, if it gains nothing from more; None where it is as well as it is.

        Args:
            on_all: What was compiled, and is to be replaced; closed if it is.
            model: As for :meth:`compile_and_prove`.
            shapes: The same.
            properties: The same.
        """
        if not may_do_with_one(self._settings, *on_all):
            return None
        given = self.properties if properties is None else properties
        try:
            with hearing_stages(lambda _: None):  # Whoever listens has heard of both stages.
                on_one = self.compile_and_prove(
                    model, shapes, must_run=True, properties={**given, **ONE_THREAD}
                )
        except OvmsError as error:
            _log.warning("event=one_thread_failed model=%r reason=%s", self._title, error.message)
            return None
        if does_with_one(on_all[0], on_one[0]):
            on_all[0].close()
            return on_one
        on_one[0].close()
        return None

    def _compile(self, model: ov.Model | None, properties: dict[str, object]) -> CompiledVersion:
        settings = self._settings
        given = stand_in() if model is None else model
        compiled = compile_for(self._core, given, settings.device, settings.plugin_config, properties)
        if model is None and not is_imported(compiled):
            raise ModelLoadFailed("OpenVINO does not take what was kept")
        names: Facts | Prepared = self._facts or self.source()
        return CompiledVersion(compiled, names.inputs, names.outputs, self._nireq or _optimal_nireq(compiled))


def is_imported(compiled: ov.CompiledModel) -> bool:
    """Whether OpenVINO took it from a cache."""
    try:
        return bool(compiled.get_property("LOADED_FROM_CACHE"))
    except RuntimeError:
        return False


def _optimal_nireq(compiled: ov.CompiledModel) -> int:
    try:
        return max(1, int(compiled.get_property("OPTIMAL_NUMBER_OF_INFER_REQUESTS")))
    except RuntimeError:
        return 1
