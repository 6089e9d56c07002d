# SPDX-License-Identifier: Apache-2.0
"""Inputs and their values put together: what belongs to which, and what is refused.

Values come raw, one entry for each input that is not in shared memory, or in ``contents``, never in both. Words before
a hyphen are those of the OVMS, which clients know.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from ovms_mp.errors import InputNameMismatch, MalformedPayload, shortened
from ovms_mp.front.kserve.protobuf.contents import FIELD_OF
from ovms_mp.front.kserve.regions.parameters import region_input
from ovms_mp.front.protobuf.records import BYTES
from ovms_mp.front.strings import Strings, read_length_prefixed
from ovms_mp.front.tensors import NumberTensor, PlacedTensor, RawTensor, bytes_tensor
from ovms_mp.model.dtypes import DType, element_count

if TYPE_CHECKING:
    from collections.abc import Generator, Sequence

    from ovms_mp.front.infer.leases import Lease
    from ovms_mp.front.kserve.infer_request import InputHead
    from ovms_mp.front.kserve.protobuf.contents import Contents
    from ovms_mp.front.tensors import GivenTensor

_BOTH = (
    "Passing buffers both in ModelInferRequest::InferInputTensor::contents and in "
    "ModelInferRequest::raw_input_contents is not allowed"
)
_LONGEST_SHOWN = 256


class Raw(NamedTuple):
    """An entry of ``raw_input_contents``.

    Attributes:
        octets: Format ``B``.
        lease: Of exactly these octets, if they are in the arena.
    """

    octets: memoryview
    lease: Lease | None = None


def tensors_of(
    heads: Sequence[InputHead], raws: Sequence[Raw], contents: Sequence[Contents]
) -> Generator[None, None, dict[str, GivenTensor]]:
    """Inputs by name; those in shared memory without their values. Yields now and then.

    Args:
        heads: All inputs, as sent.
        raws: The entries of ``raw_input_contents``.
        contents: For each input.

    Raises:
        InputNameMismatch: An input is there twice.
        MalformedPayload: Values are missing, too many, in two places or not what they should be.
    """
    _refuse_twice(heads)
    if raws:
        for head, values in zip(heads, contents, strict=True):
            if values.counts:
                raise MalformedPayload(
                    f"{_BOTH} - Passing buffers both in InferInputTensor contents and in raw_input_contents is not "
                    f"allowed. Detected buffer in InferInputTensor contents for input: {_shown(head)}"
                )
        own = sum(not head.is_in_region for head in heads)
        if len(raws) != own:
            raise MalformedPayload(
                f"{_BOTH} - Size of raw_input_contents: {len(raws)} is different than number of inputs: {own}"
                + (f" ({len(heads) - own} more are in shared memory)" if own != len(heads) else "")
            )
    inputs: dict[str, GivenTensor] = {}
    unused = iter(raws)
    for head, values in zip(heads, contents, strict=True):
        region = region_input(head.name, head.dtype, head.shape, head.parameters)
        if region is not None:
            if values.counts:
                raise MalformedPayload(f"input {_shown(head)!r} is in shared memory and has contents as well")
            inputs[head.name] = region
        elif raws:
            inputs[head.name] = yield from raw_tensor(head, next(unused))
        else:
            inputs[head.name] = yield from _content_tensor(head, values)
    return inputs


def raw_tensor(head: InputHead, raw: Raw) -> Generator[None, None, GivenTensor]:
    """An input with its entry of ``raw_input_contents``.

    Raises:
        MalformedPayload: The entry is not its elements.
    """
    if head.dtype is DType.BYTES:
        what = f"Invalid input buffer - input name: {_shown(head)}"
        count = element_count(head.shape)
        return bytes_tensor(head.shape, (yield from read_length_prefixed(raw.octets, count, what)))
    if len(raw.octets) != head.nbytes:
        raise MalformedPayload(
            f"Invalid content size of tensor proto - Expected: {head.nbytes} bytes; Actual: {len(raw.octets)} bytes; "
            f"input name: {_shown(head)} (shape {list(head.shape)} of {head.dtype.name})"
        )
    if raw.lease is not None:
        return PlacedTensor(head.dtype, head.shape, raw.octets, raw.lease)
    return RawTensor(head.dtype, head.shape, raw.octets)


def _content_tensor(head: InputHead, values: Contents) -> Generator[None, None, GivenTensor]:
    """An input with its values in ``contents``."""
    dtype, shape, count = head.dtype, head.shape, element_count(head.shape)
    field = FIELD_OF.get(dtype)
    found = 0 if field is None else values.counts.get(field.name, 0)
    if found != count:
        raise MalformedPayload(
            f"Invalid number of values in tensor proto container - Expected: {count} values; Actual: {found} values; "
            f"input name: {_shown(head)}{_where(head, values)}"
        )
    if field is None or not found:
        return bytes_tensor(shape, Strings.of(())) if dtype is DType.BYTES else _no_elements(head)
    if field.kind == BYTES:
        return bytes_tensor(shape, values.strings(field.name))
    return NumberTensor(dtype, shape, (yield from values.numbers(field, dtype.numpy, head.name)))


def _no_elements(head: InputHead) -> GivenTensor:
    return RawTensor(head.dtype, head.shape, memoryview(b""))


def _where(head: InputHead, values: Contents) -> str:
    """What to do about values that are missing, if it is known."""
    field = FIELD_OF.get(head.dtype)
    if field is None:
        return f"; {head.dtype.name} has no field in contents, send it in raw_input_contents"
    strangers = sorted(values.counts.keys() - {field.name})
    if strangers:
        return f"; values of {head.dtype.name} belong in {field.name}, not in {', '.join(strangers)}"
    return ""


def _refuse_twice(heads: Sequence[InputHead]) -> None:
    names: set[str] = set()
    for head in heads:
        if head.name in names:
            raise InputNameMismatch(f"input {_shown(head)!r} is there twice")
        names.add(head.name)


def _shown(head: InputHead) -> str:
    return shortened(head.name, _LONGEST_SHOWN)
