# SPDX-License-Identifier: Apache-2.0
"""The routing table: what a name and a version mean, and what is said when they mean nothing."""

from __future__ import annotations

import pytest
from msgspec import structs

from ovms_mp.errors import ModelNotFound, ModelNotReady, VersionNotFound
from ovms_mp.front.routing import RoutingTable, not_found_text
from ovms_mp.model.dtypes import DType
from ovms_mp.model.status import State, VersionStatus
from ovms_mp.wire.messages import RoutingSnapshot
from ovms_mp.wire.records import ModelRecord, TensorSpecRecord, VersionRecord, WorkerRecord

Y = TensorSpecRecord("y", "FP32", ((1, 1), (10, 10)))
Z = TensorSpecRecord("z", "UINT8", ((3, 3),))
FREE = TensorSpecRecord("f", "FP32", ((0, -1),))


WORKERS = tuple(
    WorkerRecord(f"worker-{name}", "CPU", 100, (0, 1), f"ipc://@{name}") for name in ("w", "v", "idle")
)


def version(
    number: int, state: State, *, error: str = "", outputs: tuple[TensorSpecRecord, ...] = (Y,)
) -> VersionRecord:
    return VersionRecord(
        version=number,
        state=state,
        error_code=2 if error else 0,
        error_message=error,
        handle=number * 11,
        endpoints=("ipc://@w", "ipc://@v") if state is State.AVAILABLE else (),
        nireq=4,
        detail="2 streams" if state is State.AVAILABLE else "",
        inputs=(TensorSpecRecord("x", "INT64", ((1, 4), (0, -1))),),
        outputs=outputs,
    )


def table(*versions: VersionRecord, default: int = 0, is_draining: bool = False) -> RoutingTable:
    return RoutingTable(
        RoutingSnapshot(7, is_draining, WORKERS, ("two workers",), (ModelRecord("m", default, versions),))
    )


FULL = table(
    version(1, State.END),
    version(2, State.UNLOADING),
    version(3, State.AVAILABLE),
    version(4, State.AVAILABLE),
    version(5, State.LOADING, error="no such file"),
    version(6, State.LOADING),
    default=4,
)


def test_a_snapshot_is_taken_whole() -> None:
    assert (FULL.epoch, FULL.is_draining) == (7, False)
    assert (FULL.snapshot.workers, FULL.snapshot.plan) == (WORKERS, ("two workers",))
    assert table(is_draining=True).is_draining
    model = FULL.model("m")
    assert (model.name, model.default_version, list(model.versions)) == ("m", 4, [1, 2, 3, 4, 5, 6])


def test_all_models_in_the_snapshots_order() -> None:
    models = tuple(ModelRecord(name, 0, ()) for name in ("b", "a"))

    assert [model.name for model in RoutingTable(RoutingSnapshot(1, False, (), (), models)).models()] == [
        "b",
        "a",
    ]


def test_endpoints_are_those_of_all_living_workers() -> None:
    """Also of one that serves no version at the moment: it may still have tasks to answer."""
    assert FULL.endpoints == frozenset({"ipc://@w", "ipc://@v", "ipc://@idle"})


def test_a_route_has_what_its_record_says() -> None:
    route = FULL.find("m", 3)

    assert (route.model_name, route.version, route.handle, route.nireq) == ("m", 3, 33, 4)
    assert (route.endpoints, route.detail) == (("ipc://@w", "ipc://@v"), "2 streams")
    assert route.status == VersionStatus(3, State.AVAILABLE)
    assert FULL.model("m").versions[6].endpoints == ()
    (spec,) = route.inputs
    assert (spec.name, spec.dtype, spec.bounds, spec.dims) == ("x", DType.INT64, ((1, 4), (0, -1)), (-1, -1))


def test_version_zero_is_the_default() -> None:
    assert FULL.find("m", 0).version == 4


@pytest.mark.parametrize("number", [3, 4, 5, 6])
def test_a_version_that_is_or_may_be_served(number: int) -> None:
    assert FULL.find("m", number).version == number


@pytest.mark.parametrize("number", [1, 2, 7, -1, 2**63])
def test_a_version_that_is_not_served_or_no_more(number: int) -> None:
    with pytest.raises(VersionNotFound) as caught:
        FULL.find("m", number)

    assert caught.value.message == (
        f"Servable not found for request: Specific(m, {number}); available versions: [3, 4]"
    )


