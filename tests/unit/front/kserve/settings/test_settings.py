# SPDX-License-Identifier: Apache-2.0
"""Trace and log settings, which the manager sets; without tracing those of traces stay as they are."""

from __future__ import annotations

import asyncio
from typing import Any

import msgspec
import pytest

from ovms_mp.errors import MalformedPayload, ModelNotFound, UnsupportedOperation
from ovms_mp.front.kserve._proto import kserve_pb2 as kserve
from ovms_mp.front.kserve.settings.methods import SettingsMethods
from ovms_mp.front.kserve.settings.rest import model_endpoints, routes
from ovms_mp.wire.changes import SetLog, SetTrace
from ovms_mp.wire.records import ModelRecord, TraceSettings
from tests.unit.front.kserve.state_desk import Desk

LOG = {
    "log_file": "",
    "log_info": True,
    "log_warning": True,
    "log_error": True,
    "log_verbose_level": 0,
    "log_format": "default",
}
TRACE = {
    "trace_level": ["OFF"],
    "trace_rate": "1000",
    "trace_count": "-1",
    "log_frequency": "0",
    "trace_file": "",
}


def by_rest(desk: Desk, verb: str, path: str, given: object = None) -> Any:
    found = {route.template: route for route in routes(desk)}  # type: ignore[arg-type]  # all that they need
    others = model_endpoints(desk)  # type: ignore[arg-type]  # as above
    endpoint = found[path].find(verb, path.encode()) if path in found else others["trace/setting", verb]
    assert endpoint is not None
    assert endpoint.changes_server == (verb == "POST")
    body = b"" if given is None else msgspec.json.encode(given)
    request: Any = desk.request(path, body, verb)
    handle: Any = endpoint.handler
    return msgspec.json.decode(asyncio.run(handle(request, desk.context)).body)


def by_grpc(desk: Desk, handler: str, message: Any) -> bytes:
    methods = SettingsMethods(desk.service)  # type: ignore[arg-type]  # all that they need
    answer: bytes = asyncio.run(getattr(methods, handler)(message.SerializeToString(), desk.context))
    return answer


def log_by_grpc(desk: Desk, **given: bool | int | str) -> dict[str, Any]:
    message = kserve.LogSettingsRequest()
    for name, value in given.items():
        match value:
            case bool():
                message.settings[name].bool_param = value
            case int():
                message.settings[name].uint32_param = value
            case str():
                message.settings[name].string_param = value
    answer = kserve.LogSettingsResponse.FromString(by_grpc(desk, "log", message))
    return {
        name: getattr(setting, setting.WhichOneof("parameter_choice") or "")
        for name, setting in answer.settings.items()
    }


def test_what_is_logged_can_be_read() -> None:
    desk = Desk(log_file="server.log")
    wanted = LOG | {"log_file": "server.log"}
    assert by_rest(desk, "GET", "/v2/logging") == wanted
    assert by_rest(desk, "POST", "/v2/logging") == wanted
    assert log_by_grpc(desk) == wanted
    assert desk.asked == []


@pytest.mark.parametrize(
    ("given", "change"),
    [
        ({"log_info": False}, SetLog(info=False)),
        ({"log_warning": False, "log_error": False}, SetLog(warning=False, error=False)),
        ({"log_warnings": False}, SetLog(warning=False)),
        ({"log_verbose_level": 2**32 - 1}, SetLog(verbose=2**32 - 1)),
        ({"log_format": "ISO8601", "log_file": ""}, SetLog(form="ISO8601")),
    ],
)
def test_what_is_logged_can_be_set(given: dict[str, Any], change: SetLog) -> None:
    wanted = LOG | {"log_warning" if name == "log_warnings" else name: value for name, value in given.items()}
    desk = Desk()
    assert by_rest(desk, "POST", "/v2/logging", given) == wanted
    assert desk.asked == [change]
    desk = Desk()
    assert log_by_grpc(desk, **given) == wanted
    assert desk.asked == [change]


@pytest.mark.parametrize(
    ("given", "kind", "text"),
    [
        ({"log_info": 1}, MalformedPayload, "log setting 'log_info': 1 is no bool"),
        ({"log_verbose_level": True}, MalformedPayload, "'log_verbose_level': True is no number from 0"),
        ({"log_verbose_level": -1}, MalformedPayload, "-1 is no number from 0"),
        ({"log_verbose_level": 2**32}, MalformedPayload, "is no number from 0 to 4294967295"),
        ({"log_format": "XML"}, MalformedPayload, "'XML' is unknown; accepted: default, ISO8601"),
        (
            {"log_colour": "red"},
            MalformedPayload,
            "log setting 'log_colour' is unknown; accepted: log_info, ",
        ),
        ({"log_file": "/etc/passwd"}, UnsupportedOperation, "log file location can not be updated"),
        ({"log_info": False, "log_format": 7}, MalformedPayload, "'log_format': 7 is unknown"),
    ],
)
def test_what_cannot_be_set_sets_nothing(given: dict[str, Any], kind: type[Exception], text: str) -> None:
    desk = Desk()
    with pytest.raises(kind, match=text):
        by_rest(desk, "POST", "/v2/logging", given)
    assert desk.asked == []


