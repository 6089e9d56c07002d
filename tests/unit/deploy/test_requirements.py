# SPDX-License-Identifier: Apache-2.0
"""The image installs what the package needs, in the versions that CI tests with, and nothing without a hash."""

from __future__ import annotations

import configparser
import re
from pathlib import Path

from ovms_mp import __version__

ROOT = Path(__file__).parents[3]
DOCKER = ROOT / "deploy" / "docker"
REFRESH = "run deploy/docker/lock"


def pins(path: Path) -> dict[str, str]:
    """Versions by normalized name (PEP 503)."""
    found = re.findall(r"^([\w.-]+)==([^\s;]+)", path.read_text(), re.MULTILINE)
    return {re.sub(r"[-_.]+", "-", name).lower(): version for name, version in found}


def test_the_image_has_the_versions_that_are_tested() -> None:
    tested = pins(ROOT / "deploy" / "constraints.txt")
    installed = pins(DOCKER / "requirements.txt")
    assert installed
    assert {name: tested.get(name) for name in installed} == installed, REFRESH


def test_the_image_has_everything_that_the_package_needs() -> None:
    setup = configparser.ConfigParser()
    setup.read(ROOT / "setup.cfg")
    needed = re.findall(r"^([\w.-]+)", setup["options"]["install_requires"], re.MULTILINE)
    assert needed
    installed = pins(DOCKER / "requirements.txt")
    assert not [name for name in needed if re.sub(r"[-_.]+", "-", name).lower() not in installed], REFRESH


def test_every_requirement_of_the_image_has_a_hash() -> None:
    for name in ("requirements.txt", "build-requirements.txt"):
        lines = (DOCKER / name).read_text().replace("\\\n", " ").splitlines()
        requirements = [line for line in lines if not line.startswith("#")]
        assert requirements
        assert not [line for line in requirements if "--hash=sha256:" not in line], name


def test_the_image_is_labelled_with_this_version() -> None:
    assert f"\nARG VERSION={__version__}\n" in (DOCKER / "Dockerfile").read_text()
