# SPDX-License-Identifier: Apache-2.0
"""KServe's streams on both gRPC fronts: many requests in one call; and deadlines that a request itself has."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest

from ovms_mp.front.kserve._proto.kserve_pb2 import ModelInferRequest
from tests.conformance.case import PAIR, X10, Y10
from tests.support import kserve_client
from tests.support.kserve_client import infer_request, outputs_of, stream

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ovms_mp.model.dtypes import AnyArray
    from tests.support.server import Server
    from tests.support.tfs_client import TfsClient

FRONTS = pytest.mark.parametrize("front", ["native", "grpcio"])
LONG = np.arange(1 << 18, dtype=np.float32)


@FRONTS
def test_answers_come_in_the_order_of_requests(
    front: str, fronts: Mapping[str, Server], tfs: TfsClient
) -> None:
    """For several models, long and short; more than are answered at once."""
    requests = []
    for number in range(40):
        choices: list[tuple[str, Mapping[str, AnyArray]]] = [
            ("tiny", {"x": X10 + number}),
            ("pair", PAIR),
            ("id_f32", {"x": LONG + number}),
            ("versions", {"x": X10 + number}),
        ]
        model, inputs = choices[number % 4]
        requests.append(infer_request(model, inputs, request_id=f"request {number}"))
    reply = stream(tfs, fronts[front].port, requests)

    assert (reply.code, reply.details) == ("OK", "")
    assert [response.infer_response.id for response in reply.responses] == [one.id for one in requests]
    for number, response in enumerate(reply.responses):
        assert response.error_message == ""
        assert response.infer_response.parameters["triton_final_response"].bool_param
        (first, *_) = outputs_of(response.infer_response).values()
        if number % 4 == 2:
            np.testing.assert_array_equal(first, LONG + number)
        elif number % 4 == 0:
            np.testing.assert_array_equal(first, Y10 + number)


@FRONTS
def test_a_failure_is_an_answer_and_ends_nothing(
    front: str, fronts: Mapping[str, Server], tfs: TfsClient
) -> None:
    good = infer_request("tiny", {"x": X10}, request_id="good")
    requests: list[ModelInferRequest | bytes] = [
        good,
        infer_request("nobody", {"x": X10}, request_id="no model"),
        infer_request("tiny", {"x": X10[:, :9]}, request_id="shape"),
        infer_request("tiny", {"x": LONG}, request_id="long"),
        ModelInferRequest(model_name="tiny", id="values", raw_input_contents=[b"1"]),
        b"\xff\xff",
        good,
    ]
    reply = stream(tfs, fronts[front].port, requests)

    assert reply.code == "OK"
    ids = [response.infer_response.id for response in reply.responses]
    assert ids == ["good", "no model", "shape", "long", "values", "", "good"]
    texts = [response.error_message for response in reply.responses]
    assert [bool(text) for text in texts] == [False, True, True, True, True, True, False]
    assert "Specific(nobody, 0)" in texts[1]
    assert "[1, 9]" in texts[2]
    assert "[262144]" in texts[3]
    assert "Size of raw_input_contents: 1" in texts[4]
    assert "ModelInferRequest" in texts[5]


@FRONTS
def test_a_client_may_have_a_failure_end_the_stream(
    front: str, fronts: Mapping[str, Server], tfs: TfsClient
) -> None:
    requests = [infer_request(name, {"x": X10}, request_id=name) for name in ("tiny", "nobody", "tiny")]
    reply = stream(tfs, fronts[front].port, requests, kserve_client.RAISE)

    assert (reply.code, [response.infer_response.id for response in reply.responses]) == (
        "NOT_FOUND",
        ["tiny"],
    )
    assert "Specific(nobody, 0)" in reply.details


@FRONTS
def test_a_stream_may_be_empty(front: str, fronts: Mapping[str, Server], tfs: TfsClient) -> None:
    reply = stream(tfs, fronts[front].port, [])

    assert (reply.code, list(reply.responses)) == ("OK", [])


@FRONTS
def test_a_request_has_a_deadline_of_its_own(
    front: str, fronts: Mapping[str, Server], tfs: TfsClient
) -> None:
    """In microseconds; in a stream it is nobody else's."""
    late = infer_request("tiny", {"x": X10}, request_id="late")
    late.parameters["timeout"].int64_param = 1
    good = infer_request("tiny", {"x": X10}, request_id="good")
    port = fronts[front].port

    assert kserve_client.infer(tfs, port, late).code == "DEADLINE_EXCEEDED"
    reply = stream(tfs, port, [late, good])
    assert [bool(response.error_message) for response in reply.responses] == [True, False]
