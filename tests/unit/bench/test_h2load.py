# SPDX-License-Identifier: Apache-2.0
"""How h2load is driven, and what is believed of it."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import msgspec
import pytest

from ovms_mp.bench import h2load
from ovms_mp.bench.dialects import Dialect
from ovms_mp.bench.endpoint import parse_endpoint
from ovms_mp.bench.load import Load

SUMMARY = """\
finished in 1.00s, 3.00 req/s, 1.0KB/s
requests: 3 total, 4 started, 3 done, 3 succeeded, 0 failed, 0 errored, 0 timeout
status codes: 3 2xx, 0 3xx, 0 4xx, 0 5xx
traffic: 1.0KB (1000) total, 100B (100) headers (space savings 50.00%), 255B (255) data
"""
LOG = b"1000000\t200\t1000\n1500000\t200\t2000\n2000000\t200\t3000\n"


def load(url: str, key: str = "", *, in_flight: int = 8) -> Load:
    endpoint = parse_endpoint(url)
    request = Dialect(endpoint, "kserve", "m", "", key).inference_request([])
    return Load(endpoint=endpoint, request=request, in_flight=in_flight, connections=2)


def test_grpc_has_its_streams_on_its_connections() -> None:
    words = h2load.command(load("grpc://h:1"), Path("/b"), Path("/l"))

    assert words[words.index("-c") + 1] == "2"
    assert words[words.index("-m") + 1] == "4"
    assert "te: trailers" in words
    assert not [word for word in words if word.startswith(":")]
    assert words[-1] == "http://h:1/inference.GRPCInferenceService/ModelInfer"


def test_rest_has_a_connection_for_each_request() -> None:
    words = h2load.command(load("unix:/s?protocol=rest"), Path("/b"), Path("/l"))

    assert words[words.index("-c") + 1] == "8"
    assert "--h1" in words
    assert words[words.index("-B") + 1] == "unix:/s"
    assert not [word for word in words if word.startswith("host:")]


def test_keys_and_open_loops_are_not_for_h2load() -> None:
    assert not h2load.is_usable(load("grpc://h:1", "secret"))
    assert not h2load.is_usable(msgspec.structs.replace(load("grpc://h:1"), in_flight=0, rate_per_s=1.0))


def test_the_log_and_the_summary_are_read() -> None:
    found = h2load.observed(SUMMARY, LOG, 0.5, is_cut=False)

    assert found.sent_s.tolist() == [0.0, 0.5, 1.0]
    assert found.ended_s.tolist() == pytest.approx([0.001, 0.502, 1.003])
    assert (found.answer_bytes, found.unfinished) == (85.0, 1)
    assert h2load.is_trustworthy(found, 85, is_grpc=True)


def test_answers_of_another_size_are_not_believed() -> None:
    """A failed call is a fast 200 without a body to h2load."""
    found = h2load.observed(SUMMARY, LOG, 0.5, is_cut=False)

    assert not h2load.is_trustworthy(found, 86, is_grpc=True)
    assert not h2load.is_trustworthy(found, 86, is_grpc=False)


@pytest.mark.parametrize(
    ("data", "is_grpc", "is_trusted"),
    [(340, True, True), (300, True, True), (341, True, False), (254, True, False), (254, False, True)],
)
def test_answers_that_the_end_has_found_on_their_way_are_in_the_sum(
    data: int, is_grpc: bool, is_trusted: bool
) -> None:
    """One of four was; the others have 85 bytes each."""
    found = h2load.observed(SUMMARY.replace("(255) data", f"({data}) data"), LOG, 0.5, is_cut=False)

    assert h2load.is_trustworthy(found, 85, is_grpc=is_grpc) is is_trusted


def test_what_failed_is_not_believed() -> None:
    refused = h2load.observed(SUMMARY, LOG.replace(b"\t200\t2000", b"\t503\t2000"), 0.5, is_cut=False)
    lost = h2load.observed(SUMMARY.replace("0 failed", "1 failed"), LOG, 0.5, is_cut=False)

    assert refused.outcomes == ("", "HTTP 503")
    assert not h2load.is_trustworthy(refused, 85, is_grpc=False)
    assert not h2load.is_trustworthy(lost, 85, is_grpc=True)


def test_what_was_cut_has_no_summary() -> None:
    found = h2load.observed("", LOG[:40], 0.5, is_cut=True)

    assert len(found.sent_s) == 2
    assert h2load.is_trustworthy(found, 85, is_grpc=True)
    assert not h2load.is_trustworthy(dataclasses.replace(found, is_cut=False), 85, is_grpc=True)


def test_streams_that_cannot_be_shared_out_evenly_are_not_for_h2load() -> None:
    """It would have 4 in flight where 5 were asked for."""
    assert h2load.command(load("grpc://h:1", in_flight=6), Path("/b"), Path("/l"))
    assert not h2load.is_usable(load("grpc://h:1", in_flight=5))
