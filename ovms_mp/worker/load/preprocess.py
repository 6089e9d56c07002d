# SPDX-License-Identifier: Apache-2.0
"""Layouts and preprocessing of a version, compiled into its model by OpenVINO's PrePostProcessor.

What clients send goes through these steps, in this order, whatever their order in the configuration::

    client's precision --> model's precision --> model's color format --> - mean --> / scale --> model's layout

So mean and scale have the order of the model's channels (RGB for ``color_format BGR:RGB``), as in upstream's example of
ResNet-50. ``NHWC`` without a colon adds nothing; it says which dimension is the batch and which the channels.
Source: https://docs.openvino.ai (Preprocessing API details); openvinotoolkit/model_server pull request 3895.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

import openvino as ov
from openvino.preprocess import ColorFormat, PrePostProcessor

from ovms_mp.errors import ModelLoadFailed
from ovms_mp.model.preprocessing import COLOR_FORMATS, PRECISIONS
from ovms_mp.worker.engine.engine import engine_text
from ovms_mp.worker.load.tensor_names import TensorNames

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ovms_mp.model.input_settings import ChannelValues, Conversion, InputSettings, Layout

ValueT = TypeVar("ValueT")

_DEFAULT_LAYOUT = "N..."


@dataclass(slots=True)
class _Steps:
    """What is done to one tensor."""

    layout: Layout | None = None
    precision: Conversion | None = None
    color: Conversion | None = None
    mean: ChannelValues | None = None
    scale: ChannelValues | None = None

    def text(self) -> str:
        """The settings, for messages."""
        parts = []
        if self.layout is not None:
            parts.append(
                f"layout {self.layout.client}" + (f":{self.layout.model}" if self.layout.model else "")
            )
        if self.color is not None:
            parts.append(f"color_format {self.color.client}:{self.color.model}")
        if self.precision is not None:
            parts.append(f"precision {self.precision.client}:{self.precision.model}")
        if self.mean is not None:
            parts.append(f"mean {list(self.mean.values)}")
        if self.scale is not None:
            parts.append(f"scale {list(self.scale.values)}")
        return ", ".join(parts)


@dataclass(frozen=True, slots=True)
class Adapted:
    """A model that takes what clients send.

    Attributes:
        inputs: Names of its inputs.
        layouts: Layout of each input as clients see it; ``N...`` where nothing says more.
    """

    model: ov.Model
    inputs: TensorNames
    layouts: tuple[str, ...]


def preprocess(
    model: ov.Model, settings: InputSettings, inputs: TensorNames, outputs: TensorNames
) -> Adapted:
    """Put layouts and preprocessing into a model; the model given is not to be used any more.

    Raises:
        ModelLoadFailed: A setting names no tensor, or the model cannot take it.
    """
    of_inputs = _steps_by_input(settings, inputs)
    of_outputs = _layouts_by_tensor(settings.layouts, inputs, outputs, of_inputs)
    declared = tuple(_declared_layout(port) for port in model.inputs)
    if not of_inputs and not of_outputs:
        return Adapted(model, inputs, declared)
    try:
        processor = PrePostProcessor(model)
        for place, steps in of_inputs.items():
            _check_ranks(steps.layout, model.inputs[place], inputs.clients[place])
            _add_steps(processor.input(place), steps)
        for place, layout in of_outputs.items():
            _check_ranks(layout, model.outputs[place], outputs.clients[place])
            port = processor.output(place)
            port.tensor().set_layout(ov.Layout(layout.client))
            port.model().set_layout(ov.Layout(layout.model or layout.client))
        adapted = processor.build()
    except RuntimeError as error:
        raise ModelLoadFailed(
            f"the model cannot be adapted to {_all_text(of_inputs, of_outputs, inputs, outputs)}: "
            f"{engine_text(error)}"
        ) from None
    layouts = tuple(
        found.layout.client if (found := of_inputs.get(place)) and found.layout else own
        for place, own in enumerate(declared)
    )
    return _with_planes(adapted, inputs, layouts, of_inputs)


def layout_length(layout: str) -> int | None:
    """Number of dimensions of a layout such as ``NCHW``, ``N?HWC`` or ``[N,C,H,W]``; None for one with ``...``."""
    if "..." in layout:
        return None
    text = layout.strip()
    return len(text.strip("[]").split(",")) if text.startswith("[") else len(text)


def is_layout_of_images(layout: str, rank: int) -> bool:
    """Whether a tensor of this layout may be a batch of images with height, width and channels last.

    What the layout leaves open may be as images have it, so ``N...`` is one, and ``NCHW`` is not.
    """
    wanted = {4: "NHWC", 5: "N?HWC"}.get(rank)
    if wanted is None:
        return False
    before, dots, behind = (
        part.replace(",", "") for part in layout.strip("[] ").replace(" ", "").partition("...")
    )
    missing = rank - len(before) - len(behind)
    if missing < 0 or (missing and not dots):
        return False
    letters = before + "?" * missing + behind
    return all(
        "?" in (letter, place) or letter == place for letter, place in zip(letters, wanted, strict=True)
    )


def known_layout(layout: str) -> str:
    """``NHWC`` or ``NCHW`` where a layout is one of these to the last letter; else empty."""
    text = layout.strip("[] ").replace(" ", "").replace(",", "")
    return text if text in ("NHWC", "NCHW") else ""


def _steps_by_input(settings: InputSettings, inputs: TensorNames) -> dict[int, _Steps]:
    found: dict[int, _Steps] = {}
    for color in settings.color_format:
        for place in inputs.places("color_format", color.name):
            found.setdefault(place, _Steps()).color = color
    for precision in settings.precision:
        for place in inputs.places("precision", precision.name):
            found.setdefault(place, _Steps()).precision = precision
    for mean in settings.mean:
        for place in inputs.places("mean", mean.name):
            found.setdefault(place, _Steps()).mean = mean
    for scale in settings.scale:
        for place in inputs.places("scale", scale.name):
            found.setdefault(place, _Steps()).scale = scale
    return found


def _layouts_by_tensor(
    layouts: tuple[Layout, ...], inputs: TensorNames, outputs: TensorNames, of_inputs: dict[int, _Steps]
) -> dict[int, Layout]:
    """Add inputs' layouts to their steps; the outputs' are the result. A name that both have is for both."""
    of_outputs: dict[int, Layout] = {}
    for layout in layouts:
        if not layout.name:
            of_inputs.setdefault(inputs.places("layout", "")[0], _Steps()).layout = layout
            continue
        input_place, output_place = inputs.find(layout.name), outputs.find(layout.name)
        if input_place is not None:
            of_inputs.setdefault(input_place, _Steps()).layout = layout
        if output_place is not None:
            of_outputs[output_place] = layout
        if input_place is None and output_place is None:
            is_output = any(layout.name in originals for originals in outputs.originals)
            raise (outputs if is_output else inputs).unknown("layout", layout.name)
    return of_outputs


def _add_steps(port: object, steps: _Steps) -> None:
    """Tell the PrePostProcessor what to do to one input."""
    tensor, model, preprocess_steps = port.tensor(), port.model(), port.preprocess()  # type: ignore[attr-defined]  # untyped
    if steps.layout is not None:
        tensor.set_layout(ov.Layout(steps.layout.client))
        model.set_layout(ov.Layout(steps.layout.model or steps.layout.client))
    if steps.precision is not None:
        tensor.set_element_type(_element_type(steps.precision.client))
        preprocess_steps.convert_element_type(_element_type(steps.precision.model))
    if steps.color is not None:
        tensor.set_color_format(_color_format(steps.color.client), list(_planes_of(steps.color)))
        preprocess_steps.convert_color(_color_format(steps.color.model))
    if steps.mean is not None:
        preprocess_steps.mean(_values(steps.mean))
    if steps.scale is not None:
        preprocess_steps.scale(_values(steps.scale))


def _values(setting: ChannelValues) -> float | list[float]:
    """One number is for all channels and needs no layout."""
    return setting.values[0] if len(setting.values) == 1 else list(setting.values)


def _element_type(word: str) -> ov.Type:
    found: ov.Type = getattr(ov.Type, _known("precision", word.lower(), PRECISIONS))
    return found


def _color_format(word: str) -> ColorFormat:
    found: ColorFormat = getattr(ColorFormat, _known("color_format", word.upper(), COLOR_FORMATS).ov_name)
    return found


def _known(key: str, word: str, words: Mapping[str, ValueT]) -> ValueT:
    if word not in words:
        raise ModelLoadFailed(f"{key} {word!r} is unknown; accepted: {', '.join(words)}")
    return words[word]


def _planes_of(conversion: Conversion) -> tuple[str, ...]:
    """Names of the inputs that a color format in several planes makes of one."""
    return _known("color_format", conversion.client.upper(), COLOR_FORMATS).planes


def _declared_layout(port: ov.Output) -> str:
    """What the model itself says of an input's layout."""
    layout = port.node.layout
    return _DEFAULT_LAYOUT if layout.empty else layout.to_string()


