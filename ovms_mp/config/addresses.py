# SPDX-License-Identifier: Apache-2.0
"""The addresses that a server listens on, as settings have them."""

from __future__ import annotations


def split_addresses(text: str) -> tuple[str, ...]:
    """The addresses of a comma-separated setting."""
    return tuple(part.strip() for part in text.split(",") if part.strip())
