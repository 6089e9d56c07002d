# SPDX-License-Identifier: Apache-2.0
"""Whether the manager is to look at models and their configuration in this turn of its loop."""

from __future__ import annotations


class RescanRequest:
    """Whether a rescan is due in this turn of the loop, and whether a client asked for it.

    Separate from :class:`.rescans.Rescans`, as the parts which that one needs request rescans as well.
    """

    def __init__(self) -> None:
        """The first look is due at once."""
        self.is_due = True
        self._is_asked = False

    def ask(self) -> None:
        """Request a rescan in this turn."""
        self.is_due = True

    def look_now(self) -> None:
        """Request a rescan for a client, whatever the settings say."""
        self._is_asked = self.is_due = True

    def drop(self) -> None:
        """Drop the request: the server is stopping."""
        self.is_due = False

    def take(self) -> bool:
        """Begin the rescan; whether a client asked for it."""
        is_asked = self._is_asked
        self.is_due = self._is_asked = False
        return is_asked
