# SPDX-License-Identifier: Apache-2.0
"""The front's picture of models, versions and where they are served: replaced by every snapshot, never merged."""

from __future__ import annotations

import difflib
import itertools
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ovms_mp.defects import report
from ovms_mp.errors import (
    INTERNAL_ERROR_TEXT,
    Code,
    ModelNotFound,
    ModelNotReady,
    OvmsError,
    VersionNotFound,
    shortened,
)
from ovms_mp.front.budget import body_bound
from ovms_mp.front.rt_info import parse_labels, parse_rt_info
from ovms_mp.model.dtypes import DType
from ovms_mp.model.status import State, VersionStatus
from ovms_mp.model.tensors import TensorSpec
from ovms_mp.wire.allocator import aligned
from ovms_mp.wire.messages import RoutingSnapshot
from ovms_mp.wire.version_counters import UNCOUNTED, VersionCounters

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable

    from ovms_mp.front.rt_info import RtInfo
    from ovms_mp.wire.records import TensorSpecRecord, VersionRecord


_MOST_NAMES, _LONGEST_NAME, _MOST_COMPARED = 10, 64, 200
"""Of models, in the answer to who asks for one that is not there."""

NO_SNAPSHOT = RoutingSnapshot(
    0, False, (), (), (), unready="the manager process has not said what is served yet"
)
"""What a front begins with."""


@dataclass(frozen=True, slots=True)
class VersionRoute:
    """A version and the way to it.

    Attributes:
        endpoints: Where its workers take tasks; empty while none can.
        handle: Its address at each of them.
        nireq: Number of its infer requests at each of them.
        detail: The plan it runs by, for people.
        static_output_nbytes: Size of the region for all outputs, or None when a shape is dynamic.
        body_bound_bytes: The longest body that a request can need; None where an input has no largest size.
        counters: Where this front counts its requests.
        rt_info_text: What its file says of the model, as JSON; see :attr:`rt_info`.
        text_matrices: Names of outputs that are answered as strings, though the model has matrices.
    """

    model_name: str
    status: VersionStatus
    endpoints: tuple[str, ...]
    handle: int
    nireq: int
    detail: str
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    static_output_nbytes: int | None
    body_bound_bytes: int | None = None
    counters: VersionCounters = UNCOUNTED
    rt_info_text: str = ""
    text_matrices: frozenset[str] = frozenset()

    @property
    def version(self) -> int:
        """The version's number."""
        return self.status.version

    @property
    def rt_info(self) -> RtInfo:
        """What its file says of the model, e.g. ``{"model_info": {...}}``; empty where it says nothing."""
        return parse_rt_info(self.rt_info_text)

    @property
    def labels(self) -> tuple[str, ...]:
        """Names of the classes that it tells apart, by index; empty where its file does not say them."""
        return parse_labels(self.rt_info_text)

    @property
    def title(self) -> str:
        """For messages to clients."""
        return f"model {self.model_name!r} version {self.version}"

    @property
    def may_come(self) -> bool:
        """Whether waiting a moment makes sense: it is being loaded, or its worker is being replaced."""
        return self.status.state in (State.START, State.LOADING) and not self.status.error_code

    def unavailable(self) -> OvmsError:
        """Why no task can be sent."""
        reason = self.status.error_message or f"state {self.status.state.name}"
        return ModelNotReady(
            f"version {self.version} of model {self.model_name!r} is not available: {reason}"
        )


@dataclass(frozen=True, slots=True)
class ModelRoute:
    """A model with all the versions that were ever seen.

    Attributes:
        is_unloaded: A client had it unloaded.
        counters: Where this front counts calls that are about no version.
    """

    name: str
    default_version: int
    versions: dict[int, VersionRoute]
    is_unloaded: bool = False
    counters: VersionCounters = UNCOUNTED


