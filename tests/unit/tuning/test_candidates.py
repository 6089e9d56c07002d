# SPDX-License-Identifier: Apache-2.0
"""Which settings are tried, how they are written, and what best means."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from ovms_mp.bench.figures import Level
from ovms_mp.errors import ConfigError
from ovms_mp.tuning.candidates import (
    NOTHING,
    Candidate,
    command_text,
    entry_text,
    first_candidates,
    neighbours,
)
from ovms_mp.tuning.target import parse_target
from ovms_mp.tuning.trials import most_loaded


def test_the_grid_of_two_cores() -> None:
    found = first_candidates(2, "CPU", {})

    assert found[0] == NOTHING
    assert set(found) == {
        NOTHING,
        Candidate(hint="LATENCY"),
        Candidate(hint="THROUGHPUT"),
        Candidate(streams=1),
        Candidate(streams=2),
        Candidate(workers=2),
    }


def test_the_grid_grows_slowly_with_the_cores() -> None:
    found = first_candidates(64, "CPU", {})

    assert len(found) < 40
    assert max(candidate.workers for candidate in found) == 8
    assert max(candidate.streams for candidate in found) == 64
    assert all(candidate.workers * candidate.streams <= 64 for candidate in found)


def test_other_devices_have_one_worker() -> None:
    assert {candidate.workers for candidate in first_candidates(8, "GPU", {})} == {1}


def test_what_the_user_has_fixed_is_not_varied() -> None:
    given = {"plugin_config": {"NUM_STREAMS": "2"}, "nireq": 3}

    assert first_candidates(2, "CPU", given) == [NOTHING, Candidate(workers=2)]
    assert all(not one.nireq and not one.streams for one in neighbours(Candidate(workers=2), 2, given))


def test_neighbours_differ_in_one_setting() -> None:
    best = Candidate(streams=4)

    for other in neighbours(best, 8, {}):
        assert other != best
        changed = [
            name
            for name in ("workers", "hint", "streams", "nireq", "batching")
            if getattr(other, name) != getattr(best, name)
        ]
        assert len(changed) == 1


def test_a_setting_is_written_as_it_is_pasted() -> None:
    candidate = Candidate(streams=2, nireq=4, workers=2)

    entry = json.loads(entry_text(candidate, "m", "/models/m", {"batch_size": "4"}))
    assert entry == {
        "config": {
            "name": "m",
            "base_path": "/models/m",
            "batch_size": "4",
            "plugin_config": {"NUM_STREAMS": "2"},
            "nireq": 4,
        }
    }
    assert command_text(candidate, "m", "/models/m", {}) == (
        'ovms_mp model --model_name m --model_path /models/m --plugin_config \'{"NUM_STREAMS": "2"}\' --nireq 4 '
        "--cpu_workers 2"
    )
    assert candidate.text() == "NUM_STREAMS 2, nireq 4, cpu_workers 2"
    assert NOTHING.text() == "nothing set"


LEVEL = Level(seconds=1.0, answered=100, rate_per_s=100.0, latency_ms={"p50": 2.0, "p99": 40.0})


def test_scores() -> None:
    assert parse_target("throughput", 2).score(LEVEL) == 100.0
    assert parse_target("latency", 2).score(LEVEL) == 0.5
    limited = parse_target("p99:50ms@100/s", 2)
    assert limited.score(LEVEL) == 1 / 40
    assert limited.is_met(1 / 40)
    assert not limited.is_met(1 / 60)
    assert limited.shown(1 / 40) == "40.00 ms"
    assert limited.least_seconds() == 1.0


def test_failures_are_no_throughput() -> None:
    failing = Level(
        seconds=1.0, answered=100, rate_per_s=100.0, latency_ms={"p50": 2.0}, errors={"UNAVAILABLE": 2}
    )

    assert parse_target("throughput", 2).score(failing) == 0.0


def test_targets() -> None:
    assert parse_target("throughput", 2).in_flight == 16
    assert parse_target("throughput", 16).in_flight == 64
    assert parse_target("throughput@3", 2).in_flight == 3
    assert parse_target("p99:1.5ms@0.5", 2).rate_per_s == 0.5


@pytest.mark.parametrize(
    "text", ["", "fast", "throughput@0", "p99:50ms", "p99:0ms@1/s", "p99:1ms@0/s", "latency@2"]
)
def test_targets_that_are_none(text: str) -> None:
    with pytest.raises(ConfigError, match="--target"):
        parse_target(text, 2)


def test_as_many_are_loaded_as_memory_allows(tmp_path: Path) -> None:
    (tmp_path / "1").mkdir()
    (tmp_path / "1" / "model.bin").write_bytes(bytes(1 << 20))
    (tmp_path / "1" / "model.xml").write_text("x" * 9)

    assert most_loaded(tmp_path, 2, "MemAvailable:  120000 kB\n") == 9
    assert most_loaded(tmp_path / "1" / "model.bin", 2, "MemAvailable:  10 kB\n") == 1
