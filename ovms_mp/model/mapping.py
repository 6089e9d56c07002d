# SPDX-License-Identifier: Apache-2.0
"""``mapping_config.json`` of a version: the names that clients use for a model's tensors.

``{"inputs": {"tensor": "alias"}, "outputs": {"tensor": "alias"}}``, both optional. A tensor that is not mentioned
keeps its name, an entry that names no tensor of the model has no effect, and the original name of a mapped tensor is no
longer accepted, as in OVMS. Pure: the caller reads the file.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import TYPE_CHECKING

from ovms_mp.errors import ModelLoadFailed
from ovms_mp.model.json_keys import repeated_keys

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

MAPPING_FILE_NAME = "mapping_config.json"
MAPPING_FILE_LIMIT_BYTES = 1 << 20
"""Thousands of tensors; what is longer is something else."""


def _nothing() -> Mapping[str, str]:
    return MappingProxyType({})


@dataclass(frozen=True, slots=True)
class NameMapping:
    """Aliases by tensor name, of inputs and of outputs; without arguments every tensor keeps its name."""

    inputs: Mapping[str, str] = field(default_factory=_nothing)
    outputs: Mapping[str, str] = field(default_factory=_nothing)


def client_names(aliases: Mapping[str, str], tensors: Iterable[str]) -> dict[str, str]:
    """The name that clients use for each of these tensors, by the tensor's own name.

    Raises:
        ModelLoadFailed: Two tensors would have one name.
    """
    names = {tensor: aliases.get(tensor, tensor) for tensor in tensors}
    owners: dict[str, str] = {}
    for tensor, name in names.items():
        if name in owners:
            raise ModelLoadFailed(
                f"{MAPPING_FILE_NAME}: tensors {owners[name]!r} and {tensor!r} would both be called {name!r}; "
                "give each a name of its own"
            )
        owners[name] = tensor
    return names


def parse_mapping(text: bytes) -> NameMapping:
    """Read the content of a ``mapping_config.json``.

    Upstream logs what is wrong with it and serves the model with its original names; that is the caller's to do.

    Raises:
        ModelLoadFailed: It is no such document; names the place, what is there and what is expected.
    """
    if len(text) > MAPPING_FILE_LIMIT_BYTES:
        raise ModelLoadFailed(
            f"{MAPPING_FILE_NAME} has {len(text)} bytes; at most {MAPPING_FILE_LIMIT_BYTES} are read"
        )
    try:
        document = json.loads(text, object_pairs_hook=_unique)
    except RecursionError:
        raise ModelLoadFailed(f"{MAPPING_FILE_NAME} is not valid JSON: nested too deeply") from None
    except ValueError as error:  # JSONDecodeError, UnicodeDecodeError and ours about repeated keys
        raise ModelLoadFailed(f"{MAPPING_FILE_NAME} is not valid JSON: {error}") from None
    if not isinstance(document, dict):
        raise _unexpected("$", document, 'an object like {"inputs": {"tensor": "alias"}}')
    unknown = sorted(set(document) - {"inputs", "outputs"})
    if unknown:
        raise ModelLoadFailed(
            f'{MAPPING_FILE_NAME}: unknown key {unknown[0]!r}; allowed are "inputs" and "outputs"'
        )
    return NameMapping(_aliases(document, "inputs"), _aliases(document, "outputs"))


def _aliases(document: dict[str, object], section: str) -> Mapping[str, str]:
    found = document.get(section, {})
    if not isinstance(found, dict):
        raise _unexpected(section, found, "an object of aliases by tensor name")
    aliases: dict[str, str] = {}
    for tensor, alias in found.items():
        if not isinstance(alias, str) or not alias:
            raise _unexpected(f"{section}[{json.dumps(tensor)}]", alias, "a name")
        if alias in aliases.values():
            raise ModelLoadFailed(
                f"{MAPPING_FILE_NAME}: {section} gives the name {alias!r} to two tensors; give each a name of its own"
            )
        aliases[tensor] = alias
    return MappingProxyType(aliases)


def _unique(pairs: list[tuple[str, object]]) -> dict[str, object]:
    """An object; a repeated key is an error, as one of its values would be lost."""
    if repeated := repeated_keys(pairs):
        raise ValueError(f"the key {repeated[0]!r} is repeated in one object")
    return dict(pairs)


def _unexpected(place: str, found: object, expected: str) -> ModelLoadFailed:
    shown = json.dumps(found)
    shown = shown if len(shown) <= 80 else shown[:77] + "..."
    return ModelLoadFailed(f"{MAPPING_FILE_NAME}: {place} is {shown}; expected is {expected}")