class RoutingTable:
    """One snapshot, indexed."""

    def __init__(
        self, snapshot: RoutingSnapshot, counters_of: Callable[[int], VersionCounters] = lambda _: UNCOUNTED
    ) -> None:
        """Index a snapshot.

        Args:
            snapshot: The newest one.
            counters_of: This front's counters by the page that the snapshot names.
        """
        self.epoch = snapshot.epoch
        self.is_draining = snapshot.is_draining
        self.unready = snapshot.unready
        self.snapshot = snapshot
        self.deaths = snapshot.deaths
        self.convictions = snapshot.convictions
        self.endpoints = frozenset(worker.endpoint for worker in snapshot.workers)
        """Of all living workers; a version is served at some of them."""
        self._models = {
            model.name: ModelRoute(
                model.name,
                model.default_version,
                {
                    record.version: _route_or_failure(model.name, record, counters_of)
                    for record in model.versions
                },
                model.is_unloaded,
                counters_of(model.counters),
            )
            for model in snapshot.models
        }

    def counter_pages(self) -> set[int]:
        """Where this front may count."""
        models = self.snapshot.models
        return {model.counters for model in models} | {
            record.counters for model in models for record in model.versions
        }

    def models(self) -> Iterable[ModelRoute]:
        """All models, in the snapshot's order."""
        return self._models.values()

    def model(self, name: str) -> ModelRoute:
        """A model by its name.

        Raises:
            ModelNotFound: No such model.
        """
        model = self._models.get(name)
        if model is None:
            raise self._not_found(name, 0)
        return model

    def _not_found(self, name: str, version: int) -> ModelNotFound:
        return ModelNotFound(
            f"{not_found_text(name, version)}; no model has this name; {_there_are(self._models, name)}"
        )

    def find(self, name: str, version: int) -> VersionRoute:
        """The version that a request means; 0 is the default version. It may not be routable.

        Raises:
            ModelNotFound: No such model.
            VersionNotFound: No such version, or it is on its way out, or nothing to default to.
        """
        model = self._models.get(name)
        if model is None:
            raise self._not_found(name, version)
        route = model.versions.get(version or model.default_version)
        if route is None or route.status.state in (State.UNLOADING, State.END):
            served = [
                entry.version for entry in model.versions.values() if entry.status.state is State.AVAILABLE
            ]
            why = "; it was unloaded by a client" if model.is_unloaded else ""
            raise VersionNotFound(not_found_text(name, version) + f"; available versions: {served}{why}")
        return route


def not_found_text(name: str, version: int) -> str:
    """The legacy server's words, which clients match."""
    return f"Servable not found for request: Specific({name}, {version})"


def _there_are(models: Collection[str], name: str) -> str:
    """The names of the models, the nearest to a wrong one first, for a message. PERF: 2 ms at most."""
    if not models:
        return "there are no models"
    sought = name[:_LONGEST_NAME].casefold()
    # Of thousands those with the same beginning are compared first, and not all.
    similar = sorted(models, key=lambda model: model[:1].casefold() != sought[:1])
    candidates = {model[:_LONGEST_NAME].casefold(): model for model in reversed(similar[:_MOST_COMPARED])}
    nearest = [candidates[match] for match in difflib.get_close_matches(sought, candidates, _MOST_NAMES)]
    others = (model for model in models if model not in nearest)
    shown = [*nearest, *itertools.islice(others, _MOST_NAMES - len(nearest))]
    names = ", ".join(repr(shortened(model, _LONGEST_NAME)) for model in shown)
    return f"models: {names}" + (f" and {len(models) - len(shown)} more" if len(models) > len(shown) else "")


def _route_or_failure(
    model_name: str, record: VersionRecord, counters_of: Callable[[int], VersionCounters]
) -> VersionRoute:
    """The version's route; one that cannot be made is a version that has failed, and no other one is."""
    try:
        return _version_route(model_name, record, counters_of(record.counters))
    except Exception as error:
        report("front.route", error, f"model {model_name} version {record.version}")
        status = VersionStatus(record.version, State.LOADING, Code.INTERNAL.number, INTERNAL_ERROR_TEXT)
        return VersionRoute(model_name, status, (), 0, 0, "", (), (), None)


def _version_route(model_name: str, record: VersionRecord, counters: VersionCounters) -> VersionRoute:
    outputs = tuple(_spec(entry) for entry in record.outputs)
    nbytes = 0
    static: int | None = 0
    for spec in outputs:
        if spec.static_nbytes is None:
            static = None
            break
        nbytes += aligned(spec.static_nbytes)
    inputs = tuple(_spec(entry) for entry in record.inputs)
    return VersionRoute(
        model_name=model_name,
        status=VersionStatus(record.version, State(record.state), record.error_code, record.error_message),
        endpoints=record.endpoints,
        handle=record.handle,
        nireq=record.nireq,
        detail=record.detail,
        inputs=inputs,
        outputs=outputs,
        static_output_nbytes=None if static is None else nbytes,
        body_bound_bytes=body_bound(inputs),
        counters=counters,
        rt_info_text=record.rt_info,
        text_matrices=frozenset(spec.name for spec in outputs if spec.is_text_matrix),
    )


def _spec(record: TensorSpecRecord) -> TensorSpec:
    return TensorSpec.of(
        record.name,
        DType[record.dtype],
        record.bounds,
        record.exact,
        takes_images=record.takes_images,
        layout=record.layout,
        is_referable=record.is_referable,
    )
