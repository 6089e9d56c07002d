# SPDX-License-Identifier: Apache-2.0
"""Model formats by file name: what OpenVINO reads, in the order that upstream looks for them (behaviour.md 3.1).

OpenVINO reads an ``.xml`` without ``.bin`` (and a ``.pdmodel`` without ``.pdiparams``) if the model has no weights.
They are required nevertheless, as every generation of OVMS does: the writer of a model writes both, and one without
the other is a copy that is still going on.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

SAVED_MODEL = "saved_model.pb"
"""Makes the directory that holds it a model; OpenVINO is given the directory."""

_COMPANIONS = {".xml": ".bin", ".pdmodel": ".pdiparams"}
_SUFFIXES = (".xml", ".onnx", ".pdmodel", ".pb", ".tflite")
_PARTS_OF_SAVED_MODEL = frozenset({"fingerprint.pb", "keras_metadata.pb"})
"""Lie beside a ``saved_model.pb`` and may be copied before it; no models themselves."""

FORMATS_TEXT = (
    "NAME.xml with NAME.bin, NAME.onnx, NAME.pdmodel with NAME.pdiparams, saved_model.pb, *.pb or *.tflite"
)


def companions(name: str) -> list[str]:
    """Files that a model file of this name needs beside it."""
    stem, dot, suffix = name.rpartition(".")
    needed = _COMPANIONS.get(dot + suffix)
    return [] if needed is None else [stem + needed]


def models_among(names: Iterable[str]) -> list[str]:
    """The model files among the regular files of a directory, the one to take first.

    A name that is hidden, or no UTF-8 and so cannot be sent to a worker, is passed over.
    """
    there = {name for name in names if _is_usable(name)}
    found: list[str] = []
    for suffix in _SUFFIXES:
        found += sorted(
            name for name in there if name.endswith(suffix) and there.issuperset(companions(name))
        )
    if SAVED_MODEL in there:
        # The other .pb files beside it are its parts, or what it was made from.
        found = [name for name in found if not name.endswith(".pb") or name == SAVED_MODEL]
    return [name for name in found if name not in _PARTS_OF_SAVED_MODEL]


def unfinished_text(names: list[str]) -> str:
    """Why a version directory with these files, but no model, is no version (yet)."""
    if not names:
        return "holds no model: there is no file in it (yet)"
    for suffix, needed in _COMPANIONS.items():
        for name in names:
            for have, missing in ((suffix, needed), (needed, suffix)):
                if name.endswith(have) and name.removesuffix(have) + missing not in names:
                    return f"holds no model: {name} is without {name.removesuffix(have)}{missing} (yet)"
    return f"holds no model: expected is {FORMATS_TEXT}"


def _is_usable(name: str) -> bool:
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return not name.startswith(".")
