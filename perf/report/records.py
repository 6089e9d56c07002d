# SPDX-License-Identifier: Apache-2.0
"""The lines of a result file: JSON, one tagged record a line, the environment first.

``SCHEMA`` is raised whenever a field changes its meaning; :func:`perf.report.results.read_results` refuses any other
number, and any file that does not begin with an :class:`Environment`.
"""

from __future__ import annotations

import msgspec

SCHEMA = 1

SERVER = "server"
"""Subject of measurements of the server under test; every other subject is a floor's name."""


class Record(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True, tag_field="record"):
    """Base of all lines."""


class Environment(Record, frozen=True, tag="environment"):
    """Where and of what the figures are; without it a figure means nothing.

    Attributes:
        taken_at: UTC, ISO 8601.
        affinity: Cores that the harness, and so every child, may use.
        cpu_quota: The control group's ``cpu.max``, or "unreadable"; OpenVINO does not see it.
        governor: Frequency governor of core 0, or "unreadable" (usual in virtual machines).
        commit: "none" when the checkout has no commit.
        is_dirty: The checkout differs from ``commit``.
        load_average: One minute's, before the run; above about 0.5 somebody else was at work.
        packages: Version by distribution name.
        congestion_control: What the kernel gives to new TCP connections, on loopback, too, or "unreadable".
    """

    schema: int
    taken_at: str
    cpu_model: str
    cores: int
    affinity: tuple[int, ...]
    cpu_quota: str
    governor: str
    kernel: str
    python: str
    h2load: str
    commit: str
    is_dirty: bool
    load_average: float
    packages: dict[str, str]
    congestion_control: str = "unknown"  # Of results that are older than this field.


class Measurement(Record, frozen=True, tag="measurement"):
    """One subject under one timed load, once.

    Latencies are a closed loop's as the load generator saw them, not corrected for coordinated omission; None
    where a floor has no such figure.

    Attributes:
        subject: :data:`SERVER` or a floor's name.
        rate_per_s: Answered requests (floors without a client: operations) a second.
        unsuccessful: Requests that failed, or whose HTTP status was not 2xx.
        cpu_us: Processor time, user and system, for each request by process kind; "load" is the load
            generator.
        answer_bytes: Mean size of an answer's body; gRPC's five-byte prefix included.
    """

    scenario: str
    subject: str
    repeat: int
    seconds: float
    requests: int
    rate_per_s: float
    unsuccessful: int = 0
    mean_ms: float | None = None
    p50_ms: float | None = None
    p99_ms: float | None = None
    p999_ms: float | None = None
    cpu_us: dict[str, float] = {}
    answer_bytes: float | None = None


class Check(Record, frozen=True, tag="check"):
    """What the checking client saw while the scenario's load was running.

    Attributes:
        wrong: Answers with a good status and other content than expected.
        failed: Calls that ended with an error.
        answer_bytes: Size of the answer to the request that the timed load repeats, without gRPC's prefix;
            None: no answer.
        notes: The first few failures in words.
    """

    scenario: str
    right: int
    wrong: int
    failed: int
    p50_ms: float | None
    p99_ms: float | None
    answer_bytes: int | None
    notes: tuple[str, ...] = ()


class Footprint(Record, frozen=True, tag="footprint"):
    """The server's size after its load; shared pages count once in PSS and everywhere in RSS."""

    scenario: str
    start_s: float
    processes: dict[str, int]
    rss_bytes: dict[str, int]
    pss_bytes: dict[str, int]


class Problem(Record, frozen=True, tag="problem"):
    """Something that spoils the scenario; any makes the run's exit code 1."""

    scenario: str
    message: str


class Verdict(Record, frozen=True, tag="verdict"):
    """A target and what came of it.

    Attributes:
        measure: "rate_ratio" (server / floor, at least), "added_p50_ms" (server - floor, at most) or "p50_ratio"
            (server / floor, at most).
        value: Median over the repeats, each against the floor's figure of the same repeat; ``low`` and
            ``high`` are the extremes.
    """

    scenario: str
    floor: str
    measure: str
    limit: float
    value: float
    low: float
    high: float
    is_met: bool


AnyRecord = Environment | Measurement | Check | Footprint | Problem | Verdict
