# SPDX-License-Identifier: Apache-2.0
"""From a model file and a version's settings to a model that is ready to be compiled.

::

    file --> read --> names (mapping_config.json) --> layouts, preprocessing --> shapes, batch --> auto

Names in settings are those that clients use, shapes those that clients send: the order is upstream's
(openvinotoolkit/model_server, src/modelinstance.cpp).
"""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from openvino.frontend import FrontEndManager, GeneralFailure, InitializationFailure

from ovms_mp.errors import ModelLoadFailed
from ovms_mp.files import refused_part
from ovms_mp.model.formats import format_of
from ovms_mp.worker.engine.engine import engine_text
from ovms_mp.worker.engine.stages import READING, begin_stage
from ovms_mp.worker.engine.tokenizers import add_tokenizers, needs_tokenizers
from ovms_mp.worker.load.auto_shapes import auto_candidates, variable_places, with_open_places
from ovms_mp.worker.load.memory_references import refuse_memory_references
from ovms_mp.worker.load.preprocess import is_layout_of_images, known_layout, preprocess
from ovms_mp.worker.load.reshape import apply_shapes, batch_places, reshaped
from ovms_mp.worker.load.rt_info import rt_info_text
from ovms_mp.worker.load.tensor_names import TensorNames, read_mapping, tensor_names

if TYPE_CHECKING:
    import openvino as ov

    from ovms_mp.wire.records import ModelSettings
    from ovms_mp.worker.load.reshape import Place


@dataclass(frozen=True, slots=True, kw_only=True)
class Prepared:
    """A model as clients see it, and what ``auto`` needs.

    With ``auto`` the model is dynamic where it can be. If that cannot be compiled, or the device takes no dynamic
    shapes (NPU), each set of shapes is to be compiled by itself: :meth:`reshaped` makes those models, beginning with
    ``own_shapes``; ``model`` says what metadata shows and which shapes may come.

    It holds the weights; drop it where it is not needed any more.

    Attributes:
        model: What is compiled first: preprocessing and layouts are in it, shapes are set.
        inputs: Clients' names in the order of ``model.inputs``.
        outputs: The same for ``model.outputs``.
        notices: For the log.
        own_shapes: The shapes before ``auto`` opened some, one for each input; None where the model itself, or the
            configuration, leaves one open.
        auto: Places (input, axis) that ``auto`` opened.
        rt_info: What the file says of the model, as JSON.
        images: Of each input, whether its layout, as clients see it, is that of images.
        layouts: Of each input, as clients see it, ``NHWC`` or ``NCHW`` where it is known to be one; else empty.
        batched: Where each input has its dimension N, of those that have one.
    """

    model: ov.Model
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    notices: tuple[str, ...]
    own_shapes: tuple[tuple[int, ...], ...] | None
    auto: frozenset[Place]
    rt_info: str
    images: tuple[bool, ...]
    layouts: tuple[str, ...]
    batched: frozenset[Place]
    _base: ov.Model = field(repr=False)
    _names: TensorNames = field(repr=False)

    def reshaped(self, shapes: tuple[tuple[int, ...], ...]) -> ov.Model:
        """A copy with these static input shapes, in the order of ``inputs``. Callable from any thread.

        PERF: weights are shared; a copy of ResNet-50 takes 5 ms.

        Raises:
            ShapeMismatch: The model cannot take them; with the engine's reason.
        """
        return reshaped(self._base, self.model, self._names, shapes)


