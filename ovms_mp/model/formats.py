# SPDX-License-Identifier: Apache-2.0
"""Model formats by file name: what OpenVINO reads, in the order in which OVMS looks for them. Pure.

A further format is one line in :data:`FORMATS`. The manager finds versions by these rules
(:mod:`ovms_mp.storage.local`), and ``ovms_mp devices --model`` finds the model of a directory.

OpenVINO reads an ``.xml`` without ``.bin`` (and a ``.pdmodel`` without ``.pdiparams``) if the model has no weights.
They are required nevertheless, as by every generation of OVMS: whatever writes a model writes both, and one without
the other is a copy that is still going on.
Source: openvinotoolkit/model_server, ``src/modelinstance.cpp``.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ovms_mp.model.mapping import MAPPING_FILE_NAME

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable

SAVED_MODEL = "saved_model.pb"
"""Makes the directory that holds it a model; OpenVINO is given the directory."""


@dataclass(frozen=True, slots=True)
class Format:
    """A model format.

    Attributes:
        suffix: Of the model's file.
        title: The format's name, for messages.
        companion: Suffix of a file that is required beside it; empty for none.
        front_end: OpenVINO's front end that can tell whether a file is of this format without printing anything; empty
            for none.
    """

    suffix: str
    title: str
    companion: str = ""
    front_end: str = ""


FORMATS = (
    Format(".xml", "OpenVINO IR", companion=".bin", front_end="ir"),
    Format(".onnx", "ONNX", front_end="onnx"),
    Format(".pdmodel", "PaddlePaddle", companion=".pdiparams"),
    Format(".pb", "TensorFlow"),
    Format(".tflite", "TensorFlow Lite", front_end="tflite"),
)
"""The preferred one first."""

FORMATS_TEXT = ", ".join(
    f"NAME{entry.suffix}" + (f" with NAME{entry.companion}" if entry.companion else "") for entry in FORMATS
)
FORMATS_TEXT += f" or {SAVED_MODEL}"

_VERSION_NAME = re.compile(r"0*([1-9][0-9]{0,18})")
_MAX_VERSION = (1 << 63) - 1
_COMPANIONS = {entry.suffix: entry.companion for entry in FORMATS if entry.companion}
_SUFFIXES = tuple(entry.suffix for entry in FORMATS)
_TOKENIZERS = frozenset({"openvino_tokenizer.xml", "openvino_detokenizer.xml"})
"""Models themselves, but beside the model whose text they make and read it is that one that is meant."""
_PREFERRED = "openvino_model.xml"
"""As optimum-cli and OpenVINO's own tools name the model."""
_PARTS_OF_SAVED_MODEL = frozenset({"fingerprint.pb", "keras_metadata.pb"})
"""Lie beside a ``saved_model.pb`` and may be copied before it; they are no models."""


def version_number(name: str) -> int | None:
    """The version that a directory of this name below a base path is: ``1`` and ``01`` are 1, as in TF Serving."""
    match = _VERSION_NAME.fullmatch(name)
    number = int(match[1]) if match else 0
    return number if 0 < number <= _MAX_VERSION else None


def format_of(name: str) -> Format | None:
    """The format of a model file, by its name in any case; None where the name tells none."""
    return next((entry for entry in FORMATS if name.lower().endswith(entry.suffix)), None)


def companions(name: str) -> list[str]:
    """Files that a model file of this name requires beside it."""
    stem, dot, suffix = name.rpartition(".")
    needed = _COMPANIONS.get(dot + suffix)
    return [] if needed is None else [stem + needed]


def is_part_of(model_name: str, name: str) -> bool:
    """Whether a file beside a model file belongs to it: ``m.bin``, ``m.onnx.data``, ... to ``m.xml`` or ``m.onnx``."""
    return name == MAPPING_FILE_NAME or name.startswith(model_name.rpartition(".")[0] + ".")


def models_among(names: Iterable[str]) -> list[str]:
    """The model files among the regular files of a directory, the preferred one first.

    A name that is hidden, or is not UTF-8 and so cannot be sent to a worker, is skipped.
    """
    there = {name for name in names if _is_usable(name)}
    found: list[str] = []
    for suffix in _SUFFIXES:
        found += sorted(
            (name for name in there if name.endswith(suffix) and there.issuperset(companions(name))),
            key=lambda name: (name != _PREFERRED, name),
        )
    if SAVED_MODEL in there:
        # The other .pb files beside it are its parts, or what it was made from.
        found = [name for name in found if not name.endswith(".pb") or name == SAVED_MODEL]
    found = [name for name in found if name not in _PARTS_OF_SAVED_MODEL]
    return [name for name in found if name not in _TOKENIZERS] or found


def may_be_of_model(name: str) -> bool:
    """Whether a file of this name may be a model or a part that it needs, so that it must not be overlooked."""
    return name.endswith((*_SUFFIXES, *_COMPANIONS.values()))


def unfinished_text(files: Collection[str]) -> str:
    """Why a version directory with these files, by relative name, but no model, is no version (yet)."""
    names = sorted(shown(file) for file in files if "/" not in file)
    if found := _model_below(files):
        directory, model = found
        return f"holds no model itself, but {directory}/{model}; move what is in {directory}/ one level up"
    if unusable := [name for name in names if "\\x" in name]:
        return f"holds no model whose name is UTF-8, only {unusable[0]}; rename it"
    if not names:
        return "holds no model: there is no file in it (yet)"
    for suffix, needed in _COMPANIONS.items():
        for name in names:
            for have, missing in ((suffix, needed), (needed, suffix)):
                if name.endswith(have) and name.removesuffix(have) + missing not in names:
                    return f"holds no model: {name} is without {name.removesuffix(have)}{missing} (yet)"
    return f"holds no model: expected is {FORMATS_TEXT}"


def _model_below(files: Iterable[str]) -> tuple[str, str] | None:
    """A model in a directory directly below: (directory, model)."""
    below: dict[str, list[str]] = {}
    for file in sorted(files):
        directory, _, name = file.partition("/")
        if name and "/" not in name:
            below.setdefault(directory, []).append(name)
    for directory, inside in below.items():
        if models := models_among(inside):
            return shown(directory), models[0]
    return None


def shown(name: str) -> str:
    r"""A file name as text that can be logged and sent; bytes that are not UTF-8 as ``\xff``."""
    return os.fsencode(name).decode("utf-8", "backslashreplace")


def _is_usable(name: str) -> bool:
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return not name.startswith(".")
