# SPDX-License-Identifier: Apache-2.0
"""Paths of the calls about shared memory."""

from __future__ import annotations

import pytest

from ovms_mp.errors import MalformedPayload
from ovms_mp.front.endpoints import Endpoint
from ovms_mp.front.kserve.regions.rest import CUDA_PREFIX, CudaRestCalls, RegionRoute, target_of

ROUTE = RegionRoute(CUDA_PREFIX, "CudaSharedMemory", CudaRestCalls().handlers())
PREFIX = CUDA_PREFIX.encode()


@pytest.mark.parametrize(
    ("path", "target"),
    [
        (b"status", ("", "status")),
        (b"status/", ("", "status")),
        (b"unregister", ("", "unregister")),
        (b"region/r/register", ("r", "register")),
        (b"region/status/status", ("status", "status")),
        (b"region/a%2Fb%20%C3%BC/unregister", ("a/b ü", "unregister")),
        (b"", ("", "")),
        (b"region/r", ("", "")),
        (b"region//status", ("", "")),
        (b"region/a/b/status", ("", "")),
        (b"regions/r/status", ("", "")),
        (b"region/r/Status", ("", "")),
    ],
)
def test_a_path_is_a_region_and_what_is_asked(path: bytes, target: tuple[str, str]) -> None:
    assert target_of(PREFIX + path, CUDA_PREFIX) == target


def test_a_name_that_is_no_text_is_told_by_the_handler() -> None:
    path = PREFIX + b"region/%FF/status"
    with pytest.raises(MalformedPayload, match="'%FF' is not UTF-8"):
        target_of(path, CUDA_PREFIX)
    assert found("GET", path).name == "CudaSharedMemoryStatus"


def found(verb: str, path: bytes) -> Endpoint:
    endpoint = ROUTE.find(verb, path)
    assert endpoint is not None
    return endpoint


def test_calls_have_their_http_methods() -> None:
    status, register, unregister = PREFIX + b"status", PREFIX + b"region/r/register", PREFIX + b"unregister"
    assert found("GET", status).name == "CudaSharedMemoryStatus"
    assert found("POST", register).name == "CudaSharedMemoryRegister"
    assert found("POST", unregister).name == "CudaSharedMemoryUnregister"
    assert ROUTE.find("POST", status) is None
    assert ROUTE.find("GET", register) is None
    assert ROUTE.allowed(status) == ("GET", "HEAD")
    assert ROUTE.allowed(register) == ROUTE.allowed(unregister) == ("POST",)
    assert found("GET", PREFIX + b"else").name == "Unknown"


def test_browsers_may_not_be_sent_by_other_sites_to_what_changes_the_server() -> None:
    for path in (b"region/r/register", b"unregister", b"region/r/unregister"):
        assert found("POST", PREFIX + path).changes_server
