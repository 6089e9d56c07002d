# SPDX-License-Identifier: Apache-2.0
"""``mapping_config.json``: what is read, and what is refused with a reason."""

from __future__ import annotations

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ovms_mp.errors import ModelLoadFailed
from ovms_mp.model.mapping import MAPPING_FILE_LIMIT_BYTES, NameMapping, client_names, parse_mapping


@pytest.mark.parametrize(
    ("text", "inputs", "outputs"),
    [
        (b'{"inputs": {"x": "a"}, "outputs": {"y": "b"}}', {"x": "a"}, {"y": "b"}),
        (b'{"inputs": {"x:0": "a", "z": "b"}}', {"x:0": "a", "z": "b"}, {}),
        (b'{"outputs": {"y": "b"}}', {}, {"y": "b"}),
        (b"{}", {}, {}),
        (b'{"inputs": {}, "outputs": {}}', {}, {}),
        (b'{"inputs": {"x": "a"}, "outputs": {"x": "a"}}', {"x": "a"}, {"x": "a"}),
        (b'\xef\xbb\xbf{"inputs": {"x": "a"}}', {"x": "a"}, {}),
        ('{"inputs": {"ä": "größe"}}'.encode(), {"ä": "größe"}, {}),
    ],
)
def test_what_is_read(text: bytes, inputs: dict[str, str], outputs: dict[str, str]) -> None:
    mapping = parse_mapping(text)

    assert (dict(mapping.inputs), dict(mapping.outputs)) == (inputs, outputs)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (b"", "not valid JSON"),
        (b"{", "not valid JSON"),
        (b"{} {}", "not valid JSON"),
        (b"\xff\xfe\xfd", "not valid JSON"),
        (b"[" * 100_000, "nested too deeply"),
        (b'{"inputs": {"x": "a", "x": "b"}}', "'x' is repeated"),
        (b'{"inputs": {}, "inputs": {}}', "'inputs' is repeated"),
        (b"[]", "$ is []"),
        (b"null", "$ is null"),
        (b'"inputs"', '$ is "inputs"'),
        (b'{"input": {"x": "a"}}', "unknown key 'input'"),
        (b'{"inputs": ["x"]}', 'inputs is ["x"]'),
        (b'{"outputs": null}', "outputs is null"),
        (b'{"inputs": {"x": 1}}', 'inputs["x"] is 1'),
        (b'{"inputs": {"x": ""}}', 'inputs["x"] is ""'),
        (b'{"inputs": {"x": {"y": "z"}}}', 'inputs["x"] is {"y"'),
        (b'{"outputs": {"x": "a", "y": "a"}}', "outputs gives the name 'a' to two tensors"),
        (b'{"inputs": "' + b"a" * 1000 + b'"}', "..."),
        (b" " * (MAPPING_FILE_LIMIT_BYTES + 1), f"at most {MAPPING_FILE_LIMIT_BYTES}"),
    ],
)
def test_what_is_refused(text: bytes, reason: str) -> None:
    with pytest.raises(ModelLoadFailed) as raised:
        parse_mapping(text)

    assert raised.value.message.startswith("mapping_config.json")
    assert reason in raised.value.message
    assert len(raised.value.message) < 300


@settings(max_examples=30)
@given(st.binary(max_size=40) | st.recursive(st.none() | st.text(), lambda x: st.dictionaries(st.text(), x)))
def test_anything_is_read_or_refused(given_value: object) -> None:
    text = given_value if isinstance(given_value, bytes) else json.dumps(given_value).encode()
    try:
        mapping = parse_mapping(text)
    except ModelLoadFailed:
        return
    assert all(
        isinstance(name, str) for names in (mapping.inputs, mapping.outputs) for name in names.values()
    )


def test_a_tensor_that_is_not_mentioned_keeps_its_name_and_an_unknown_one_does_nothing() -> None:
    mapping = parse_mapping(b'{"inputs": {"x": "a", "absent": "z"}}')

    assert client_names(mapping.inputs, ["x", "y"]) == {"x": "a", "y": "y"}
    assert client_names(mapping.outputs, ["x"]) == {"x": "x"}
    assert client_names(NameMapping().inputs, ["x"]) == {"x": "x"}


def test_names_may_be_exchanged_but_not_doubled() -> None:
    assert client_names({"x": "y", "y": "x"}, ["x", "y"]) == {"x": "y", "y": "x"}
    with pytest.raises(ModelLoadFailed, match=r"'x' and 'y' would both be called 'y'"):
        client_names({"x": "y"}, ["x", "y"])
