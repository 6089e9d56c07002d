# SPDX-License-Identifier: Apache-2.0
"""The image and CI install what the package needs, in the same versions, and nothing without a hash."""

from __future__ import annotations

import configparser
import re
from pathlib import Path

import pytest

from ovms_mp import __version__

ROOT = Path(__file__).parents[3]
DOCKER = ROOT / "deploy" / "docker"
LOCKS = ROOT / "deploy" / "locks"
SUPPORT = ROOT / "tests" / "support"
HASHED = [
    DOCKER / "requirements.txt",
    DOCKER / "build-requirements.txt",
    *sorted(LOCKS.glob("*.txt")),
    SUPPORT / "clients" / "requirements.txt",
    SUPPORT / "emulators" / "requirements.txt",
    SUPPORT / "schemathesis" / "requirements.txt",
]
REFRESH = "run deploy/lock"


def pins(path: Path) -> dict[str, str]:
    """Versions by normalized name (PEP 503)."""
    found = re.findall(r"^([\w.-]+)==([^\s;]+)", path.read_text(), re.MULTILINE)
    return {re.sub(r"[-_.]+", "-", name).lower(): version for name, version in found}


def needed(*extras: str) -> set[str]:
    """What setup.cfg asks for, with these extras and those that they name."""
    setup = configparser.ConfigParser()
    setup.read(ROOT / "setup.cfg")
    texts = [setup["options"]["install_requires"]]
    more = list(extras)
    while more:
        text = setup["options.extras_require"][more.pop()]
        texts.append(re.sub(r"^ovms_mp\[.*\n?", "", text, flags=re.MULTILINE))
        for names in re.findall(r"^ovms_mp\[(.*)\]", text, re.MULTILINE):
            more += [name.strip() for name in names.split(",")]
    return {
        re.sub(r"[-_.]+", "-", name).lower()
        for name in re.findall(r"^([\w.-]+)", "\n".join(texts), re.MULTILINE)
    }


@pytest.mark.parametrize(
    ("lock", "extras"),
    [
        (DOCKER / "requirements.txt", ["cloud"]),
        (LOCKS / "test.txt", ["test"]),
        (LOCKS / "unit.txt", ["unit"]),
    ],
    ids=["image", "test", "unit"],
)
def test_what_is_needed_is_locked_in_the_versions_that_are_tested(lock: Path, extras: list[str]) -> None:
    tested = pins(ROOT / "deploy" / "constraints.txt")
    locked = pins(lock)
    assert needed(*extras) - set(locked) == set(), REFRESH
    assert {name: tested.get(name, version) for name, version in locked.items()} == locked, REFRESH


def test_the_image_has_nothing_that_is_not_tested() -> None:
    assert set(pins(DOCKER / "requirements.txt")) <= set(pins(LOCKS / "test.txt")), REFRESH


@pytest.mark.parametrize("lock", HASHED, ids=lambda path: f"{path.parent.name}/{path.stem}")
def test_every_requirement_has_a_hash(lock: Path) -> None:
    lines = lock.read_text().replace("\\\n", " ").splitlines()
    requirements = [line for line in lines if not line.startswith("#")]
    assert requirements
    assert not [line for line in requirements if "--hash=sha256:" not in line]


def test_the_licences_are_of_what_the_image_installs() -> None:
    rows = re.findall(
        r"^\| ([\w.-]+) \| (\d[^ ]*) \|", (ROOT / "deploy" / "LICENCES.md").read_text(), re.MULTILINE
    )
    installed = pins(DOCKER / "requirements.txt")
    on_other_systems = installed.keys() - dict(rows).keys()
    assert {name: installed.get(name) for name, _ in rows} == dict(rows), "run .ci/supply --write"
    assert on_other_systems <= {"colorama", "pywin32"}


def test_the_image_is_labelled_with_this_version() -> None:
    assert f"\nARG VERSION={__version__}\n" in (DOCKER / "Dockerfile").read_text()
