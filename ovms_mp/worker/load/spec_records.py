# SPDX-License-Identifier: Apache-2.0
"""A version's inputs and outputs on their way to the manager, and from there in each snapshot to every front."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ovms_mp.errors import ModelLoadFailed
from ovms_mp.wire.codec import encode
from ovms_mp.wire.records import TensorSpecRecord

if TYPE_CHECKING:
    from ovms_mp.model.tensors import TensorSpec

MOST_BYTES = 1 << 20
"""Of one version. Real ones have some kilobytes; a snapshot has those of all versions, and must not pass 64 MiB."""


def spec_records(specs: tuple[TensorSpec, ...]) -> tuple[TensorSpecRecord, ...]:
    """The specs as messages carry them."""
    return tuple(
        TensorSpecRecord(
            spec.name,
            spec.dtype.name,
            spec.bounds,
            spec.exact,
            spec.takes_images,
            spec.layout,
            spec.is_referable,
        )
        for spec in specs
    )


def check_size(inputs: tuple[TensorSpec, ...], outputs: tuple[TensorSpec, ...]) -> None:
    """Refuse a version whose specs no snapshot should carry.

    Raises:
        ModelLoadFailed: Its names and shapes are too long.
    """
    specs = (*inputs, *outputs)
    try:
        nbytes = len(encode(spec_records(specs)))
    except (UnicodeEncodeError, OverflowError) as error:
        raise ModelLoadFailed(f"its tensors' names or shapes cannot be sent: {error}") from None
    if nbytes > MOST_BYTES:
        longest = max(specs, key=lambda spec: len(spec.name))
        raise ModelLoadFailed(
            f"the names and shapes of its {len(specs)} tensors take {nbytes} bytes, at most {MOST_BYTES} are accepted; "
            f"the longest name has {len(longest.name)} characters and begins with {longest.name[:60]!r}"
        )
