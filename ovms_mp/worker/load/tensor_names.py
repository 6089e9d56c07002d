# SPDX-License-Identifier: Apache-2.0
"""The names of a model's tensors: the model's own, and those that clients use (``mapping_config.json``)."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ovms_mp.errors import ModelLoadFailed
from ovms_mp.files import read_regular
from ovms_mp.model.mapping import (
    MAPPING_FILE_LIMIT_BYTES,
    MAPPING_FILE_NAME,
    NameMapping,
    client_names,
    parse_mapping,
)

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import openvino as ov


@dataclass(frozen=True, slots=True)
class TensorNames:
    """Names of a model's inputs or outputs, in the model's order.

    Attributes:
        what: "input" or "output", for messages.
        clients: What clients call them.
        originals: All that the model itself calls each of them.
    """

    what: str
    clients: tuple[str, ...]
    originals: tuple[frozenset[str], ...]

    def find(self, name: str) -> int | None:
        """The tensor that clients call so."""
        return self.clients.index(name) if name in self.clients else None

    def places(self, setting: str, name: str) -> tuple[int, ...]:
        """The inputs that a setting of this name is for; the empty name means the only one.

        Raises:
            ModelLoadFailed: There is none, there are several, or the name is not the one that clients use.
        """
        if not name:
            if len(self.clients) > 1:
                raise ModelLoadFailed(
                    f"Anonymous fixed {setting} is invalid for models with multiple inputs: name them, e.g. "
                    f'"{setting}": {{"{self.clients[0]}": ...}}; {self.text()}'
                )
            return (0,)
        place = self.find(name)
        if place is None:
            raise self.unknown(setting, name)
        return (place,)

    def unknown(self, setting: str, name: str) -> ModelLoadFailed:
        """What to say of a name in a setting that clients do not use."""
        for client, originals in zip(self.clients, self.originals, strict=True):
            if name in originals:
                return ModelLoadFailed(
                    f"{setting.capitalize()} from config has real name. Use mapped name instead: {name!r} is called "
                    f"{client!r} in {MAPPING_FILE_NAME}"
                )
        return ModelLoadFailed(
            f"{setting.capitalize()} from config not found in model: {name!r}; {self.text()}"
        )

    def text(self) -> str:
        """All names, for messages."""
        return f"its {self.what}s are {', '.join(map(repr, self.clients))}"


def read_mapping(model_file: str) -> tuple[NameMapping, tuple[str, ...]]:
    """The aliases beside a model file (or in a SavedModel's directory); names stay as they are where those are invalid.

    Returns:
        The aliases, and notices for the log.
    """
    path = Path(model_file)
    path = (path if path.is_dir() else path.parent) / MAPPING_FILE_NAME
    try:
        return parse_mapping(read_regular(path, MAPPING_FILE_LIMIT_BYTES)), ()
    except FileNotFoundError:
        return NameMapping(), ()
    except (OSError, ModelLoadFailed) as error:
        return NameMapping(), (f"{path}: {error}; tensors keep their original names",)


def tensor_names(
    ports: Sequence[ov.Output], aliases: Mapping[str, str], what: str
) -> tuple[TensorNames, tuple[str, ...]]:
    """The names of a model's inputs or outputs: each its own, also where the model gives two of them the same.

    Returns:
        The names, and notices for the log.

    Raises:
        ModelLoadFailed: An alias is the name of another tensor.
    """
    originals = tuple(frozenset(port.get_names()) or frozenset({port.node.friendly_name}) for port in ports)
    # Of several names upstream shows the one that OpenVINO gives first.
    firsts = [port.any_name if port.get_names() else port.node.friendly_name for port in ports]
    uniques = unique_names(firsts, originals)
    by_unique: dict[str, str] = {}
    for unique, names in zip(uniques, originals, strict=True):
        for name in (*sorted(names), unique):
            # Of several tensors with the name that an alias is for, the first one has it.
            if name in aliases and aliases[name] not in by_unique.values():
                by_unique[unique] = aliases[name]
    clients = client_names(by_unique, uniques)
    known = frozenset(uniques).union(*originals)
    notices = [
        f"{MAPPING_FILE_NAME}: {what}s[{name!r}] names no {what} of the model and does nothing"
        for name in aliases
        if name not in known
    ]
    notices += [
        f"{what} {place} has the name {first!r} as another one has; clients call it {clients[unique]!r}"
        for place, (first, unique) in enumerate(zip(firsts, uniques, strict=True))
        if first != unique
    ]
    return TensorNames(what, tuple(clients[unique] for unique in uniques), originals), tuple(notices)


def unique_names(firsts: Sequence[str], others: Sequence[frozenset[str]]) -> list[str]:
    """A name for each tensor, the same ones in every process.

    The first tensor of a name keeps it. A later one gets another of its own names that no tensor has, or else the name
    with the first free number: ``y``, ``y_1``, ``y_2``.

    Args:
        firsts: Each tensor's name, of which some may be equal: two results of one operation have its name, and nothing
            keeps a model from giving one name twice.
        others: All names of each.
    """
    taken = set(firsts)
    found: list[str] = []
    for first, names in zip(firsts, others, strict=True):
        name = first
        if first in found:
            numbered = (f"{first}_{number}" for number in itertools.count(1))
            name = next(entry for entry in itertools.chain(sorted(names), numbered) if entry not in taken)
            taken.add(name)
        found.append(name)
    return found