def _check_ranks(layout: Layout | None, port: ov.Output, name: str) -> None:
    """Refuse a layout with another number of dimensions than the tensor has."""
    shape = port.get_partial_shape()
    if layout is None or shape.rank.is_dynamic:
        return
    rank = shape.rank.get_length()
    for text in filter(None, (layout.client, layout.model)):
        length = layout_length(text)
        if length is not None and length != rank:
            raise ModelLoadFailed(
                f"Layout incompatible with given shape: layout {text} of {name!r} has {length} dimensions, its shape "
                f"{shape} has {rank}"
            )


def _all_text(
    of_inputs: dict[int, _Steps], of_outputs: dict[int, Layout], inputs: TensorNames, outputs: TensorNames
) -> str:
    parts = [f"{inputs.clients[place]!r}: {steps.text()}" for place, steps in of_inputs.items()]
    parts += [f"{outputs.clients[place]!r}: {_Steps(layout).text()}" for place, layout in of_outputs.items()]
    return "; ".join(parts)


def _with_planes(
    model: ov.Model, inputs: TensorNames, layouts: tuple[str, ...], of_inputs: dict[int, _Steps]
) -> Adapted:
    """Name the inputs again where one of them became several."""
    clients: list[str] = []
    originals: list[frozenset[str]] = []
    new_layouts: list[str] = []
    for place, client in enumerate(inputs.clients):
        steps = of_inputs.get(place)
        planes = _planes_of(steps.color) if steps and steps.color else ()
        clients += [f"{client}/{plane}" for plane in planes] or [client]
        originals += [inputs.originals[place]] * max(1, len(planes))
        new_layouts += [layouts[place]] * max(1, len(planes))
    return Adapted(model, TensorNames(inputs.what, tuple(clients), tuple(originals)), tuple(new_layouts))
