# SPDX-License-Identifier: Apache-2.0
"""The documentation for users: Markdown pages, for the terminal (``ovms_mp help``) and for the server's ``/docs/``.

Links between pages are relative, so that they work wherever the pages are read; those that leave this directory lead
into the repository.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

DIRECTORY = Path(__file__).parent


@dataclass(frozen=True, slots=True)
class Page:
    """A page.

    Attributes:
        file: Its name in this directory.
        about: What it is for, in a line.
    """

    file: str
    about: str

    def text(self) -> str:
        """Its Markdown."""
        return (DIRECTORY / self.file).read_text("utf-8")


PAGES: Mapping[str, Page] = MappingProxyType(
    {
        "tutorial": Page(
            "TUTORIAL.md", "ten minutes: the demo, a model of your own, a client, a new version, metrics"
        ),
        "how-to": Page("HOW_TO.md", "short answers, each to one question"),
        "coming-from": Page("COMING_FROM.md", "what changes for users of OVMS, Triton and KServe"),
        "deploying": Page("DEPLOYING.md", "systemd, containers, object stores, Kubernetes"),
        "fleet": Page("FLEET.md", "servers on several machines behind one address, by Ray and HAProxy"),
        "fleet-or-kserve": Page("FLEET_OR_KSERVE.md", "more than one machine: which of the two ways to take"),
        "operating": Page("OPERATING.md", "models, versions, TLS, keys, limits, logs, metrics, traces"),
        "client": Page("CLIENT.md", "the Python client: URLs, arrays, deadlines, errors, asyncio"),
        "shared-memory": Page("SHARED_MEMORY.md", "tensors in memory that client and server share"),
        "explanation": Page("EXPLANATION.md", "the processes, why memory cannot leak, how a version changes"),
        "settings": Page("SETTINGS.md", "every flag and every key of a configuration file"),
        "errors": Page("ERRORS.md", "codes, HTTP statuses and exit codes, with what to do"),
        "metrics": Page("METRICS.md", "every metric with its labels"),
    }
)
"""By topic, in the order to read them."""
