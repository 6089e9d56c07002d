# SPDX-License-Identifier: Apache-2.0
"""JSON that people write: places, values in messages, and what no document may have."""

from __future__ import annotations

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ovms_mp.config.json_document import MAX_DEPTH, Findings, child_place, shown
from ovms_mp.errors import ConfigError


def flaws(text: str | bytes) -> list[str]:
    findings = Findings()
    assert findings.decode(text, "$") is None
    return findings.errors


@settings(deadline=None)
@given(
    st.recursive(
        st.none()
        | st.booleans()
        | st.integers(-(10**20), 10**20)
        | st.floats(allow_nan=False, allow_infinity=False)
        | st.text(),
        lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    )
)
def test_what_python_writes_is_read_back(document: object) -> None:
    findings = Findings()

    assert findings.decode(json.dumps(document), "$") == document
    assert findings.errors == []


@settings(deadline=None)
@given(st.binary() | st.text())
def test_anything_is_a_document_or_an_error(text: bytes | str) -> None:
    findings = Findings()
    document = findings.decode(text, "$")

    assert document is None or not findings.errors
    assert all("\n" not in error for error in findings.errors)


@pytest.mark.parametrize(
    ("key", "place"),
    [("a", "$.a"), ("a_1", "$.a_1"), (3, "$[3]"), ("a b", '$["a b"]'), ("", '$[""]'), ("1", '$["1"]')],
)
def test_places(key: str | int, place: str) -> None:
    assert child_place("$", key) == place


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, "null"),
        (True, "true"),
        ("é", '"é"'),
        ("a\nb\x1b\x85", '"a\\nb\\u001b\\x85"'),
        ("\ud800", '"\\ud800"'),
        ({"a": [1]}, '{"a": [1]}'),
        ("x" * 500, '"' + "x" * 119 + " ..."),
    ],
)
def test_values_are_shown_as_json_on_one_line(value: object, text: str) -> None:
    assert shown(value) == text


def test_every_repeated_key_has_its_place() -> None:
    assert flaws('{"a": 1, "a": 2, "b": [{"c": 1, "c": 1, "c": 1}]}') == [
        "$.a: is repeated in one object; keep one of them",
        "$.b[0].c: is repeated in one object; keep one of them",
    ]


@pytest.mark.parametrize("number", ["NaN", "Infinity", "-Infinity", "1e999", "9" * 10_000])
def test_numbers_without_a_place_on_the_line(number: str) -> None:
    (error,) = flaws(f'{{"a": [0, {number}]}}')

    assert error.startswith("$.a[1]: ")
    assert error.endswith("accepted: a finite number, up to 1.7e308")


@pytest.mark.parametrize("text", ['"\\ud800"', '{"\\udfff": 1}'])
def test_half_characters(text: str) -> None:
    (error,) = flaws(text)

    assert "is not a valid string" in error
    error.encode()


def test_depth() -> None:
    deepest = MAX_DEPTH - 1
    assert Findings().decode("[" * deepest + "1" + "]" * deepest, "$") is not None
    for levels in (MAX_DEPTH + 1, 900, 5000, 200_000):
        (error,) = flaws("[" * levels + "]" * levels)
        assert f"more than {MAX_DEPTH} levels" in error


def test_findings_are_told_together_up_to_a_number() -> None:
    findings = Findings()
    findings.finish()
    for index in range(21):
        findings.refuse(f"$[{index}]", index, "less")
    with pytest.raises(ConfigError) as caught:
        findings.finish()

    lines = caught.value.message.splitlines()
    assert lines[0] == "$[0]: 0 is not valid; accepted: less"
    assert lines[19] == "$[19]: 19 is not valid; accepted: less"
    assert lines[20:] == ["and 1 more errors"]
