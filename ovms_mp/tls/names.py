# SPDX-License-Identifier: Apache-2.0
"""Whose a certificate is."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

_MOST_CHARACTERS = 200


def name_of(certificate: Mapping[str, Any] | None) -> str:
    """The owner's name: the subject's common name, or else the first alternative name; empty without a certificate.

    Args:
        certificate: As :meth:`ssl.SSLObject.getpeercert` decodes one that was verified.
    """
    if not certificate:
        return ""
    for names in certificate.get("subject", ()):
        for kind, value in names:
            if kind == "commonName" and value:
                return str(value)[:_MOST_CHARACTERS]
    for _, value in certificate.get("subjectAltName", ()):
        return str(value)[:_MOST_CHARACTERS]
    return ""
