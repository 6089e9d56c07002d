# SPDX-License-Identifier: Apache-2.0
"""The tensors of the one request that a load repeats: made up from the model's inputs, or given."""

from __future__ import annotations

import io
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec
import numpy as np

from ovms_mp.bench.given import MOST_FILE_BYTES, is_npy, one_string, split_input, values_of
from ovms_mp.errors import ConfigError
from ovms_mp.files import read_regular, refusal
from ovms_mp.model.dtypes import DType, Kind

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from ovms_mp.model.dtypes import AnyArray

_UNKNOWN_SIZE = 128
_UNKNOWN_IMAGE_SIZE = 224
_IMAGE_RANK = 4
_TEXT = b"a short text"
_MOST_BYTES = 1 << 30


@dataclass(frozen=True, slots=True)
class InputSpec:
    """An input as the server describes it; a dimension that may vary is -1."""

    name: str
    dtype: DType
    dims: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Tensor:
    """An input with its values."""

    name: str
    dtype: DType
    values: AnyArray

    def text(self) -> str:
        """For people."""
        return f"{self.name} {self.dtype.name} {list(self.values.shape)}"


def make_tensors(
    specs: Sequence[InputSpec],
    given: Sequence[str],
    shapes: Mapping[str, tuple[int, ...]],
    batch: int,
) -> tuple[tuple[Tensor, ...], tuple[str, ...]]:
    """The tensors of a request, and what their user should know of them.

    Args:
        specs: The model's inputs.
        given: ``--input``: ``[NAME=]VALUE``, whose values are as :func:`_read` takes them.
        shapes: ``--shape``: sizes by name.
        batch: Size of a first dimension that may vary.

    Raises:
        ConfigError: A name is none of the inputs, or values do not fit.
    """
    names = [spec.name for spec in specs]
    values: dict[str, str] = {}
    for text in given:
        name, value = split_input(text, names)
        if name in values:
            raise ConfigError(f"--input {name} is given twice; each input of the model is given once")
        values[name] = value
    for name in shapes:
        if name not in names:
            raise ConfigError(f"--shape {name}: the model has no such input; it has {', '.join(names)}")
        if name in values:
            raise ConfigError(f"--shape {name}: the values of --input have their own shape; give one of them")
    tensors, notes = [], []
    for spec in specs:
        if spec.name in values:
            tensors.append(_read(spec, values[spec.name]))
            continue
        shape = shapes.get(spec.name) or _shape(spec, batch)
        if spec.dtype.nbytes(shape) > _MOST_BYTES:
            raise ConfigError(
                f"{spec.name} would have {spec.dtype.nbytes(shape):,} bytes; at most {_MOST_BYTES:,}"
            )
        if -1 in spec.dims[1:] and spec.name not in shapes:
            notes.append(
                f"input {spec.name} has any size; {list(shape)} is sent, --shape {spec.name}="
                f"{','.join(map(str, shape))} gives another"
            )
        tensors.append(Tensor(spec.name, spec.dtype, _synthetic(spec.dtype, shape)))
    return tuple(tensors), tuple(notes)


def _shape(spec: InputSpec, batch: int) -> tuple[int, ...]:
    unknown = _UNKNOWN_IMAGE_SIZE if len(spec.dims) == _IMAGE_RANK else _UNKNOWN_SIZE
    first, *others = spec.dims or (None,)
    if first is None:
        return ()
    return (batch if first < 0 else first, *(unknown if size < 0 else size for size in others))


def _synthetic(dtype: DType, shape: tuple[int, ...]) -> AnyArray:
    """Values that no model chokes on: 0 to 1, as pixels and embeddings have them, and token numbers 0 and 1."""
    random = np.random.default_rng(0)
    if dtype.kind is Kind.STRING:
        return np.full(shape, _TEXT, np.object_)
    if dtype.kind is Kind.FLOAT:
        return random.random(shape).astype(dtype.numpy)
    return random.integers(0, 2, shape).astype(dtype.numpy)


def _read(spec: InputSpec, text: str) -> Tensor:
    """Values from ``@FILE`` with an array of NumPy, JSON or an encoded image, or from JSON itself.

    Raises:
        ConfigError: Naming what is wrong.
    """
    source = f"--input {spec.name}={text if len(text) < 60 else text[:57] + '...'}"
    try:
        values = _from_file(spec, Path(text[1:])) if text.startswith("@") else _from_json(spec, text.encode())
    except OSError as error:
        raise ConfigError(f"{source}: {refusal(text[1:], error)}") from None
    except (ValueError, msgspec.MsgspecError, OverflowError) as error:
        raise ConfigError(
            f"{source}: {error}; accepted: @FILE.npy, @FILE.json, an encoded image as @FILE, or JSON such as [[1, 2]]"
        ) from None
    if values.dtype == np.object_ and values.size == 1 and isinstance(values.flat[0], bytes):
        return Tensor(spec.name, DType.BYTES, values)
    if spec.dtype.kind is Kind.STRING:
        encoded = [
            value if isinstance(value, bytes) else str(value).encode() for value in values.ravel().tolist()
        ]
        objects = np.empty(len(encoded), np.object_)
        objects[:] = encoded
        return Tensor(spec.name, spec.dtype, objects.reshape(values.shape))
    if values.dtype.kind not in "biuf" and values.dtype != spec.dtype.numpy:
        raise ConfigError(f"{source} has the dtype {values.dtype}; the input takes {spec.dtype.name}")
    converted = np.ascontiguousarray(values.astype(spec.dtype.numpy, copy=False))
    if spec.dtype.numpy.kind in "iu" and not np.array_equal(converted, values):
        raise ConfigError(f"{source}: a value is not of {spec.dtype.name}")
    return Tensor(spec.name, spec.dtype, converted)


def _from_file(spec: InputSpec, path: Path) -> AnyArray:
    content = read_regular(path, MOST_FILE_BYTES)
    if is_npy(content):
        return np.asarray(np.load(io.BytesIO(content), allow_pickle=False))
    if path.suffix == ".npz":
        raise ValueError("the file has several arrays")
    return _from_json(spec, content) if path.suffix == ".json" else one_string(content)


def _from_json(spec: InputSpec, text: bytes) -> AnyArray:
    found = values_of(msgspec.json.decode(text), spec.name)
    return found.reshaped(np.array(found.values, np.object_ if spec.dtype.kind is Kind.STRING else None))