def prepare_model(core: ov.Core, model_file: str, settings: ModelSettings) -> Prepared:
    """Read a model and adapt it to its settings.

    Args:
        core: A core that maps no files (:func:`ovms_mp.worker.engine.engine.create_core`).
        model_file: The file, or a SavedModel's directory.
        settings: Of the version.

    Raises:
        ModelLoadFailed: The file is no model, or a setting does not fit it; names setting, value and remedy.
    """
    begin_stage(READING)
    try:
        _refuse_other_formats(model_file)
        refuse_memory_references(model_file)
        model = _read(core, model_file)
    except (RuntimeError, OSError) as error:
        reason = refused_part(model_file) or engine_text(error)
        raise ModelLoadFailed(f"cannot read {model_file}: {reason}") from None
    rt_info = rt_info_text(model, model_file)
    mapping, notices = read_mapping(model_file)
    for ports, what in ((model.inputs, "inputs"), (model.outputs, "outputs")):
        if not ports:
            raise ModelLoadFailed(f"the model has no {what}")
    inputs, input_notices = tensor_names(model.inputs, mapping.inputs, "input")
    outputs, output_notices = tensor_names(model.outputs, mapping.outputs, "output")
    adapted = preprocess(model, settings.inputs, inputs, outputs)
    base, names = adapted.model, adapted.inputs
    shape_notices = apply_shapes(base, settings.inputs, names, adapted.layouts)
    _refuse_unknown_ranks(base, names)
    candidates = auto_candidates(base, settings.inputs, names, adapted.layouts)
    batched = batch_places(base, adapted.layouts)
    auto = variable_places(base, candidates, batched)
    opened = with_open_places(base, auto) if auto else base
    return Prepared(
        model=opened,
        inputs=names.clients,
        outputs=outputs.clients,
        notices=(
            *notices,
            *input_notices,
            *output_notices,
            *shape_notices,
            *_auto_notices(settings, opened, names),
        ),
        own_shapes=_static_shapes(base),
        auto=auto,
        rt_info=rt_info,
        images=tuple(
            is_layout_of_images(layout, port.get_partial_shape().rank.get_length())
            for layout, port in zip(adapted.layouts, base.inputs, strict=True)
        ),
        layouts=tuple(map(known_layout, adapted.layouts)),
        batched=batched,
        _base=base,
        _names=names,
    )


def _read(core: ov.Core, model_file: str) -> ov.Model:
    """Read a model, once more with the operations of tokenizers if it has such.

    Raises:
        RuntimeError: It cannot be read.
        ModelLoadFailed: It needs operations that are not installed.
    """
    try:
        return core.read_model(model_file)
    except RuntimeError as error:
        refusal = engine_text(error)
    if not needs_tokenizers(refusal):
        raise RuntimeError(refusal)
    add_tokenizers(core, refusal)
    return core.read_model(model_file)


def _refuse_other_formats(model_file: str) -> None:
    """Refuse a file that is not what its name says.

    OpenVINO offers it to all its front ends, of which TensorFlow's prints to stderr what it cannot parse, and says only
    that none of them takes it. PERF: 0.2 ms; the front end's library is loaded for the model anyway.

    Raises:
        RuntimeError: With the reason.
    """
    declared = format_of(os.path.basename(model_file))
    if declared is None or not declared.front_end:
        return
    try:
        is_taken = FrontEndManager().load_by_framework(declared.front_end).supported(model_file)
    except (GeneralFailure, InitializationFailure):
        return  # It cannot be opened; reading it says why.
    if not is_taken:
        raise RuntimeError(
            f"it is not a valid {declared.title} model, or only a part of one ({os.path.getsize(model_file)} bytes)"
        )


def _refuse_unknown_ranks(model: ov.Model, names: TensorNames) -> None:
    for port, name in zip(model.inputs, names.clients, strict=True):
        if port.get_partial_shape().rank.is_dynamic:
            raise ModelLoadFailed(
                f"input {name!r} has a dynamic number of dimensions; give its shape, e.g. "
                f'"shape": {{"{name}": "(1,-1)"}}'
            )


def _static_shapes(model: ov.Model) -> tuple[tuple[int, ...], ...] | None:
    shapes = [port.get_partial_shape() for port in model.inputs]
    if any(shape.is_dynamic for shape in shapes):
        return None
    return tuple(tuple(shape.to_shape()) for shape in shapes)


def _auto_notices(settings: ModelSettings, model: ov.Model, names: TensorNames) -> tuple[str, ...]:
    if not settings.inputs.is_auto:
        return ()
    text = ", ".join(
        f"{name!r} {port.get_partial_shape()}" for name, port in zip(names.clients, model.inputs, strict=True)
    )
    return (f"auto: by shape inference the model can take {text}",)
