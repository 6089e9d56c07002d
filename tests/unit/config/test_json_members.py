# SPDX-License-Identifier: Apache-2.0
"""A list in a text with an element more or less; the rest keeps its octets."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ovms_mp.config.json_members import list_member

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ('{"l": []}', '{"l": [\n  9\n]}'),
        ('{"l": [ \n ]}', '{"l": [\n  9\n]}'),
        ('  {"a": 1,\n  "l": []}', '  {"a": 1,\n  "l": [\n    9\n  ]}'),
        ('{"l": [1]}', '{"l": [1, 9]}'),
        ('{"l": [1,2]}', '{"l": [1,2, 9]}'),
        ('{"l": [\n\t1,\n\t2\n], "z": 1e5}', '{"l": [\n\t1,\n\t2,\n\t9\n], "z": 1e5}'),
        ('{"l" :[1 , 2 ] }', '{"l" :[1 , 2,  9 ] }'),
    ],
)
def test_an_element_is_appended_as_the_others_stand(before: str, after: str) -> None:
    found = list_member(before, "l")

    assert found.appended(before, "9") == after
    assert json.loads(after)["l"][-1] == 9


@pytest.mark.parametrize(
    ("removed", "after"),
    [
        ({0}, '{"l": [\n 2,\n 3\n], "b": 0}'),
        ({1}, '{"l": [\n 1,\n 3\n], "b": 0}'),
        ({2}, '{"l": [\n 1,\n 2\n], "b": 0}'),
        ({0, 1}, '{"l": [\n 3\n], "b": 0}'),
        ({0, 2}, '{"l": [\n 2\n], "b": 0}'),
        ({0, 1, 2}, '{"l": [], "b": 0}'),
    ],
)
def test_elements_are_removed_with_their_commas(removed: set[int], after: str) -> None:
    text = '{"l": [\n 1,\n 2,\n 3\n], "b": 0}'

    assert list_member(text, "l").without(text, removed) == after


@given(
    before=st.dictionaries(st.text().filter(lambda key: key != "l"), VALUES, max_size=3),
    elements=st.lists(VALUES, max_size=4),
    indent=st.sampled_from([None, 0, 1, "\t"]),
    data=st.data(),
)
def test_any_document_stays_the_same_but_for_the_element(
    before: dict[str, object], elements: list[object], indent: int | str | None, data: st.DataObject
) -> None:
    document = {**before, "l": elements, "m": {"l": [1]}}
    text = json.dumps(document, indent=indent, ensure_ascii=False)
    found = list_member(text, "l")

    assert json.loads(found.appended(text, '{"a": 1}')) == {**document, "l": [*elements, {"a": 1}]}
    removed = data.draw(st.sets(st.integers(0, len(elements) - 1))) if elements else set()
    kept = [element for index, element in enumerate(elements) if index not in removed]
    assert json.loads(found.without(text, removed)) == {**document, "l": kept}


def test_numbers_may_be_longer_than_python_reads() -> None:
    text = '{"l": [' + "1" * 5000 + "]}"

    assert list_member(text, "l").without(text, {0}) == '{"l": []}'


@pytest.mark.parametrize("text", ["{}", '{"k": [1]}', '{"l": 1}'])
def test_there_must_be_a_list(text: str) -> None:
    with pytest.raises(ValueError, match="no "):
        list_member(text, "l")
