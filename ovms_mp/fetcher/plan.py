# SPDX-License-Identifier: Apache-2.0
"""Which versions a listing holds, and which file each object becomes. Pure.

The rules are those of local directories (:mod:`ovms_mp.storage.local`). A name in a bucket is any text: what could not
be a file below its version, or would be in the way of another one, is left out and named.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import msgspec

from ovms_mp.model.formats import SAVED_MODEL, is_part_of, models_among, unfinished_text, version_number

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from ovms_mp.fetcher.store import StoredObject

MOST_FILES = 10_000
"""Files of a version; as many as the server looks at."""
_LONGEST_NAME = 255
_LONGEST_PATH = 1024
_MOST_PROBLEMS = 20
_LONGEST_SHOWN = 120


@dataclass(frozen=True, slots=True)
class PlannedVersion:
    """The files of one version, by name below its directory."""

    files: Mapping[str, StoredObject]

    @property
    def size(self) -> int:
        """In bytes."""
        return sum(found.size for found in self.files.values())

    def digest(self) -> str:
        """Changes with whatever of it changes in the store."""
        facts = sorted((name, found.size, found.tag) for name, found in self.files.items())
        return hashlib.sha256(msgspec.json.encode(facts)).hexdigest()


@dataclass(slots=True)
class Plan:
    """What a store holds.

    Attributes:
        versions: Those with a model.
        problems: What is odd, for people.
    """

    versions: dict[int, PlannedVersion] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)

    def note(self, text: str) -> None:
        """Add a problem, as long as there are not many."""
        if len(self.problems) < _MOST_PROBLEMS and text not in self.problems:
            self.problems.append(text)


def plan_versions(objects: Iterable[StoredObject]) -> Plan:
    """Sort a listing into versions."""
    plan = Plan()
    directories: dict[str, dict[str, StoredObject]] = {}
    top: dict[str, StoredObject] = {}
    for found in objects:
        directory, slash, name = found.name.partition("/")
        if slash and version_number(directory):
            _add(directories.setdefault(directory, {}), name, found, plan)
        else:
            _add(top, found.name, found, plan)
    for directory in sorted(directories, key=lambda name: (name != str(version_number(name)), name)):
        _take(directory, directories[directory], plan)
    if not directories:
        _take_flat(top, plan)
    return plan


def _add(files: dict[str, StoredObject], name: str, found: StoredObject, plan: Plan) -> None:
    if not name or name.endswith("/"):
        return  # What consoles make for a directory.
    if reason := _reason_against(name):
        plan.note(f"{_shown(found.name)} is left out: {reason}")
    elif not any(part.startswith(".") for part in name.split("/")):
        files[name] = found


def _reason_against(name: str) -> str:
    """Why an object cannot become a file of this relative name; empty where it can."""
    parts = name.split("/")
    if "" in parts:
        return "its name has an empty part"
    if "." in parts or ".." in parts:
        return "its name has `.` or `..`"
    if not name.isprintable():
        return "its name has a character that cannot be printed"
    if len(name.encode(errors="surrogatepass")) > _LONGEST_PATH:
        return f"its name is longer than {_LONGEST_PATH} bytes"
    if any(len(part.encode(errors="surrogatepass")) > _LONGEST_NAME for part in parts):
        return f"a part of its name is longer than {_LONGEST_NAME} bytes"
    return ""


def _take(directory: str, files: dict[str, StoredObject], plan: Plan) -> None:
    """Note the version that a directory is, or why it is none."""
    number = version_number(directory) or 0
    _leave_out_clashes(directory, files, plan)
    if number in plan.versions:
        plan.note(f"{directory} is version {number}, too, and is not served")
    elif len(files) > MOST_FILES:
        plan.note(f"{directory} is not served: it holds more than {MOST_FILES} files")
    elif models_among(name for name in files if "/" not in name):
        plan.versions[number] = PlannedVersion(files)
    elif files:
        plan.note(f"{directory} {unfinished_text(files)}")


def _take_flat(top: dict[str, StoredObject], plan: Plan) -> None:
    """Take a model that lies in the base path itself for version 1, when it is the only one."""
    _leave_out_clashes("the path", top, plan)
    models = models_among(name for name in top if "/" not in name)
    if len(models) == 1:
        (model,) = models
        files = {
            name: found
            for name, found in top.items()
            if model == SAVED_MODEL or ("/" not in name and is_part_of(model, name))
        }
        if len(files) > MOST_FILES:
            plan.note(f"the path holds more than {MOST_FILES} files; put the model into a directory named 1")
        else:
            plan.versions[1] = PlannedVersion(files)
    elif models:
        names = ", ".join(models[:3])
        plan.note(
            f"{names} lie in the path itself; give the URL of one, or put each into a directory named 1"
        )
    elif top:
        plan.note("holds no version to serve, e.g. 1/model.xml with 1/model.bin")
    else:
        plan.note("is empty, or does not exist; waiting for a version, e.g. 1/model.xml with 1/model.bin")


def _leave_out_clashes(directory: str, files: dict[str, StoredObject], plan: Plan) -> None:
    """A name may be an object and begin others at once; as files they cannot. What is below it is left out."""
    for name in list(files):
        parts = name.split("/")
        for depth in range(1, len(parts)):
            above = "/".join(parts[:depth])
            if above in files:
                plan.note(f"{directory}: {_shown(name)} is left out: {_shown(above)} is an object itself")
                del files[name]
                break


def _shown(name: str) -> str:
    text = ascii(name)[1:-1] if not name.isprintable() else name
    return text if len(text) <= _LONGEST_SHOWN else f"{text[:_LONGEST_SHOWN]}..."
