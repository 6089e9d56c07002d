# SPDX-License-Identifier: Apache-2.0
"""What a protocol's decoder makes of a predict request, and what it is asked by."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import NamedTuple, Protocol, TypeAlias

from ovms_mp.front.routing import VersionRoute
from ovms_mp.front.tensors import GivenTensor


class PredictRequest(Protocol):
    """The part of a decoded request that the service needs; a protocol's own record may have more."""

    @property
    def inputs(self) -> Mapping[str, GivenTensor]:
        """Inputs by name; borrowed until they are written."""

    @property
    def output_filter(self) -> Sequence[str]:
        """Names of the outputs to answer with; empty for all."""


class PlainRequest(NamedTuple):
    """A request that is nothing but its inputs."""

    inputs: Mapping[str, GivenTensor]
    output_filter: Sequence[str] = ()


Decode: TypeAlias = Callable[[VersionRoute], Awaitable[PredictRequest]]
"""Reads a request for the version that will answer it, and the body first where that is still to come. Asked again only
if the request goes to another version with other inputs."""
