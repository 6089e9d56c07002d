# SPDX-License-Identifier: Apache-2.0
"""Snapshots that cannot be sent as they are: the model to blame is left out, and nobody else."""

from __future__ import annotations

import logging

import msgspec
import pytest

from ovms_mp.manager.fronts.snapshots import SnapshotEncoder
from ovms_mp.model.status import State
from ovms_mp.wire.channels import MAX_MESSAGE_BYTES, Router, new_endpoint
from ovms_mp.wire.codec import decode_to_child, encode
from ovms_mp.wire.messages import RoutingSnapshot
from ovms_mp.wire.records import ModelRecord, TensorSpecRecord, VersionRecord


def version(number: int, name: str = "x", detail: str = "") -> VersionRecord:
    specs = (TensorSpecRecord(name, "FP32", ((1, 1),)),)
    return VersionRecord(number, State.AVAILABLE, 0, "", number, ("ipc://@x",), 1, detail, specs, specs)


def snapshot(*models: ModelRecord) -> RoutingSnapshot:
    return RoutingSnapshot(7, False, (), ("a plan",), models)


SMALL = ModelRecord("small", 1, (version(1),))
LARGE = ModelRecord("large", 2, (version(1, "y" * 3000), version(2, "z" * 3000)))
LARGER = ModelRecord("larger", 1, (version(1, "y" * 9000),))


def received(encoder: SnapshotEncoder, *models: ModelRecord) -> RoutingSnapshot:
    message = decode_to_child(encoder.payload(snapshot(*models)))
    assert isinstance(message, RoutingSnapshot)
    return message


def test_what_fits_is_sent_as_it_is() -> None:
    assert received(SnapshotEncoder(), SMALL, LARGE) == snapshot(SMALL, LARGE)


def test_the_largest_model_alone_is_not_served(caplog: pytest.LogCaptureFixture) -> None:
    encoder = SnapshotEncoder(20_000)
    got = {model.name: model for model in received(encoder, SMALL, LARGER, LARGE).models}

    assert got["small"] == SMALL
    assert got["large"] == LARGE
    assert [record.endpoints for record in got["larger"].versions] == [()]
    assert "20000" in got["larger"].versions[0].error_message
    errors = [record.getMessage() for record in caplog.records if record.levelno == logging.ERROR]
    assert len(errors) == 1
    assert "model='larger'" in errors[0]
    received(encoder, SMALL, LARGER, LARGE)
    assert len(caplog.records) == 1


def test_what_files_say_of_models_is_left_out_where_it_is_too_much(caplog: pytest.LogCaptureFixture) -> None:
    def told(name: str, *lengths: int) -> ModelRecord:
        versions = (
            msgspec.structs.replace(version(number), rt_info="y" * n) for number, n in enumerate(lengths, 1)
        )
        return ModelRecord(name, 1, tuple(versions))

    encoder = SnapshotEncoder(most_rt_info=1000)
    models = told("a", 400, 500), told("b", 300, 0), told("c", 200)
    for _ in range(2):
        got = received(encoder, *models)
        lengths = {
            (model.name, record.version): len(record.rt_info)
            for model in got.models
            for record in model.versions
        }
        assert lengths == {("a", 1): 400, ("a", 2): 0, ("b", 1): 300, ("b", 2): 0, ("c", 1): 200}
    assert [record.getMessage() for record in caplog.records] == [
        "event=rt_info_left_out versions=a/2: at most 1000 characters are sent to the fronts for all models"
    ]
    assert received(encoder, *models[1:]) == snapshot(*models[1:])


def test_as_many_models_as_it_takes() -> None:
    got = received(SnapshotEncoder(10_000), SMALL, LARGER, LARGE)

    assert [model.name for model in got.models if model.versions[0].endpoints] == ["small"]
    assert len(encode(got)) <= 10_000


def test_a_model_whose_name_is_too_long_is_left_out() -> None:
    endless = ModelRecord("n" * (2 << 20), 1, (version(1),))
    got = received(SnapshotEncoder(1 << 20), SMALL, endless)

    assert got.models == (SMALL,)


@pytest.mark.parametrize(
    "bad",
    [version(1, "a\udc80"), version(1, detail="\ud800"), msgspec.structs.replace(version(1), handle=1 << 64)],
    ids=["name", "detail", "number"],
)
def test_a_model_that_cannot_be_encoded_is_the_only_one_that_is_not_served(bad: VersionRecord) -> None:
    got = received(SnapshotEncoder(), SMALL, ModelRecord("bad", 1, (bad,)))

    assert got.models[0] == SMALL
    assert not got.models[1].versions[0].endpoints
    assert got.models[1].versions[0].error_message


def test_a_message_that_the_receiver_would_drop_is_not_sent() -> None:
    with (
        Router(new_endpoint()) as router,
        pytest.raises(Exception, match="67108865 bytes is longer than 67108864"),
    ):
        router.send(b"front", bytes(MAX_MESSAGE_BYTES + 1))
