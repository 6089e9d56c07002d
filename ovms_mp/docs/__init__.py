# SPDX-License-Identifier: Apache-2.0
"""The documentation for users: Markdown pages, for the terminal (``ovms_mp help``) and for the server's ``/docs/``.

Links between pages are relative, so that they work wherever the pages are read; those that leave this directory lead
into the repository.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

DIRECTORY = Path(__file__).parent


class Group(enum.StrEnum):
    """What readers come for, in the order in which pages are listed."""

    START = "Start here"
    HOW_TO = "How to"
    REFERENCE = "Reference"
    EXPLANATION = "Explanation"


@dataclass(frozen=True, slots=True)
class Page:
    """A page.

    Attributes:
        file: Its name in this directory.
        about: What it is for, in a line.
        group: Where it is listed.
    """

    file: str
    about: str
    group: Group

    def text(self) -> str:
        """Its Markdown."""
        return (DIRECTORY / self.file).read_text("utf-8")


PAGES: Mapping[str, Page] = MappingProxyType(
    {
        "tutorial": Page(
            "TUTORIAL.md",
            "a quarter of an hour: demo, a model of your own, the page, a client, a service",
            Group.START,
        ),
        "how-to": Page(
            "HOW_TO.md", "short answers, each to one question, and the list of all pages", Group.START
        ),
        "from-ovms": Page("FROM_OVMS.md", "moving from OpenVINO Model Server of 2020 to 2026", Group.HOW_TO),
        "from-triton": Page("FROM_TRITON.md", "moving from Triton Inference Server", Group.HOW_TO),
        "from-tf-serving": Page("FROM_TF_SERVING.md", "moving from TensorFlow Serving", Group.HOW_TO),
        "from-kserve": Page("FROM_KSERVE.md", "moving from another runtime of KServe", Group.HOW_TO),
        "models": Page(
            "MODELS.md", "formats, PyTorch, directories, names and shapes of a model of yours", Group.HOW_TO
        ),
        "images": Page("IMAGES.md", "models that take pictures: JPEG and PNG as inputs", Group.HOW_TO),
        "strings": Page("STRINGS.md", "models that take text, and tokenizers", Group.HOW_TO),
        "devices": Page("DEVICES.md", "GPU, NPU, and OpenVINO's choice among them (AUTO)", Group.HOW_TO),
        "many-models": Page(
            "MANY_MODELS.md", "several models in one server: adding, sharing, loading", Group.HOW_TO
        ),
        "tuning": Page("TUNING.md", "measure a model, and find its best settings", Group.HOW_TO),
        "systemd": Page("SYSTEMD.md", "a service that starts with the machine", Group.HOW_TO),
        "containers": Page("CONTAINERS.md", "the container image, Docker, Compose", Group.HOW_TO),
        "kubernetes": Page("KUBERNETES.md", "KServe's runtime, or a Deployment without it", Group.HOW_TO),
        "fleet": Page(
            "FLEET.md", "servers on several machines behind one address, by Ray and HAProxy", Group.HOW_TO
        ),
        "fleet-or-kserve": Page(
            "FLEET_OR_KSERVE.md", "more than one machine: which of the two ways to take", Group.HOW_TO
        ),
        "object-stores": Page(
            "OBJECT_STORES.md", "models in S3, Google Cloud Storage and Azure Storage", Group.HOW_TO
        ),
        "monitoring": Page("MONITORING.md", "Prometheus, alerts, logs, traces", Group.HOW_TO),
        "security": Page("SECURITY.md", "TLS, API keys, who may change what", Group.HOW_TO),
        "troubleshooting": Page(
            "TROUBLESHOOTING.md", "when something does not work: what you see, why, what to do", Group.HOW_TO
        ),
        "operating": Page(
            "OPERATING.md", "what the server does with models, versions, load", Group.REFERENCE
        ),
        "settings": Page("SETTINGS.md", "every flag and every key of a configuration file", Group.REFERENCE),
        "client": Page("CLIENT.md", "the Python client: URLs, arrays, deadlines, asyncio", Group.REFERENCE),
        "shared-memory": Page(
            "SHARED_MEMORY.md", "tensors in memory that client and server share", Group.REFERENCE
        ),
        "errors": Page("ERRORS.md", "codes, HTTP statuses, exit codes, with what to do", Group.REFERENCE),
        "metrics": Page("METRICS.md", "every metric with its labels", Group.REFERENCE),
        "explanation": Page(
            "EXPLANATION.md",
            "the processes, why memory cannot leak, how a version changes",
            Group.EXPLANATION,
        ),
    }
)
"""By topic, in the order to read them within their groups. A new page is a file and a line here: navigation,
``ovms_mp help`` and the table of HOW_TO.md (``python -m tests.support.write_tables``) are made from it."""


def grouped_pages() -> Iterator[tuple[Group, Mapping[str, Page]]]:
    """The groups with their pages by topic."""
    for group in Group:
        yield group, {topic: page for topic, page in PAGES.items() if page.group is group}