def test_what_is_not_given_stays() -> None:
    desk = Desk()
    assert by_rest(desk, "POST", "/v2/logging", {"log_info": None}) == LOG
    message = kserve.LogSettingsRequest()
    message.settings["log_info"].SetInParent()
    by_grpc(desk, "log", message)
    assert desk.asked == []


@pytest.mark.parametrize("path", ["/v2/trace/setting", "/v2/models/m/trace/setting"])
@pytest.mark.parametrize(
    "given",
    [{}, TRACE, {"trace_level": "OFF"}, {"trace_rate": 1000}, {"trace_count": None}, {"trace_level": []}],
)
def test_nothing_is_traced(path: str, given: dict[str, Any]) -> None:
    desk = Desk((ModelRecord("m", 0, ()),))
    assert by_rest(desk, "GET", path) == TRACE
    assert by_rest(desk, "POST", path, given) == TRACE
    message = kserve.TraceSettingRequest(model_name="m" if "models" in path else "")
    message.settings["trace_level"].value.append("OFF")
    answer = kserve.TraceSettingResponse.FromString(by_grpc(desk, "trace", message))
    found = {name: list(setting.value) for name, setting in answer.settings.items()}
    assert found == {name: value if isinstance(value, list) else [value] for name, value in TRACE.items()}


@pytest.mark.parametrize(
    ("given", "kind", "text"),
    [
        (
            {"trace_level": ["TIMESTAMPS"]},
            UnsupportedOperation,
            r"started without --trace; accepted: \['OFF'\]",
        ),
        (
            {"trace_file": "/etc/passwd"},
            UnsupportedOperation,
            r"trace setting 'trace_file': \['/etc/passwd'\]",
        ),
        ({"trace_speed": "1"}, MalformedPayload, "trace setting 'trace_speed' is unknown"),
        ({"trace_rate": {"a": 1}}, UnsupportedOperation, "trace_rate"),
    ],
)
def test_nothing_will_be_traced(given: dict[str, Any], kind: type[Exception], text: str) -> None:
    with pytest.raises(kind, match=text):
        by_rest(Desk(), "POST", "/v2/trace/setting", given)


TRACED = TRACE | {"trace_level": ["TIMESTAMPS"], "trace_rate": "1"}


@pytest.mark.parametrize(
    ("given", "change"),
    [
        ({"trace_rate": 100}, SetTrace(rate=100)),
        ({"trace_rate": "100"}, SetTrace(rate=100)),
        ({"trace_level": ["OFF"]}, SetTrace(is_on=False)),
        ({"trace_level": "OFF", "trace_rate": "7"}, SetTrace(is_on=False, rate=7)),
    ],
)
def test_how_much_is_traced_can_be_set(given: dict[str, Any], change: SetTrace) -> None:
    desk = Desk(trace=TraceSettings())
    assert by_rest(desk, "GET", "/v2/trace/setting") == TRACED
    found = by_rest(desk, "POST", "/v2/trace/setting", given)
    assert desk.asked == [change]
    assert found["trace_rate"] == str(given.get("trace_rate", 1))
    assert found["trace_level"] == (["OFF"] if "trace_level" in given else ["TIMESTAMPS"])
    # Back to what it was at the start.
    assert by_rest(desk, "POST", "/v2/trace/setting", dict.fromkeys(given)) == TRACED
    message = kserve.TraceSettingRequest()
    message.settings["trace_level"].value.append("OFF")
    desk = Desk(trace=TraceSettings())
    answer = kserve.TraceSettingResponse.FromString(by_grpc(desk, "trace", message))
    assert list(answer.settings["trace_level"].value) == ["OFF"]


@pytest.mark.parametrize(
    ("given", "path", "kind", "text"),
    [
        ({"trace_rate": 0}, "/v2/trace/setting", MalformedPayload, "no number from 1 to 2147483648"),
        ({"trace_rate": [1, 2]}, "/v2/trace/setting", MalformedPayload, "no number from 1"),
        ({"trace_rate": True}, "/v2/trace/setting", MalformedPayload, "no number from 1"),
        ({"trace_rate": "9" * 99}, "/v2/trace/setting", MalformedPayload, "no number from 1"),
        ({"trace_level": "MAX"}, "/v2/trace/setting", MalformedPayload, "is unknown; accepted"),
        (
            {"trace_level": ["TENSORS"]},
            "/v2/trace/setting",
            UnsupportedOperation,
            "is not supported; accepted",
        ),
        ({"trace_count": 5}, "/v2/trace/setting", UnsupportedOperation, "never end; accepted: \\['-1'\\]"),
        ({"trace_file": "/x"}, "/v2/trace/setting", UnsupportedOperation, "sent to a collector"),
        ({"trace_rate": 5}, "/v2/models/m/trace/setting", UnsupportedOperation, "those of the server"),
    ],
)
def test_what_cannot_be_traced(given: dict[str, Any], path: str, kind: type[Exception], text: str) -> None:
    desk = Desk((ModelRecord("m", 0, ()),), trace=TraceSettings())
    with pytest.raises(kind, match=text):
        by_rest(desk, "POST", path, given)
    assert desk.asked == []


def test_traces_of_a_model_that_is_not_there() -> None:
    with pytest.raises(ModelNotFound):
        by_rest(Desk(), "GET", "/v2/models/m/trace/setting")
    with pytest.raises(ModelNotFound):
        by_grpc(Desk(), "trace", kserve.TraceSettingRequest(model_name="m"))
