# SPDX-License-Identifier: Apache-2.0
"""Version policies: which versions they choose, and which JSON forms they have."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ovms_mp.errors import ConfigError
from ovms_mp.model.versions import All, Latest, Specific, VersionPolicy, desired_versions, parse_policy

VERSIONS = st.integers(1, 12)
POLICIES: st.SearchStrategy[VersionPolicy] = st.one_of(
    st.builds(Latest, st.integers(1, 6)), st.just(All()), st.builds(Specific, st.frozensets(VERSIONS))
)


def oracle(available: list[int], policy: VersionPolicy) -> set[int]:
    """The rule, version by version, without sorting or slicing."""
    if isinstance(policy, All):
        return set(available)
    if isinstance(policy, Specific):
        return {version for version in available if version in policy.versions}
    return {
        version
        for version in available
        if sum(1 for other in set(available) if other > version) < policy.num_versions
    }


@given(available=st.lists(VERSIONS), policy=POLICIES)
def test_desired_versions_are_those_of_the_rule(available: list[int], policy: VersionPolicy) -> None:
    desired = desired_versions(available, policy)

    assert set(desired) == oracle(available, policy)
    assert list(desired) == sorted(set(desired))


@pytest.mark.parametrize(
    ("document", "policy"),
    [
        ({"latest": {"num_versions": 2}}, Latest(2)),
        ({"latest": {}}, Latest(1)),
        # The legacy server sliced with [-0:].
        ({"latest": {"num_versions": 0}}, All()),
        ({"all": {}}, All()),
        ({"specific": {"versions": [3, 1, 3]}}, Specific(frozenset({1, 3}))),
    ],
)
def test_accepted_forms(document: object, policy: VersionPolicy) -> None:
    assert parse_policy(document) == policy


@pytest.mark.parametrize(
    "document",
    [
        None,
        "latest",
        [],
        {},
        {"latests": {"num_versions": 1}},
        {"test": {}},
        {"latest": None},
        {"latest": {"num_versions": -1}},
        {"latest": {"num_versions": True}},
        {"latest": {"num_versions": False}},
        {"latest": {"num_versions": 1.0}},
        {"latest": {"num_versions": "1"}},
        {"latest": {"versions": [1]}},
        {"latest": {"num_versions": 1, "more": 1}},
        {"all": {"num_versions": 1}},
        {"all": []},
        {"all": True},
        {"all": {}, "latest": {}},
        {"latest": {}, "specific": {"versions": [1]}},
        {"specific": {}},
        {"specific": {"ver": [1]}},
        {"specific": {"versions": []}},
        {"specific": {"versions": 1}},
        {"specific": {"versions": [0]}},
        {"specific": {"versions": [1, -2]}},
        {"specific": {"versions": [1, True]}},
        {"specific": {"versions": [1, "2"]}},
        {"specific": {"versions": [1], "more": 1}},
        {"specific": {"versions": [1]}, "all": {}},
    ],
)
def test_refused_forms_are_shown_with_the_accepted_ones(document: object) -> None:
    with pytest.raises(ConfigError) as caught:
        parse_policy(document)

    assert repr(document) in caught.value.message
    for form in ('{"latest": {"num_versions": N}}', '{"all": {}}', '{"specific": {"versions": [N, ...]}}'):
        assert form in caught.value.message
