# SPDX-License-Identifier: Apache-2.0
"""What is said of the engine's exactness is what the engine does, operation by operation."""

from __future__ import annotations

import subprocess
import sys

import msgspec
import pytest

_INT32 = (-(2**31), 2**31 - 1)
_WHOLE_FP32 = (-(2**24), 2**24)

CAUTIOUS = {("Range", "UINT32"), ("OneHot places", "UINT32")}
"""Refused beyond the range though the engine happens to be right there."""

RANGES: dict[tuple[str, str], tuple[int, int] | None] = {
    ("Result", "INT64"): None,
    ("Result", "UINT64"): None,
    ("ShapeOf", "INT64"): None,
    ("Reshape", "INT64"): _INT32,
    ("Reshape", "UINT64"): (0, 2**31 - 1),
    ("Reshape", "UINT32"): None,
    ("Reshape", "INT32"): None,
    ("Add", "UINT32"): None,
    ("Less", "UINT32"): (0, 2**31 - 1),
    ("Convert to FP32", "INT64"): None,
    ("Convert to FP32", "UINT64"): None,
    ("Convert to INT32", "INT64"): None,
    ("Convert late", "INT64"): _INT32,
    ("Convert late", "UINT32"): (0, 2**31 - 1),
    ("Convert, modulo", "INT64"): _WHOLE_FP32,
    ("Mod", "INT32"): _WHOLE_FP32,
    ("Mod", "UINT64"): (0, 2**24),
    ("Add, modulo", "INT64"): _WHOLE_FP32,
    ("two uses", "INT64"): _INT32,
}


class Finding(msgspec.Struct):
    """See :mod:`tests.support.exactness_child`."""

    operation: str
    dtype: str
    exact: tuple[float, float] | None = None
    is_right_inside: bool = True
    is_right_outside: bool = True
    is_refused_by_the_engine: bool = False


@pytest.fixture(scope="module")
def findings() -> dict[tuple[str, str], Finding]:
    done = subprocess.run(
        [sys.executable, "-m", "tests.support.exactness_child"], capture_output=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr.decode()[-4000:]
    found = [msgspec.json.decode(line, type=Finding) for line in done.stdout.splitlines()]
    return {(finding.operation, finding.dtype): finding for finding in found}


def test_the_engine_is_exact_where_that_is_said(findings: dict[tuple[str, str], Finding]) -> None:
    """Up to the ends of the range; where there is none, up to those of the dtype."""
    assert len(findings) > 250
    assert [key for key, finding in findings.items() if not finding.is_right_inside] == []


def test_nothing_is_refused_that_the_engine_computes_exactly(
    findings: dict[tuple[str, str], Finding],
) -> None:
    needless = {key for key, finding in findings.items() if finding.exact and finding.is_right_outside}

    assert needless == CAUTIOUS


@pytest.mark.parametrize("key", RANGES, ids=str)
def test_ranges(key: tuple[str, str], findings: dict[tuple[str, str], Finding]) -> None:
    assert findings[key].exact == RANGES[key]
