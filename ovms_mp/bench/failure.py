# SPDX-License-Identifier: Apache-2.0
"""Why ``bench`` or ``tune`` has nothing to show."""

from __future__ import annotations


class NoMeasurement(Exception):
    """No server, another protocol, a model that does not answer: exit code 3.

    Attributes:
        message: One sentence for people.
    """

    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.message = message
