# SPDX-License-Identifier: Apache-2.0
"""What a fleet's file says, and what is said of one that is wrong."""

from __future__ import annotations

from pathlib import Path

import pytest

from ovms_mp.errors import ConfigError
from ovms_mp.fleet.file import Fleet, read_fleet

MODEL = '[[models]]\nname = "m"\nbase_path = "models/m"\n'


def read(text: str) -> Fleet:
    return read_fleet(text, Path("/srv"))


def test_little_is_needed() -> None:
    fleet = read(MODEL)
    (model,) = fleet.specification.models

    assert (fleet.name, fleet.entry.port, fleet.entry.machines) == ("fleet", 8000, "head")
    assert (fleet.specification.servers_min, fleet.specification.servers_max) == (1, 1)
    assert model.settings == {"name": "m", "base_path": "/srv/models/m"}
    assert (model.copies, model.memory_bytes) == (None, 0)


def test_everything_is_read() -> None:
    fleet = read(
        'name = "vision"\n[entry]\nport = 9\nmachines = "all"\n[servers]\nmin = 2\nmax = 5\ncores = 4\n'
        'flags = ["--cpu_workers", "2"]\nmemory_mb = 3\n[scaling]\nutilisation = 0.5\n[update]\nsurge = 2\n'
        '[deadlines]\ndrain_s = 7\n[[models]]\nname = "m"\nbase_path = "s3://b/m"\n'
        "copies = 1\nmemory_mb = 2\nnireq = 4\n"
    )
    given = fleet.specification

    assert (fleet.name, fleet.entry.port, fleet.entry.machines, fleet.slots) == ("vision", 9, "all", 16)
    assert (given.servers_min, given.servers_max, given.server.memory_bytes) == (2, 5, 3 << 20)
    assert (given.scaling.utilisation, given.update.surge, given.deadlines.drain_s) == (0.5, 2, 7)
    assert (given.server.settings.flags, given.server.settings.cores) == (("--cpu_workers", "2"), 4)
    assert given.server.drain_s == 7
    assert given.models[0].settings == {"name": "m", "base_path": "s3://b/m", "nireq": 4}
    assert (given.models[0].copies, given.models[0].memory_bytes) == (1, 2 << 20)


def test_a_revision_changes_with_what_it_names_and_with_nothing_else() -> None:
    before = read(MODEL).specification
    scaled = read(f"[servers]\nmax = 3\n{MODEL}").specification
    flagged = read(f'[servers]\nflags = ["--cpu_workers", "2"]\n{MODEL}').specification
    remodelled = read(f"{MODEL}nireq = 4\n").specification

    assert before.server.revision == scaled.server.revision == remodelled.server.revision
    assert flagged.server.revision != before.server.revision
    assert flagged.models == before.models
    assert remodelled.models[0].revision != before.models[0].revision


def test_where_updates_are_consistent_another_model_needs_other_servers() -> None:
    rule = "[update]\nis_consistent = true\n"

    assert read(rule + MODEL).specification.server != read(f"{rule}{MODEL}nireq = 4\n").specification.server


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "models"),
        ("models = ", "Invalid value"),
        (f"[server]\n{MODEL}", "server"),
        (f"[servers]\ncore = 1\n{MODEL}", "core"),
        (f"[servers]\nmin = 0\n{MODEL}", "min"),
        (f"[servers]\nmin = 3\nmax = 2\n{MODEL}", "max 2 is less than min 3"),
        (f"[servers]\nmax = 501\n{MODEL}", "max"),
        (f"[scaling]\nutilization = 1\n{MODEL}", "unknown field `utilization` - at `$.scaling`"),
        (f"[scaling]\nutilisation = 0\n{MODEL}", "> 0.0 - at `$.scaling.utilisation`"),
        (f"[deadlines]\ndrain_s = -1\n{MODEL}", ">= 0.0 - at `$.deadlines.drain_s`"),
        (f"[entry]\nslots = 1\n{MODEL}", "slots"),
        (f'[servers]\nflags = ["--port", "1"]\n{MODEL}', "--port is the fleet's own"),
        (f'[servers]\nflags = ["--no_such"]\n{MODEL}', "--no_such is unknown"),
        (f"{MODEL}base_pth = 1\n", "base_pth is unknown"),
        (f"{MODEL}copies = -1\n", "copies"),
        (MODEL + MODEL, "the same name"),
        ('[[models]]\nname = "m"\n', "model 'm': Object missing required field `base_path`"),
        ('[[models]]\nbase_path = "m"\n', "missing required field `name`"),
        (f'name = "a b"\n{MODEL}', "name"),
    ],
)
def test_what_is_wrong_is_named(text: str, words: str) -> None:
    with pytest.raises(ConfigError) as refused:
        read(text)

    assert words in refused.value.message
