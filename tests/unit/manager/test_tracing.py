# SPDX-License-Identifier: Apache-2.0
"""What ``--trace`` needs is looked at before anything starts."""

from __future__ import annotations

import pytest

from ovms_mp.errors import BootError
from ovms_mp.manager import tracing
from ovms_mp.manager.tracing import check_tracing


@pytest.mark.parametrize("name", ["OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "OTEL_EXPORTER_OTLP_PROTOCOL"])
def test_the_one_protocol_that_there_is(name: str) -> None:
    check_tracing({})
    check_tracing({name: "http/protobuf", "OTEL_TRACES_EXPORTER": "otlp"})
    with pytest.raises(BootError, match=f"--trace: {name}='grpc' is not supported; accepted: http/protobuf"):
        check_tracing({name: "grpc"})


def test_the_one_exporter_that_there_is() -> None:
    with pytest.raises(BootError, match="OTEL_TRACES_EXPORTER='console' is not supported; accepted: otlp"):
        check_tracing({"OTEL_TRACES_EXPORTER": "console"})


@pytest.mark.parametrize("missing", ["no_such_package", "no_such_package.sdk"])
def test_without_the_extra_the_start_says_what_to_install(
    missing: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tracing, "_NEEDED", ("opentelemetry", missing))
    with pytest.raises(BootError, match=r"pip install 'ovms_mp\[otel\]'"):
        check_tracing({})
