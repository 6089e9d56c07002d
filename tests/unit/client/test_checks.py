# SPDX-License-Identifier: Apache-2.0
"""What is wrong with a request is said before anything is sent, as an error of the client's own."""

from __future__ import annotations

import copy
import pickle
from concurrent.futures import Future
from typing import Any

import numpy as np
import pytest

import ovms_mp.client
from ovms_mp.client import Client, InvalidRequest, NotFound, Unsupported
from ovms_mp.client.datatypes import as_array, octets_of
from ovms_mp.client.futures import PredictFuture
from ovms_mp.client.sockets import Cancellation
from ovms_mp.codes import Code

X = np.zeros((1, 2), np.float32)
NOWHERE = "grpc://127.0.0.1:1"
"""Nobody is asked there."""


@pytest.mark.parametrize(
    ("given", "text"),
    [
        ({"model": None}, "the model is named None"),
        ({"model": "a\ud800"}, "which is no text that UTF-8 has"),
        ({"inputs": {1: X}}, "an input is named 1"),
        ({"inputs": {"x\ud800": X}}, "which is no text that UTF-8 has"),
        ({"inputs": {"x": [[1.0], [2.0, 3.0]]}}, "input 'x' is no tensor: .*inhomogeneous"),
        ({"inputs": {"x": np.array([1j])}}, "no tensor has NumPy's dtype complex128"),
        ({"inputs": {"x": np.array(["a", None], np.object_)}}, "elements such as None"),
        ({"inputs": {"x": "a\udc80"}}, r"the string 'a\\udc80' is no text that UTF-8 has"),
        ({"inputs": {"x": [["a", "\udc80"]]}}, "no text that UTF-8 has"),
        ({"inputs": {"x": np.ma.masked_array([1.0], [True])}}, "a tensor has no mask"),
        ({"inputs": {"x": np.zeros(1, "M8[s]")}}, "no tensor has NumPy's dtype datetime64"),
        ({"inputs": {"x": [1 << 70]}}, "no tensor has|elements such as"),
        ({"version": -1}, "version -1 is no positive number"),
        ({"version": "1"}, "version '1' is no positive number"),
        ({"version": True}, "version True is no positive number"),
        ({"version": 1 << 63}, "is no positive number"),
        ({"outputs": (1,)}, "an output is named 1"),
        ({"request_id": "a\nb"}, "must be printable ASCII"),
        ({"request_id": "\u20ac"}, "must be printable ASCII"),
        ({"request_id": 7}, "must be printable ASCII"),
        ({"parameters": {"a": "\ud800"}}, "no text that UTF-8 has"),
        ({"parameters": {"a": None}}, "parameter 'a' is None"),
        ({"parameters": {"a": 1 << 64}}, "numbers of at most 64 bits"),
        ({"parameters": {"a": [1]}}, r"parameter 'a' is \[1\]"),
        ({"classes": {"y": 0}}, "classes of output 'y' is 0, but must be"),
        ({"classes": {"y": True}}, "classes of output 'y' is True"),
        ({"classes": {1: 1}}, "an output is named 1"),
        ({"timeout": 0}, "the timeout 0 is no number"),
        ({"timeout": "1"}, "the timeout '1' is no number"),
        ({"timeout": float("nan")}, "the timeout nan is no number"),
        ({"into": {"y": X}}, "is not one of shared_array"),
    ],
    ids=str,
)
@pytest.mark.parametrize("url", [NOWHERE, "http://127.0.0.1:1"])
def test_requests_that_cannot_be_sent(url: str, given: dict[str, Any], text: str) -> None:
    asked: dict[str, Any] = {"model": "m", "inputs": {"x": X}, **given}
    with Client(url) as client, pytest.raises(InvalidRequest, match=text):
        client.predict(**asked)


def test_parameters_are_kserves() -> None:
    with Client(NOWHERE, api="tfs") as client, pytest.raises(Unsupported, match="no parameters"):
        client.predict("m", {"x": X}, parameters={"priority": 1})


