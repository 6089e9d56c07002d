# SPDX-License-Identifier: Apache-2.0
"""The table of failures: every class, every code, and what both become on the wire."""

from __future__ import annotations

import grpc
import pytest

from ovms_mp import errors
from ovms_mp.codes import ExitCode
from ovms_mp.errors import Code, OvmsError, error_classes, error_from_record, shortened

HTTP = {
    # TF Serving's http_server.cc, with style.md 2.8's words for the two that it lacks.
    Code.CANCELLED: 499,
    Code.UNKNOWN: 500,
    Code.INVALID_ARGUMENT: 400,
    Code.DEADLINE_EXCEEDED: 504,
    Code.NOT_FOUND: 404,
    Code.ALREADY_EXISTS: 409,
    Code.PERMISSION_DENIED: 403,
    Code.RESOURCE_EXHAUSTED: 429,
    Code.FAILED_PRECONDITION: 400,
    Code.ABORTED: 409,
    Code.OUT_OF_RANGE: 400,
    Code.UNIMPLEMENTED: 501,
    Code.INTERNAL: 500,
    Code.UNAVAILABLE: 503,
    Code.DATA_LOSS: 500,
    Code.UNAUTHENTICATED: 401,
}
FAILURES = {
    "MalformedPayload": (Code.INVALID_ARGUMENT, 400),
    "InputNameMismatch": (Code.INVALID_ARGUMENT, 400),
    "OutputNameMismatch": (Code.INVALID_ARGUMENT, 400),
    "Unauthenticated": (Code.UNAUTHENTICATED, 401),
    "PermissionRefused": (Code.PERMISSION_DENIED, 403),
    "TooManyRequests": (Code.RESOURCE_EXHAUSTED, 429),
    "ShapeMismatch": (Code.INVALID_ARGUMENT, 400),
    "DtypeMismatch": (Code.INVALID_ARGUMENT, 400),
    "ValueNotExact": (Code.INVALID_ARGUMENT, 400),
    "RegionMismatch": (Code.INVALID_ARGUMENT, 400),
    "RegionUnusable": (Code.INVALID_ARGUMENT, 400),
    "RegionForbidden": (Code.PERMISSION_DENIED, 403),
    "RegionNotFound": (Code.NOT_FOUND, 404),
    "RequestTooLarge": (Code.RESOURCE_EXHAUSTED, 413),
    "TensorTooLarge": (Code.RESOURCE_EXHAUSTED, 413),
    "AnswerTooLarge": (Code.RESOURCE_EXHAUSTED, 413),
    "NoFreeSlot": (Code.RESOURCE_EXHAUSTED, 429),
    "BodyMemoryFull": (Code.RESOURCE_EXHAUSTED, 429),
    "QueueFull": (Code.RESOURCE_EXHAUSTED, 429),
    "TooManyChanges": (Code.RESOURCE_EXHAUSTED, 429),
    "ChangesNotAllowed": (Code.PERMISSION_DENIED, 403),
    "TooManyRegions": (Code.RESOURCE_EXHAUSTED, 429),
    "TooManyWatchers": (Code.RESOURCE_EXHAUSTED, 429),
    "ServiceNotFound": (Code.NOT_FOUND, 404),
    "RegionExists": (Code.ALREADY_EXISTS, 400),
    "ModelNotFound": (Code.NOT_FOUND, 404),
    "VersionNotFound": (Code.NOT_FOUND, 404),
    "ModelNotReady": (Code.UNAVAILABLE, 503),
    "WorkerLost": (Code.UNAVAILABLE, 503),
    "WorkerCrashed": (Code.INTERNAL, 500),
    "Draining": (Code.UNAVAILABLE, 503),
    "DeadlineExceeded": (Code.DEADLINE_EXCEEDED, 504),
    "CallCancelled": (Code.CANCELLED, 499),
    "ModelLoadFailed": (Code.FAILED_PRECONDITION, 400),
    "ModelTooLarge": (Code.FAILED_PRECONDITION, 400),
    "DeviceUnavailable": (Code.FAILED_PRECONDITION, 400),
    "UnsupportedOperation": (Code.UNIMPLEMENTED, 501),
    "InferenceFailed": (Code.INTERNAL, 500),
    "ProtocolError": (Code.INTERNAL, 500),
    "ConfigError": (Code.INVALID_ARGUMENT, 400),
    "ConfigUnreadable": (Code.INTERNAL, 500),
    "ConfigRejected": (Code.FAILED_PRECONDITION, 412),
    "StoreUnavailable": (Code.UNAVAILABLE, 503),
    "StoreRefused": (Code.PERMISSION_DENIED, 403),
    "StoreNotFound": (Code.NOT_FOUND, 404),
    "StoreChanged": (Code.ABORTED, 409),
    "StoreContentInvalid": (Code.DATA_LOSS, 500),
    "StoreDirFull": (Code.RESOURCE_EXHAUSTED, 429),
    "StoreNotSupported": (Code.UNIMPLEMENTED, 501),
    "BootError": (Code.UNAVAILABLE, 503),
}
"""An error class that is added must be added here, with its row."""


def test_codes_are_grpcs_in_name_and_number() -> None:
    theirs = {status.name: status.value[0] for status in grpc.StatusCode if status is not grpc.StatusCode.OK}

    assert {code.name: code.number for code in Code} == theirs


def test_every_code_has_its_http_status() -> None:
    assert {code: code.http_status for code in Code} == HTTP


def test_every_failure_is_in_the_table() -> None:
    assert set(error_classes()) == set(FAILURES)


def test_names_are_unique_and_those_of_the_module() -> None:
    declared = [
        cls
        for cls in vars(errors).values()
        if isinstance(cls, type) and issubclass(cls, OvmsError) and cls is not OvmsError
    ]

    assert len(declared) == len(FAILURES)
    assert {cls.__name__: cls for cls in declared} == error_classes()


@pytest.mark.parametrize(("name", "expected"), FAILURES.items())
def test_code_and_http_status(name: str, expected: tuple[Code, int]) -> None:
    error = error_classes()[name]("why")

    assert (error.code, error.http_status) == expected


@pytest.mark.parametrize("name", FAILURES)
def test_record_round_trip(name: str) -> None:
    error = error_from_record(name, "what, and the remedy")

    assert type(error) is error_classes()[name]
    assert error.message == "what, and the remedy"
    assert str(error) == error.message


@pytest.mark.parametrize("name", ["", "NoSuchFailure", "OvmsError", "Exception", "SystemExit"])
def test_unknown_name_is_internal(name: str) -> None:
    error = error_from_record(name, "text")

    assert type(error) is OvmsError
    assert (error.code, error.http_status, error.message) == (Code.INTERNAL, 500, "text")


def test_http_deviates_from_the_code_only_where_http_has_a_better_word() -> None:
    deviating = {name for name, cls in error_classes().items() if cls("").http_status != cls.code.http_status}

    assert deviating == {
        "RequestTooLarge",
        "TensorTooLarge",
        "AnswerTooLarge",
        "ConfigRejected",
        "RegionExists",
    }


def test_exit_codes() -> None:
    assert {code.name: int(code) for code in ExitCode} == {
        "CLEAN": 0,
        "USAGE": 2,
        "BOOT_FAILED": 3,
        "INTERNAL": 70,
    }


def test_a_long_text_is_shortened_and_keeps_its_end() -> None:
    assert shortened("x" * 2048) == "x" * 2048
    text = shortened("a" * 1_000_000 + "; raise --some_flag")
    assert len(text) < 2100
    assert "(1000019 characters)" in text
    assert text.endswith("raise --some_flag")
