# SPDX-License-Identifier: Apache-2.0
"""``ovms_mp status``: the status document as text. Asking a server is in ``tests/integration``."""

from __future__ import annotations

import json

import msgspec
import pytest

from ovms_mp.commands.status_text import status_text

DOCUMENT = {
    "plan": ["2 cores, no quota", "CPU: 1 worker"],
    "workers": [
        {"name": "worker-0", "device": "CPU", "pid": 7, "cores": [0, 1, 2, 5]},
        {"name": "worker-10", "device": "AUTO:GPU,CPU", "pid": 12345, "cores": []},
        {"name": "worker-2", "device": "CPU", "pid": 8, "cores": [3], "new_field": 1},
    ],
    "models": {
        "resnet": {
            "default_version": 10,
            "versions": [
                {"version": 2, "state": "END", "error_message": "", "nireq": 0, "workers": 0, "detail": ""},
                {
                    "version": 10,
                    "state": "AVAILABLE",
                    "nireq": 4,
                    "workers": 2,
                    "detail": "2 streams\n4 threads",
                },
                {"version": 11, "state": "LOADING", "error_message": "cannot read\nthe file"},
            ],
        },
        "empty": {"default_version": 0, "versions": [], "notes": ["/models/empty: does not exist"]},
    },
}


def test_the_document_is_aligned_text() -> None:
    assert status_text(json.dumps(DOCUMENT).encode()).splitlines() == [
        "2 cores, no quota",
        "CPU: 1 worker",
        "",
        "workers",
        "  worker-0   CPU           pid 7      cores 0-2,5",
        "  worker-10  AUTO:GPU,CPU  pid 12345",
        "  worker-2   CPU           pid 8      core 3",
        "",
        "resnet: default version 10",
        "  2   END",
        "  10  AVAILABLE  2 workers  4 infer requests each",
        "    2 streams",
        "    4 threads",
        "  11  LOADING",
        "    ! cannot read",
        "    ! the file",
        "",
        "empty: no default version",
        "  ! /models/empty: does not exist",
    ]


def version(**fields: object) -> dict[str, object]:
    return {"version": 3, "state": "LOADING", **fields}


@pytest.mark.parametrize(
    ("fields", "row"),
    [
        ({"is_failed": True, "next_try_in_s": 33.2}, "3  FAILED  next try in 34 s"),
        ({"is_failed": True, "next_try_in_s": 0.0}, "3  FAILED  next try in 0 s"),
        ({"is_failed": True, "is_being_loaded": True, "next_try_in_s": None}, "3  FAILED  being tried again"),
        ({"is_failed": True}, "3  FAILED"),
        ({"is_being_loaded": True}, "3  LOADING"),
        (
            {"state": "AVAILABLE", "workers": 2, "nireq": 1, "requests": 12},
            "3  AVAILABLE  2 workers  1 infer request each  12 answered",
        ),
        (
            {
                "state": "AVAILABLE",
                "workers": 1,
                "nireq": 1,
                "requests": 9,
                "failures": 2,
                "cancelled": 3,
                "is_being_loaded": True,
            },
            "3  AVAILABLE  1 worker  1 infer request  4 answered, 2 failed, 3 cancelled  being reloaded",
        ),
        ({"is_failed": True, "requests": 1, "failures": 1}, "3  FAILED  0 answered, 1 failed"),
        (
            {"state": "AVAILABLE", "workers": 1, "nireq": 2, "is_being_loaded": True},
            "3  AVAILABLE  1 worker  2 infer requests  being reloaded",
        ),
        (
            {"state": "AVAILABLE", "workers": 1, "nireq": 1, "next_try_in_s": 5.5},
            "3  AVAILABLE  1 worker  1 infer request  next try in 6 s",
        ),
    ],
)
def test_a_version_says_what_comes_next(fields: dict[str, object], row: str) -> None:
    document = {"models": {"m": {"versions": [version(**fields)]}}}

    assert status_text(json.dumps(document).encode()).splitlines()[1].strip() == row


@pytest.mark.parametrize("is_whole", [True, False])
def test_a_refused_configuration_file_is_on_top(*, is_whole: bool) -> None:
    configuration = {
        "refused_at": "2026-01-02T03:04:05+00:00",
        "is_refused_whole": is_whole,
        "reason": "a\nb",
    }
    document = {"configuration": configuration, "plan": ["2 cores"]}

    assert status_text(json.dumps(document).encode()).splitlines() == [
        "configuration file of 2026-01-02 03:04:05+00:00: "
        + ("refused; the one before it is followed" if is_whole else "refused in part"),
        "    ! a",
        "    ! b",
        "",
        "2 cores",
        "",
        "no models",
    ]


def test_what_is_missing_is_left_out() -> None:
    assert status_text(b"{}") == "no models"


@pytest.mark.parametrize("document", [b"", b"[]", b'{"models": []}', b'{"workers": [{"pid": "x"}]}', b"\xff"])
def test_what_is_no_status(document: bytes) -> None:
    with pytest.raises(msgspec.MsgspecError):
        status_text(document)
