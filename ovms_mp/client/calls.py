# SPDX-License-Identifier: Apache-2.0
"""What a client can ask of a server, whichever API and transport carry it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol, TypeAlias

if TYPE_CHECKING:
    from ovms_mp.client.datatypes import AnyArray
    from ovms_mp.client.exchange import Operation
    from ovms_mp.client.places import Place

Parameter: TypeAlias = bool | int | float | str
Outputs: TypeAlias = "dict[str, AnyArray]"
CLASSES = "classification"
"""Triton's word, a parameter of outputs."""


@dataclass(frozen=True, slots=True)
class TensorMetadata:
    """An input or output of a model.

    Attributes:
        datatype: KServe's name of its elements, e.g. ``FP32``.
        shape: -1 for a dimension that may vary.
    """

    name: str
    datatype: str
    shape: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class ModelMetadata:
    """A version of a model.

    Attributes:
        versions: All that are served; with TensorFlow Serving's API the one that answered.
        platform: What runs it; empty with TensorFlow Serving's API.
    """

    name: str
    versions: tuple[str, ...]
    platform: str
    inputs: tuple[TensorMetadata, ...]
    outputs: tuple[TensorMetadata, ...]


@dataclass(frozen=True, slots=True)
class ModelState:
    """A version that the server knows.

    Attributes:
        version: Empty where a model has none.
        is_ready: Whether it answers.
        state: The server's word, e.g. ``READY`` or ``AVAILABLE``; ``FAILED`` where that is ``LOADING``, and has failed.
        reason: Why it does not answer; empty where the server does not say.
    """

    name: str
    version: str
    is_ready: bool
    state: str
    reason: str


@dataclass(slots=True)
class Predict:
    """A predict request.

    Attributes:
        version: 0 for the server's choice.
        inputs: As :func:`~ovms_mp.client.datatypes.as_array` gives them.
        outputs: Names of those that are wanted; empty for all.
        parameters: Of the request, as KServe has them.
        classes: How many classes of each row are wanted in place of an output, by name.
        input_places: Where inputs lie in memory that is shared with the server, by name.
        output_places: The same of outputs.
        timeout_us: How long the client waits, where the transport does not say it; 0 if it is not to be said.
    """

    model: str
    version: int
    inputs: Mapping[str, AnyArray]
    outputs: tuple[str, ...] = ()
    request_id: str = ""
    parameters: Mapping[str, Parameter] = field(default_factory=dict)
    classes: Mapping[str, int] = field(default_factory=dict)
    input_places: Mapping[str, Place] = field(default_factory=dict)
    output_places: Mapping[str, Place] = field(default_factory=dict)
    timeout_us: int = 0

    def output_parameters(self, name: str) -> dict[str, int | str]:
        """What is said of an output besides its name; as KServe has it."""
        found = {} if (place := self.output_places.get(name)) is None else place.parameters
        return {**found, CLASSES: self.classes[name]} if name in self.classes else found


class Dialect(Protocol):
    """An API over a transport: calls as requests, and answers as what they say."""

    def common_headers(self) -> tuple[tuple[str, str], ...]:
        """Headers of every request."""

    def deadline_headers(self, timeout_s: float) -> tuple[tuple[str, str], ...]:
        """Headers that tell the server how long the client will wait."""

    def predict(self, call: Predict) -> Operation[Outputs]:
        """Outputs by name; those with a place of their own are there."""

    def metadata(self, model: str, version: int) -> Operation[ModelMetadata]:
        """Inputs and outputs of a version."""

    def models(self) -> Operation[list[ModelState]]:
        """All versions of all models."""

    def model_ready(self, model: str, version: int) -> Operation[bool]:
        """Whether a model answers."""

    def ready(self) -> Operation[bool]:
        """Whether the server takes requests."""

    def live(self) -> Operation[bool]:
        """Whether the server runs."""
