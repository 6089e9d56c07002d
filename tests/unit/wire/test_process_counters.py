# SPDX-License-Identifier: Apache-2.0
"""Words of processes have room for all that is counted there, under the names that others have for it."""

from __future__ import annotations

import itertools

from ovms_mp.front.grpc.http2.limits import Hit
from ovms_mp.manager.children.kinds import Kind
from ovms_mp.wire import process_counters as words
from ovms_mp.wire.counters import PROCESS_WORDS
from ovms_mp.wire.process_counters import Cause, KindWord, Phase
from ovms_mp.wire.stage_counters import MOST_REASONS, STAGE_WORDS


def test_limits_have_the_names_of_those_who_count_them() -> None:
    assert [hit.name.lower() for hit in sorted(Hit)] == list(words.GRPC_LIMITS)
    assert len(words.GRPC_LIMITS) <= words.MOST_LIMITS
    assert len(words.REST_REFUSALS) <= words.MOST_REFUSALS


def test_each_kind_of_child_has_words() -> None:
    assert {kind.value for kind in Kind} == set(words.KIND_NAMES) - {"manager"}
    assert len(words.KIND_NAMES) <= words.MOST_KINDS
    assert len(KindWord) <= words.KIND_WORDS
    assert len(Cause) <= words.CAUSE_WORDS


def test_ranges_do_not_overlap() -> None:
    fronts = [(words.WRITTEN_NS, words.INTERFACE + 1), (words.FAILURES, words.FAILURES + MOST_REASONS)]
    fronts += [(words.LIMITS, words.REFUSALS), (words.REFUSALS, words.REFUSALS + words.MOST_REFUSALS)]
    manager = [
        (words.KINDS, words.KINDS + words.MOST_KINDS * words.KIND_WORDS),
        (words.FETCHES, words.CPU_PERMILLE + 1),
        (words.ENDS, words.ENDS + words.MOST_KINDS * words.CAUSE_WORDS),
        (words.PHASES, words.PHASES + len(Phase) * STAGE_WORDS),
        (words.LOAD_FAILURES, words.LOAD_FAILURES + MOST_REASONS),
    ]
    for ranges in (fronts, manager):
        for (_, end), (begin, _) in itertools.pairwise(ranges):
            assert end <= begin
        assert ranges[-1][1] <= PROCESS_WORDS
