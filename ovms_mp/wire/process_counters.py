# SPDX-License-Identifier: Apache-2.0
"""What a process counts of itself: words 128 to 447 of page 0 of its row (:mod:`ovms_mp.wire.counters`).

::

    of fronts:                                       of the manager:
    128: when they were last written                 128 to 175: of 8 kinds of processes, 6 words each
    129 to 132: arena: size, leased, leases, most    176 to 191: fetches, cgroup
    133, 134: lag of the event loop: last, longest   192 to 255: ends of children, by kind and cause
    135, 136: octets of requests, of answers         256 to 319: phases of loads, as stages of requests
    137, 138: expired, cancelled before inference    320 to 383: failures of loads, by the class of the error
    144 to 207: failures, by the class of the error
    208 to 239: limits hit over gRPC
    240 to 255: clients refused over REST

What fronts count here is of calls about no version. Gauges are as old as word 128 says; a front that has ended leaves
its row as it was, so nobody shows gauges that are older than a front's life lets them become.
"""

from __future__ import annotations

import enum
from typing import TYPE_CHECKING

from ovms_mp.wire.counters import PROCESS_PAGE
from ovms_mp.wire.stage_counters import BOUND_BITS, STAGE_WORDS

if TYPE_CHECKING:
    from ovms_mp.wire.counters import CounterRow

(
    WRITTEN_NS,
    ARENA_BYTES,
    LEASED_BYTES,
    LEASES,
    MOST_LEASED_BYTES,
    LAG_NS,
    LONGEST_LAG_NS,
    RECEIVED_BYTES,
    SENT_BYTES,
    INTERFACE,
) = range(128, 138)
FAILURES, LIMITS, REFUSALS = 144, 208, 240
MOST_LIMITS, MOST_REFUSALS = REFUSALS - LIMITS, 16

INTERFACES = ("", "gRPC", "REST")
"""By the number in INTERFACE."""
REST_REFUSALS = (
    "turned_away",
    "idle_closed",
    "idle",
    "head_late",
    "body_late",
    "answer_unread",
    "answer_memory",
    "http_400",
    "http_408",
    "http_413",
    "http_414",
    "http_417",
    "http_431",
    "http_501",
    "http_505",
    "other",
)
"""What is counted of REST's connections, by number."""
GRPC_LIMITS = (
    "connections",
    "streams",
    "header_list",
    "header_block",
    "continuations",
    "message_size",
    "unread",
    "resets",
    "pings",
    "settings",
    "window_updates",
    "empty_data",
    "ignored",
    "handshake",
    "slow_frame",
    "slow_message",
    "budget",
    "stalled_stream",
    "stalled_connection",
    "protocol",
    "tls_hello",
    "not_http2",
)
"""Names of :class:`ovms_mp.front.grpc.http2.limits.Hit`, by number."""
KIND_NAMES = ("manager", "worker", "probe", "fetcher", "grpc", "arbiter", "rest")
"""Kinds of processes, by number."""

KINDS = 128
KIND_WORDS = 6
MOST_KINDS = 8
FETCHES, FAILED_FETCHES, FETCHED_BYTES = 176, 177, 178
FETCHING, FETCHING_BYTES, FETCHING_OF_BYTES = 186, 187, 188
"""Of this moment: fetches under way, what is here of what they download, and what that is in all."""
HAS_THROTTLING, PERIODS, THROTTLED_PERIODS, THROTTLED_US = 180, 181, 182, 183
LONGEST_TURN_NS, CPU_PERMILLE = 184, 185
ENDS, CAUSE_WORDS = 192, 8
PHASES = 256
LOAD_FAILURES = 320


class KindWord(enum.IntEnum):
    """What the manager writes of a kind of process; the words' order."""

    PROCESSES = 0
    CPU_MS = 1
    RESIDENT_BYTES = 2
    DESCRIPTORS = 3
    STARTED_MS = 4


class Cause(enum.IntEnum):
    """What a child has died of."""

    SIGNAL = 0
    EXIT_CODE = 1
    ENDED = 2
    """The manager has killed it: it was stuck, silent, too large or late."""
    BOOT = 3
    """Before it was ready."""


class Phase(enum.IntEnum):
    """What a version goes through before it serves; by the words' order."""

    FETCH = 0
    TRIAL = 1
    LOAD = 2
    FIRST_RUN = 3


def process_words(row: CounterRow) -> memoryview:
    """A process's own words, to write."""
    return row.page(PROCESS_PAGE)


def observe(words: memoryview, word: int, took_ns: int) -> None:
    """Add an observation to a histogram of the form that stages of requests have."""
    bits = took_ns.bit_length()
    bucket = next((index for index, most in enumerate(BOUND_BITS) if bits <= most), len(BOUND_BITS))
    words[word + bucket] += 1
    words[word + STAGE_WORDS - 1] += took_ns
