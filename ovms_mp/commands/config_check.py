# SPDX-License-Identifier: Apache-2.0
"""``ovms_mp config --check``: what a configuration means, in sentences, without serving it.

For each model a paragraph: what would be served from where now, and each setting that is not the default's. Looks at
the model directories, and at nothing else: whether a model loads is for OpenVINO to say.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from ovms_mp.config.model import ModelConfig
from ovms_mp.model.devices import DEFAULT_DEVICE
from ovms_mp.model.versions import All, Latest, Specific, VersionPolicy, desired_versions
from ovms_mp.storage.local import list_versions

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence
    from pathlib import Path

    from ovms_mp.model.input_settings import Bound, ChannelValues, InputSettings

_MOST_VERSIONS = 10


def explain(models: Sequence[ModelConfig], path: Path, notices: Sequence[str]) -> str:
    """Describe a configuration.

    Args:
        models: What was read.
        path: The file that it was read from.
        notices: What its author should know.
    """
    count = f"{len(models)} model{'' if len(models) == 1 else 's'}"
    paragraphs = [f"{path} is valid: {count}."]
    paragraphs += ["\n  ".join([model.name, *_sentences(model)]) for model in models]
    if notices:
        paragraphs.append("\n  ".join(["Notices", *notices]))
    return "\n\n".join(paragraphs)


def _sentences(model: ModelConfig) -> Iterator[str]:
    yield _store_sentence(model) if model.store else _source_sentence(model.base_path, model.version_policy)
    if model.target_device == "AUTO":
        yield "target_device AUTO: OpenVINO chooses the device; `ovms_mp devices` shows which it takes here."
    elif model.target_device != DEFAULT_DEVICE:
        yield f"target_device {model.target_device}: passed to OpenVINO, instead of {DEFAULT_DEVICE}."
    if model.nireq:
        requests = "infer request" if model.nireq == 1 else "infer requests"
        yield f"nireq {model.nireq}: {model.nireq} {requests} for each version, instead of the device's optimal number."
    if model.weight != 1:
        yield f"weight {model.weight}: {model.weight} times the time of a model of weight 1, where both want a device."
    if model.plugin_config:
        properties = ", ".join(f"{key}={json.dumps(value)}" for key, value in model.plugin_config.items())
        yield f"plugin_config: OpenVINO compiles with {properties}."
    yield from _input_sentences(model.inputs)
    if model.allow_cache:
        yield "allow_cache: compiled models are kept in --cache_dir also where batch_size or shape is auto."


def _store_sentence(model: ModelConfig) -> str:
    here = sorted(list_versions(model.base_path).model_files)
    downloaded = f"{_versions(here)} {'is' if len(here) == 1 else 'are'}" if here else "nothing is"
    return (
        f"Serves what {model.source} holds, by {_policy(model.version_policy)}; it is not looked at here, and "
        f"{downloaded} in {model.base_path}."
    )


def _source_sentence(base_path: Path, policy: VersionPolicy) -> str:
    listing = list_versions(base_path)
    if not listing.exists:
        return f"Serves nothing yet: {base_path} does not exist. It is served as soon as it appears."
    found = listing.model_files.keys()
    if not found:
        if listing.problems:
            name, problem = next(iter(listing.problems.items()))
            where = base_path if name in (base_path.name, str(base_path)) else base_path / name
            return f"Serves nothing yet: {where} {problem}."
        return f"Serves nothing yet: {base_path} holds no version with a model, such as 1/model.xml with 1/model.bin."
    served = desired_versions(found, policy)
    others = sorted(set(found) - set(served))
    beside = f"; {_versions(others)} would not be" if others else ""
    if not served:
        return f"Serves nothing yet: {_policy(policy)} asks for none of {_versions(others)} in {base_path}."
    return f"Serves {_versions(served)} from {base_path} by {_policy(policy)}{beside}."


def _policy(policy: VersionPolicy) -> str:
    match policy:
        case Latest(num_versions=1):
            return "the policy latest"
        case Latest(num_versions=count):
            return f"the policy latest {count}"
        case All():
            return "the policy all"
        case Specific(versions=versions):
            return f"the policy specific {_some(sorted(versions))}"


def _versions(versions: Sequence[int]) -> str:
    return f"version{'' if len(versions) == 1 else 's'} {_some(versions)}"


def _some(numbers: Sequence[int]) -> str:
    """Numbers in a row, only the highest ones where they are many."""
    hidden = len(numbers) - _MOST_VERSIONS
    text = ", ".join(map(str, numbers[-_MOST_VERSIONS:]))
    return f"{hidden} others and {text}" if hidden > 0 else text


def _input_sentences(inputs: InputSettings) -> Iterator[str]:
    if inputs.batch_size is not None:
        yield f"batch_size {_batch(inputs.batch_size.bounds)}"
    for shape in inputs.shapes:
        where = f"shape of {shape.name!r}" if shape.name else "shape"
        if shape.bounds is None:
            yield f"{where} auto: requests may have any shape that the model takes."
        else:
            yield f"{where} ({','.join(map(_size, shape.bounds))}): the model is reshaped to it."
    for layout in inputs.layouts:
        where = f"layout of {layout.name!r}" if layout.name else "layout"
        if layout.model:
            yield (
                f"{where} {layout.client}:{layout.model}: clients use {layout.client}, "
                f"transposed for the model's {layout.model}."
            )
        else:
            yield f"{where} {layout.client}: says which dimension is which and changes no data."
    yield from _channel_sentences("mean", "subtracted from", inputs.mean)
    yield from _channel_sentences("scale", "dividing", inputs.scale)
    for key, conversions in (("color_format", inputs.color_format), ("precision", inputs.precision)):
        for conversion in conversions:
            where = f"{key} of {conversion.name!r}" if conversion.name else key
            yield (
                f"{where} {conversion.client}:{conversion.model}: clients send {conversion.client}, "
                f"converted to the model's {conversion.model}."
            )


def _channel_sentences(key: str, verb: str, entries: Iterable[ChannelValues]) -> Iterator[str]:
    for entry in entries:
        numbers = ", ".join(f"{value:g}" for value in entry.values)
        what = "every value" if len(entry.values) == 1 else "the channels' values"
        name = f" of {entry.name!r}" if entry.name else ""
        yield f"{key}{name} {numbers}: {verb} {what}, inside the compiled model."


def _batch(bounds: Bound | None) -> str:
    if bounds is None:
        return "auto: requests may have any batch size that the model takes."
    low, high = bounds
    if high == -1:
        return "-1: dimension N of every input becomes dynamic."
    if low == high:
        return f"{low}: dimension N of every input becomes {low}."
    return f"{low}:{high}: dimension N of every input may be {low} to {high}."


def _size(bound: Bound) -> str:
    low, high = bound
    if high == -1:
        return "-1"
    return str(low) if low == high else f"{low}:{high}"