def test_errors_before_anything_is_sent_have_the_request_id_too() -> None:
    with Client(NOWHERE) as client, pytest.raises(InvalidRequest) as error:
        client.predict("m", {"x": [[1], [1, 2]]}, request_id="number 7")
    assert error.value.request_id == "number 7"


@pytest.mark.parametrize(
    "options",
    [
        {"connections": 0},
        {"connections": 1.5},
        {"max_answer_bytes": 0},
        {"retries": 3},
        {"timeout": None},
        {"headers": {"a b": "c"}},
        {"headers": {"a": "b\r\nc: d"}},
        {"headers": {"Content-Length": "7"}},
        {"headers": {":path": "/"}},
        {"headers": {"a": 7}},
        {"api_key": "a\nb"},
        {"ca": "/does/not/exist", "url": "grpcs://h"},
    ],
    ids=str,
)
def test_options_that_no_client_can_have(options: dict[str, Any]) -> None:
    with pytest.raises(InvalidRequest):
        Client(options.pop("url", NOWHERE), **options)


@pytest.mark.parametrize(("given", "expected"), [("y", ("y",)), (["y", "z"], ("y", "z")), ((), ())])
def test_outputs_may_be_named_in_any_sequence(given: Any, expected: tuple[str, ...]) -> None:
    version: Any = np.int64(3)
    call = Client(NOWHERE)._session.predict("m", {"x": X}, version, given)
    assert (call.outputs, call.version) == (expected, 3)


@pytest.mark.parametrize(
    "array",
    [
        np.float32(1.5), np.zeros((2, 0, 3), np.int8), np.asfortranarray(np.arange(6.0).reshape(2, 3)),
        np.arange(6, dtype=">i4")[::2], np.array(7, ">f8"), np.broadcast_to(np.float32(1), (3, 2)),
    ],
    ids=lambda array: f"{array.dtype}{array.shape}",
)  # fmt: skip
def test_arrays_lie_in_memory_as_tensors_travel(array: Any) -> None:
    found = as_array(array)

    assert found.shape == array.shape
    assert bytes(octets_of(found)) == np.asarray(array).astype(found.dtype.newbyteorder("<")).tobytes()


@pytest.mark.parametrize(
    ("values", "dtype"),
    [
        ([1.5, -1e38], np.float32),
        ([float("nan"), float("inf")], np.float32),
        ([1.5, 1e39], np.float64),
        ([[-1e300]], np.float64),
        (1e300, np.float64),
        ([], np.float32),
    ],
)
def test_numbers_of_python_are_float32_unless_one_is_beyond_that(values: Any, dtype: Any) -> None:
    """The server says then what does not fit; infinity, which was sent, is no answer to that."""
    assert as_array(values).dtype == dtype


def test_errors_can_be_copied_and_sent_to_other_processes() -> None:
    error = NotFound(Code.NOT_FOUND, "no model", request_id="7", http_status=404, retry_after_s=1.0)
    for other in (copy.copy(error), pickle.loads(pickle.dumps(error))):  # noqa: S301  # our own
        assert (type(other), str(other), other.__dict__) == (NotFound, str(error), error.__dict__)


class Aborted:
    """In place of a connection."""

    count = 0

    def abort(self) -> None:
        self.count += 1


def test_a_connection_that_was_given_back_is_not_ended_by_a_late_cancellation() -> None:
    cancellation, connection = Cancellation(), Aborted()
    cancellation.holds(connection)  # type: ignore[arg-type]
    cancellation.lets_go()
    cancellation.cancel()

    assert connection.count == 0


def test_a_future_whose_task_will_never_run_is_cancelled() -> None:
    future, task = PredictFuture(), Future[Any]()
    task.add_done_callback(future.drop)
    task.cancel()

    assert future.cancelled()
    assert future.cancel()


def test_all_names_can_be_imported() -> None:
    for name in ovms_mp.client.__all__:
        assert hasattr(ovms_mp.client, name)
    assert set(ovms_mp.client.__all__) <= set(dir(ovms_mp.client))
    with pytest.raises(AttributeError, match="has no attribute 'nothing'"):
        ovms_mp.client.nothing  # noqa: B018  # looked for
