# SPDX-License-Identifier: Apache-2.0
"""Whose a certificate is."""

from __future__ import annotations

from typing import Any

import pytest

from ovms_mp.tls.names import name_of

COMMON = ((("organizationName", "Org"),), (("commonName", "alice"),))


@pytest.mark.parametrize(
    ("certificate", "name"),
    [
        (None, ""),
        ({}, ""),
        ({"subject": COMMON, "subjectAltName": (("DNS", "a.example"),)}, "alice"),
        ({"subject": (), "subjectAltName": (("URI", "spiffe://a/b"), ("DNS", "x"))}, "spiffe://a/b"),
        ({"subject": ((("commonName", ""),),)}, ""),
        ({"subject": ((("commonName", "x" * 300),),)}, "x" * 200),
    ],
)
def test_name(certificate: dict[str, Any] | None, name: str) -> None:
    assert name_of(certificate) == name
