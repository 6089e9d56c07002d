# SPDX-License-Identifier: Apache-2.0
"""Licences that are not known, or do not go with ours, are told."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import pytest

SCRIPT = Path(__file__).parents[3] / "deploy" / "licences.py"


def script() -> Any:
    spec = importlib.util.spec_from_file_location("licences", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize(
    ("name", "licences", "expected"),
    [
        ("a", [{"license": {"id": "MIT"}}], "MIT"),
        ("a", [{"expression": "Apache-2.0 OR GPL-3.0-only"}], "Apache-2.0 OR GPL-3.0-only"),
        ("a", [{"license": {"name": "License :: OSI Approved :: BSD License"}}], "BSD-3-Clause"),
        ("orjson", [{"expression": "MPL-2.0 AND (Apache-2.0 OR MIT)"}], "MPL-2.0 AND (Apache-2.0 OR MIT)"),
        ("protobuf", [], "BSD-3-Clause"),
    ],
)
def test_those_that_may_be_here(name: str, licences: list[Any], expected: str) -> None:
    module = script()
    found = module.licence_of({"name": name, "licenses": licences})

    assert (found, module.problem(name, found)) == (expected, "")


@pytest.mark.parametrize(
    "licences",
    [
        [],
        [{"license": {"id": "GPL-3.0-only"}}],
        [{"license": {"id": "AGPL-3.0-or-later"}}],
        [{"license": {"name": "Proprietary"}}],
        [{"expression": "MIT AND LGPL-2.1-only"}],
        [{"license": {"id": "MPL-2.0"}}],
        [{"license": {"name": "License :: OSI Approved :: GNU General Public License (GPL)"}}],
    ],
)
def test_those_that_may_not(licences: list[Any]) -> None:
    module = script()

    assert module.problem("a", module.licence_of({"name": "a", "licenses": licences}))
