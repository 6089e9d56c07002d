# SPDX-License-Identifier: Apache-2.0
"""The licences of all that the image installs, from its bill of materials: written to LICENCES.md, or compared with it.

A licence that is not among those that may be combined with ours, or that is not known, is an error; so is a list that
is not up to date. ``.ci/supply`` makes the bill of materials. Usage: ``python deploy/licences.py SBOM.json [--check]``
"""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from typing import Any

LIST = Path(__file__).with_name("LICENCES.md")
PERMISSIVE = frozenset(
    (
        "0BSD", "Apache-2.0", "BSD-2-Clause", "BSD-3-Clause", "CC0-1.0", "ISC", "MIT", "MIT-0", "PSF-2.0", "Zlib",
    )
)  # fmt: skip
CLASSIFIERS = {
    "License :: OSI Approved :: Apache Software License": "Apache-2.0",
    "License :: OSI Approved :: BSD License": "BSD-3-Clause",
    "License :: OSI Approved :: MIT License": "MIT",
    "License :: OSI Approved :: Mozilla Public License 2.0 (MPL 2.0)": "MPL-2.0",
}
SAID_ELSEWHERE = {"protobuf": "BSD-3-Clause", "pysimdjson": "MIT"}
"""Packages whose metadata have no licence; their files have it."""
EXCEPTIONS = {
    "certifi": "MPL-2.0",
    "orjson": "MPL-2.0",
}
"""Copyleft for the package's own files only, which are used as they are."""

_HEAD = """\
# Licences

Of what the image installs besides Python itself. Written by `deploy/licences.py` from the bill of materials that
`.ci/supply` makes; CI refuses licences that are unknown or do not go with Apache-2.0.

| package | version | licence |
|---|---|---|
"""


def licence_of(component: dict[str, Any]) -> str:
    """The licence of a package as an SPDX expression, or what is said instead of it; empty where nothing is."""
    found = []
    for entry in component.get("licenses", ()):
        licence = entry.get("license", {})
        found.append(entry.get("expression") or licence.get("id") or licence.get("name") or "")
    expressions = [name for name in found if not name.startswith("License ::")]
    if expressions:
        return " AND ".join(dict.fromkeys(expressions))
    classified = dict.fromkeys(CLASSIFIERS.get(name, name) for name in found)
    return " OR ".join(classified) or SAID_ELSEWHERE.get(component["name"], "")


def problem(name: str, licence: str) -> str:
    """Why a package may not be here; empty if it may."""
    if not licence:
        return f"{name}: its licence is not known"
    for needed in re.split(r" AND ", licence.replace("(", "").replace(")", "")):
        choices = needed.split(" OR ")
        if not any(choice in PERMISSIVE or EXCEPTIONS.get(name) == choice for choice in choices):
            return f"{name}: {licence} is not among those that may be here"
    return ""


def main() -> int:
    """Write or compare."""
    bill = json.loads(Path(sys.argv[1]).read_text())
    packages = sorted(
        (component["name"].lower().replace("_", "-"), component["version"], licence_of(component))
        for component in bill["components"]
        if component["name"] != "ovms_mp"
    )
    problems = [text for name, _, licence in packages if (text := problem(name, licence))]
    text = _HEAD + "".join(f"| {name} | {version} | {licence} |\n" for name, version, licence in packages)
    if not packages:
        problems.append(f"{sys.argv[1]} names no packages")
    if "--check" not in sys.argv:
        LIST.write_text(text)
    elif LIST.read_text() != text:
        problems.append(f"{LIST} is not up to date: run .ci/supply --write")
    sys.stderr.write("".join(f"{text}\n" for text in problems))
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
