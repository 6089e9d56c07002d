# SPDX-License-Identifier: Apache-2.0
"""What a page is told of models and versions, and how much of it."""

from __future__ import annotations

from ovms_mp.child.specs import PageSpec
from ovms_mp.front.live.history import LONGEST_TEXT, Event
from ovms_mp.front.live.state import MOST_VERSIONS, state_steps
from ovms_mp.front.protobuf.turns import at_one_go
from ovms_mp.model.status import State
from ovms_mp.wire.messages import RoutingSnapshot
from ovms_mp.wire.records import ConfigRefusal, ErrorRecord, ModelRecord, TensorSpecRecord, VersionRecord

SPEC = PageSpec(grpc_port=0, is_secure=True, may_change_state=False, cores=(0, 2))
X = TensorSpecRecord("x", "FP32", ((1, 1), (0, -1)), layout="NCHW")


def version(number: int, message: str = "") -> VersionRecord:
    return VersionRecord(number, State.AVAILABLE, 0, message, 1, ("a", "b"), 3, "plan", (X,), (), streams=2)


def test_versions_have_what_all_workers_have() -> None:
    snapshot = RoutingSnapshot(1, False, (), ("p",), (ModelRecord("m", 2, (version(1), version(2))),))
    document = at_one_go(state_steps(snapshot, SPEC, [Event(1.0, "info", "e")], has_metrics=True))

    (model,) = document["models"]
    assert (model["name"], model["default"]) == ("m", "2")
    assert [each["version"] for each in model["versions"]] == ["2", "1"]
    newest = model["versions"][0]
    assert (newest["workers"], newest["infer_requests"], newest["streams"]) == (2, 6, 4)
    assert newest["inputs"] == [{"name": "x", "dtype": "FP32", "bounds": ((1, 1), (0, -1)), "layout": "NCHW"}]
    assert document["server"]["cores"] == (0, 2)
    assert document["events"] == [Event(1.0, "info", "e")]


def test_it_has_an_end_however_much_is_served() -> None:
    models = tuple(
        ModelRecord(f"m{number}", 1, (version(1, "x" * 10_000),)) for number in range(MOST_VERSIONS + 7)
    )
    refusal = ConfigRefusal(1.0, True, ErrorRecord("ConfigError", "y" * 10_000))
    snapshot = RoutingSnapshot(1, False, (), (), models, config_refusal=refusal)
    document = at_one_go(state_steps(snapshot, SPEC, [], has_metrics=False))

    assert len(document["models"]) == MOST_VERSIONS
    assert document["hidden_versions"] == 7
    assert len(document["models"][0]["versions"][0]["message"]) == LONGEST_TEXT
    assert len(document["refusal"]["reason"]) == LONGEST_TEXT


def test_of_a_model_with_many_versions_the_newest_are_shown() -> None:
    many = ModelRecord("m", 1, tuple(version(number) for number in range(1, MOST_VERSIONS + 4)))
    snapshot = RoutingSnapshot(1, False, (), (), (many, ModelRecord("n", 0, ()), ModelRecord("o", 0, ())))
    document = at_one_go(state_steps(snapshot, SPEC, [], has_metrics=False))

    (model,) = document["models"]
    assert model["versions"][0]["version"] == str(MOST_VERSIONS + 3)
    assert len(model["versions"]) == MOST_VERSIONS
    assert document["hidden_versions"] == 5


def test_versions_are_texts_as_browsers_round_long_numbers() -> None:
    longest = 2**63 - 1
    snapshot = RoutingSnapshot(1, False, (), (), (ModelRecord("m", longest, (version(longest),)),))
    (model,) = at_one_go(state_steps(snapshot, SPEC, [], has_metrics=False))["models"]

    assert (model["default"], model["versions"][0]["version"]) == (str(longest), str(longest))
