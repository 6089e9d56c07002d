# SPDX-License-Identifier: Apache-2.0
"""The families that OVMS does not have: name, kind, labels and meaning. METRICS.md's table is derived from this."""

from __future__ import annotations

from typing import NamedTuple


class OwnMetric(NamedTuple):
    """One family.

    Attributes:
        kind: As Prometheus calls it.
        labels: Of its samples.
        help: One sentence.
    """

    kind: str
    labels: str
    help: str


STAGE_SECONDS = "ovms_mp_stage_seconds"
REQUEST_BYTES = "ovms_mp_request_bytes_total"
RESPONSE_BYTES = "ovms_mp_response_bytes_total"
FAILURES = "ovms_mp_failures_total"
STARTED = "ovms_mp_inferences_started_total"
EXPIRED = "ovms_mp_expired_before_inference_total"
CANCELLED = "ovms_mp_cancelled_before_inference_total"
BATCHES = "ovms_mp_batches_total"
BATCH_ITEMS = "ovms_mp_batch_items_total"
COMPANY = "ovms_mp_inferences_at_once"
TOGETHER = "ovms_mp_requests_per_inference"
VERSION_STATE = "ovms_mp_version_state"
LIMITS = "ovms_mp_limit_hits_total"
ARENA_BYTES = "ovms_mp_arena_bytes"
ARENA_USED = "ovms_mp_arena_used_bytes"
ARENA_MOST = "ovms_mp_arena_high_water_bytes"
ARENA_LEASES = "ovms_mp_arena_leases"
LOOP_LAG = "ovms_mp_event_loop_lag_seconds"
LONGEST_LOOP_LAG = "ovms_mp_event_loop_longest_lag_seconds"
CHILD_ENDS = "ovms_mp_child_deaths_total"
LOAD_SECONDS = "ovms_mp_load_seconds"
LOAD_FAILURES = "ovms_mp_load_failures_total"
FETCHES = "ovms_mp_store_fetches_total"
FETCHED_BYTES = "ovms_mp_store_fetched_bytes_total"
CPU_PERIODS = "ovms_mp_cpu_periods_total"
CPU_THROTTLED_PERIODS = "ovms_mp_cpu_throttled_periods_total"
CPU_THROTTLED = "ovms_mp_cpu_throttled_seconds_total"
PROCESSES = "ovms_mp_processes"
BUILD_INFO = "ovms_mp_build_info"
PROCESS_CPU = "process_cpu_seconds_total"
PROCESS_MEMORY = "process_resident_memory_bytes"
PROCESS_DESCRIPTORS = "process_open_fds"
PROCESS_START = "process_start_time_seconds"

_COUNTER, _GAUGE, _HISTOGRAM = "counter", "gauge", "histogram"
_VERSION = "name, version"

OWN: dict[str, OwnMetric] = {
    STAGE_SECONDS: OwnMetric(
        _HISTOGRAM,
        f"{_VERSION}, stage",
        "Time of answered inference requests by stage: receive, decode, queue, infer, handover, encode, send.",
    ),
    REQUEST_BYTES: OwnMetric(
        _COUNTER,
        _VERSION,
        "Octets of requests as they were received; without a name, of calls about no version.",
    ),
    RESPONSE_BYTES: OwnMetric(
        _COUNTER, _VERSION, "Octets of answers before compression; without a name, of calls about no version."
    ),
    FAILURES: OwnMetric(
        _COUNTER,
        f"{_VERSION}, reason",
        "Calls that were refused or failed, by what clients were told; without a name, before a version was found.",
    ),
    STARTED: OwnMetric(_COUNTER, _VERSION, "Inferences that were run; counted at their ends."),
    EXPIRED: OwnMetric(_COUNTER, _VERSION, "Requests whose deadline passed before their inference began."),
    CANCELLED: OwnMetric(_COUNTER, _VERSION, "Requests whose client went away before their inference began."),
    BATCHES: OwnMetric(
        _COUNTER,
        f"{_VERSION}, batch",
        "Answered requests by batch size, the first dimension of the first input; of many sizes, some are in other.",
    ),
    BATCH_ITEMS: OwnMetric(_COUNTER, _VERSION, "Answered requests, each as often as its batch size says."),
    COMPANY: OwnMetric(
        _HISTOGRAM, _VERSION, "How many inferences of the version a worker ran at once, with each."
    ),
    TOGETHER: OwnMetric(_HISTOGRAM, _VERSION, "How many requests an inference ran together (batching)."),
    VERSION_STATE: OwnMetric(
        _GAUGE,
        f"{_VERSION}, state",
        "1 with the version's state: start, loading, available, unloading, end, or failed.",
    ),
    LIMITS: OwnMetric(
        _COUNTER,
        "interface, limit",
        "How often connections were refused, reset or closed for passing a limit.",
    ),
    ARENA_BYTES: OwnMetric(_GAUGE, "arena", "Shared memory for tensors that a front may use."),
    ARENA_USED: OwnMetric(_GAUGE, "arena", "Shared memory that requests hold."),
    ARENA_MOST: OwnMetric(
        _GAUGE, "arena", "End of the highest range that requests have held since the front's start."
    ),
    ARENA_LEASES: OwnMetric(_GAUGE, "arena", "Ranges of shared memory that requests hold."),
    LOOP_LAG: OwnMetric(_GAUGE, "kind, row", "By how much the event loop was late at its last look."),
    LONGEST_LOOP_LAG: OwnMetric(
        _GAUGE, "kind, row", "By how much it was late at most, in the last half minute or minute."
    ),
    CHILD_ENDS: OwnMetric(
        _COUNTER,
        "kind, cause",
        "Processes that died and were replaced; by a signal, an exit code, killed by the manager, or before ready.",
    ),
    LOAD_SECONDS: OwnMetric(
        _HISTOGRAM,
        "phase",
        "Time of what versions go through before they serve: fetch, trial, load, first_run.",
    ),
    LOAD_FAILURES: OwnMetric(_COUNTER, "reason", "Versions that could not be loaded, each try."),
    FETCHES: OwnMetric(
        _COUNTER, "result", "Looks at object stores, with what they downloaded: success or failure."
    ),
    FETCHED_BYTES: OwnMetric(_COUNTER, "", "Octets that were downloaded from object stores."),
    CPU_PERIODS: OwnMetric(
        _COUNTER, "", "Periods in which the cgroup's CPU quota was enforced; none without a quota."
    ),
    CPU_THROTTLED_PERIODS: OwnMetric(_COUNTER, "", "Periods in which the CPU quota held the cgroup up."),
    CPU_THROTTLED: OwnMetric(_COUNTER, "", "For how long the CPU quota has held threads of the cgroup up."),
    PROCESSES: OwnMetric(_GAUGE, "kind", "Processes of the server that live."),
    BUILD_INFO: OwnMetric(
        _GAUGE, "openvino, python, version", "1 with the server's version and what it runs on."
    ),
    PROCESS_CPU: OwnMetric(
        _COUNTER, "kind", "CPU time of the processes of a kind, with those that have ended."
    ),
    PROCESS_MEMORY: OwnMetric(
        _GAUGE,
        "kind",
        "Resident memory of the processes of a kind; shared memory is in it once for each process.",
    ),
    PROCESS_DESCRIPTORS: OwnMetric(_GAUGE, "kind", "Open file descriptors of the processes of a kind."),
    PROCESS_START: OwnMetric(
        _GAUGE, "kind", "When the youngest process of a kind was started, in Unix time."
    ),
}
OWN_METRICS = tuple(OWN)