def test_nothing_to_default_to() -> None:
    with pytest.raises(VersionNotFound, match=r"Specific\(m, 0\); available versions: \[\]"):
        table(version(1, State.END)).find("m", 0)


@pytest.mark.parametrize("number", [0, 3])
def test_no_such_model(number: int) -> None:
    with pytest.raises(ModelNotFound) as caught:
        FULL.find("M", number)

    assert caught.value.message == (
        f"Servable not found for request: Specific(M, {number}); no model has this name; models: 'm'"
    )
    with pytest.raises(ModelNotFound, match=r"Specific\(n, 0\)"):
        FULL.model("n")


def named(*names: str) -> RoutingTable:
    models = tuple(ModelRecord(name, 0, ()) for name in names)
    return RoutingTable(RoutingSnapshot(1, False, (), (), models))


@pytest.mark.parametrize(
    ("names", "sought", "told"),
    [
        ((), "m", "there are no models"),
        (("resnet", "Bert", "yolo"), "bert", "models: 'Bert', 'resnet', 'yolo'"),
        (("resnet", "org/bert"), "", "models: 'resnet', 'org/bert'"),
        (tuple(f"m{n:02}" for n in range(12)), "m11", None),
        (tuple(f"other{n}" for n in range(30)), "nothing", "'other9' and 20 more"),
        (("far", *(f"other{n}" for n in range(5000)), "resnet"), "resnets", "models: 'resnet', 'far',"),
        (("n" * 5000,), "n" * 60_000, "models: 'nnnn"),
    ],
)
def test_who_asks_for_no_model_is_told_which_there_are(
    names: tuple[str, ...], sought: str, told: str | None
) -> None:
    """The nearest first, ten at most, and no name in full that is long."""
    if told is None:
        assert named(*names).model(sought).name == sought
        return
    with pytest.raises(ModelNotFound) as found:
        named(*names).find(sought, 2)
    with pytest.raises(ModelNotFound) as described:
        named(*names).model(sought)
    for caught, version in ((found, 2), (described, 0)):
        message = caught.value.message.removeprefix(not_found_text(sought, version))
        assert message.startswith("; no model has this name; ")
        assert told in message
        assert len(message) < 1000
        assert message.count("'") <= 20


def test_the_legacy_servers_words() -> None:
    assert not_found_text("resnet", 3) == "Servable not found for request: Specific(resnet, 3)"


@pytest.mark.parametrize(
    ("number", "may_come", "reason"),
    [
        (5, False, "no such file"),
        (6, True, "state LOADING"),
        (1, False, "state END"),
        (2, False, "state UNLOADING"),
        (3, False, "state AVAILABLE"),
    ],
)
def test_whether_waiting_makes_sense_and_why_not(number: int, may_come: bool, reason: str) -> None:
    route = FULL.model("m").versions[number]
    error = route.unavailable()

    assert route.may_come is may_come
    assert type(error) is ModelNotReady
    assert error.message == f"version {number} of model 'm' is not available: {reason}"


def test_a_message_of_an_available_version_is_no_error() -> None:
    """Such as files that were changed in place: it is served, and its status says so unchanged."""
    record = structs.replace(version(1, State.AVAILABLE), error_message="files have changed")
    route = table(record).find("m", 1)

    assert route.status == VersionStatus(1, State.AVAILABLE, 0, "files have changed")


def test_a_version_that_has_not_begun_may_come() -> None:
    assert table(version(1, State.START)).model("m").versions[1].may_come


@pytest.mark.parametrize(
    ("outputs", "nbytes"),
    [
        ((), 0),
        ((Y,), 64),
        ((Z,), 64),
        ((Y, Z, Y), 192),
        ((TensorSpecRecord("y", "FP64", ((9, 9),)),), 128),
        ((FREE,), None),
        ((Y, FREE), None),
    ],
)
def test_room_for_static_outputs_is_known_with_each_aligned(
    outputs: tuple[TensorSpecRecord, ...], nbytes: int | None
) -> None:
    route = table(version(1, State.AVAILABLE, outputs=outputs)).find("m", 1)

    assert route.static_output_nbytes == nbytes
