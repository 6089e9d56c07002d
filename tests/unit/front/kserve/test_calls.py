# SPDX-License-Identifier: Apache-2.0
"""What both forms of KServe's API ask the service."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

import pytest

from ovms_mp.errors import DtypeMismatch, MalformedPayload, ModelNotFound, VersionNotFound
from ovms_mp.front.kserve import calls
from ovms_mp.front.kserve.datatypes import datatype, dtype_named
from ovms_mp.front.readiness import Readiness
from ovms_mp.front.regions.table import Regions
from ovms_mp.front.routing import RoutingTable
from ovms_mp.model.dtypes import DType
from ovms_mp.model.status import State
from ovms_mp.wire.messages import RoutingSnapshot
from ovms_mp.wire.records import ModelRecord, TensorSpecRecord, VersionRecord
from tests.unit.front.workers import context

if TYPE_CHECKING:
    from ovms_mp.front.routing import VersionRoute
    from ovms_mp.front.service import Service


def version(number: int, state: State, endpoints: tuple[str, ...]) -> VersionRecord:
    specs = (TensorSpecRecord("x", "FP32", ((1, 4), (10, 10))),)
    return VersionRecord(number, state, 0, "", number, endpoints, 1, "", specs, specs)


class Known:
    """A service that knows one snapshot."""

    def __init__(self, *, is_draining: bool = False, unready: str = "") -> None:
        versions = (
            version(1, State.END, ()),
            version(2, State.AVAILABLE, ("ipc://@w",)),
            version(3, State.AVAILABLE, ("ipc://@w",)),
            version(4, State.AVAILABLE, ()),
            version(5, State.LOADING, ()),
        )
        models = (ModelRecord("m", 3, versions), ModelRecord("nothing yet", 0, ()))
        self.table = RoutingTable(RoutingSnapshot(1, is_draining, (), (), models, unready=unready))
        self.readiness = Readiness(self.table, 10.0, lambda: 0)

    def described(self, name: str, number: int) -> VersionRoute:
        return self.table.find(name, number)


def known(*, is_draining: bool = False, unready: str = "") -> Service:
    return cast("Service", Known(is_draining=is_draining, unready=unready))


@pytest.mark.parametrize(
    ("text", "number"), [("", 0), ("0", 0), ("3", 3), ("007", 7), ("9" * 18, 10**18 - 1)]
)
def test_a_version_is_a_number_in_text(text: str, number: int) -> None:
    assert calls.version_number(text) == number


@pytest.mark.parametrize("text", ["-1", "1.0", "latest", " 1", "1\n", "\u0663", "9" * 5000])
def test_another_text_is_no_version(text: str) -> None:
    with pytest.raises(MalformedPayload, match=r"^invalid model version format in request: ") as raised:
        calls.version_number(text)

    assert len(raised.value.message) < 300


def test_the_server_is_ready_once_it_knows_its_models_until_it_stops() -> None:
    assert calls.server_is_live(known(unready="models are being loaded"))
    assert not calls.server_is_ready(known(unready="models are being loaded"))
    assert calls.server_is_ready(known())
    assert not calls.server_is_ready(known(is_draining=True))


@pytest.mark.parametrize(
    ("text", "is_ready"), [("", True), ("1", False), ("2", True), ("3", True), ("4", False), ("5", False)]
)
def test_a_version_is_ready_when_a_worker_serves_it(text: str, is_ready: bool) -> None:
    assert calls.model_is_ready(known(), context(), "m", text) is is_ready


def test_a_model_without_versions_is_known_and_not_ready() -> None:
    assert not calls.model_is_ready(known(), context(), "nothing yet", "")


def test_what_there_is_not_is_told() -> None:
    with pytest.raises(VersionNotFound, match=r"Specific\(m, 6\); known versions: \[1, 2, 3, 4, 5\]"):
        calls.model_is_ready(known(), context(), "m", "6")
    with pytest.raises(ModelNotFound, match=r"no model has this name$"):
        calls.model_is_ready(known(), context(), "n", "")


@pytest.mark.parametrize(("text", "number"), [("", 3), ("2", 2)])
def test_a_description_has_the_versions_that_are_served(text: str, number: int) -> None:
    description = calls.described(known(), context(), "m", text)

    assert (description.versions, description.route.version) == ([2, 3, 4], number)


def test_every_type_has_a_name() -> None:
    assert all(dtype_named(datatype(dtype), "x") is dtype for dtype in DType)


def test_an_unknown_type_is_named_beside_the_known_ones() -> None:
    with pytest.raises(
        DtypeMismatch,
        match=r"Invalid input precision - input 'x': unknown datatype 'fp32'; known: BOOL, UINT8, .*FP32",
    ):
        dtype_named("fp32", "x")


@pytest.mark.parametrize("is_allowed", [True, False])
def test_shared_memory_is_an_extension_where_it_is_allowed(is_allowed: bool) -> None:
    service = known()
    service.regions = Regions(is_allowed=is_allowed)
    assert calls.extensions(service).count("system_shared_memory") == is_allowed
