# SPDX-License-Identifier: Apache-2.0
"""``--input [NAME=]VALUE``: whose value it is, and what a JSON document or a file gives an input."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from ovms_mp.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ovms_mp.model.dtypes import AnyArray

MOST_FILE_BYTES = 2 << 30
_NPY = b"\x93NUMPY"
_SHOWN = 60


def split_input(text: str, names: Sequence[str]) -> tuple[str, str]:
    """The name of the input, which may be left out where there is only one, and its value.

    Raises:
        ConfigError: It is left out where there are several, or is none of the model's.
    """
    name, equals, value = text.partition("=")
    if not equals or name.startswith(("@", "[", "{", '"')):
        if len(names) != 1:
            raise ConfigError(
                f"--input {text[:_SHOWN]}: give its name, as in NAME=VALUE; the model has {', '.join(names)}"
            )
        return names[0], text
    if name not in names:
        raise ConfigError(f"--input {name}: the model has no such input; it has {', '.join(names)}")
    return name, value


def is_npy(content: bytes) -> bool:
    """Whether a file's content is an array of NumPy."""
    return content.startswith(_NPY)


class Values(NamedTuple):
    """Values of JSON, with the shape that the document says where they are not nested."""

    values: object
    shape: tuple[int, ...] | None = None

    def reshaped(self, array: AnyArray) -> AnyArray:
        """The array of the values, in the shape that the document says.

        Raises:
            ValueError: They are not as many.
        """
        return array if self.shape is None else array.reshape(self.shape)


def values_of(document: object, name: str) -> Values:
    """What a document gives an input: the document itself, or what the body of a request of either API has for it."""
    if not isinstance(document, dict):
        return Values(document)
    rows = document.get("instances")
    if isinstance(rows, list):
        if rows and all(isinstance(row, dict) and name in row for row in rows):
            return Values([row[name] for row in rows])
        return Values(rows)
    inputs = document.get("inputs")
    if isinstance(inputs, dict):
        return Values(inputs.get(name, document))
    if not isinstance(inputs, list):
        return Values(document)
    if not any(isinstance(entry, dict) for entry in inputs):
        return Values(inputs)
    for entry in inputs:
        if isinstance(entry, dict) and entry.get("name") == name and "data" in entry:
            return Values(entry["data"], _shape(entry.get("shape")))
    return Values(document)


def _shape(shape: object) -> tuple[int, ...] | None:
    if isinstance(shape, list) and all(type(size) is int and size >= 0 for size in shape):
        return tuple(shape)
    return None


def one_string(content: bytes) -> AnyArray:
    """A file's content as the only element of a tensor of strings, as encoded images are sent."""
    array = np.empty(1, np.object_)
    array[0] = content
    return array
