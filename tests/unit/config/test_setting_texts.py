# SPDX-License-Identifier: Apache-2.0
"""Parsers of what OVMS writes as text: shapes, layouts, preprocessing. The forms, and what is none."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ovms_mp.config.layout_text import parse_layout
from ovms_mp.config.preprocessing_text import parse_color_format, parse_mean, parse_precision, parse_scale
from ovms_mp.config.shape_text import ANY, MAX_SIZE, parse_batch_size, parse_shape
from ovms_mp.errors import ConfigError
from ovms_mp.model.devices import parse_device
from ovms_mp.model.input_settings import BatchSize
from ovms_mp.model.preprocessing import COLOR_FORMATS, PRECISIONS

if TYPE_CHECKING:
    from collections.abc import Callable

    from ovms_mp.model.input_settings import Bound

PARSERS: tuple[Callable[[object], object], ...] = (
    parse_batch_size,
    parse_shape,
    parse_layout,
    parse_mean,
    parse_scale,
    parse_color_format,
    parse_precision,
    parse_device,
)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=6,
)
LIKELY = st.text("()[],:.-+ 0123456789eNCHWD?autoRGBfpint_", max_size=24)


@pytest.mark.parametrize("parse", PARSERS)
@settings(deadline=None)
@given(value=JSON | LIKELY)
def test_parsers_take_anything_and_raise_nothing_else(
    parse: Callable[[object], object], value: object
) -> None:
    message = "a value"
    try:
        parse(value)
    except ConfigError as error:
        message = error.message
    assert 0 < len(message) < 400


@settings(deadline=None)
@given(
    bounds=st.lists(
        st.just(ANY)
        | st.tuples(st.integers(1, MAX_SIZE), st.integers(1, MAX_SIZE)).map(
            lambda pair: (min(pair), max(pair))
        ),
        max_size=6,
    ),
    brackets=st.sampled_from(["()", "[]"]),
    comma=st.sampled_from([",", ", ", " ,"]),
)
def test_what_is_written_as_a_shape_is_read_as_it(bounds: list[Bound], brackets: str, comma: str) -> None:
    sizes = ["-1" if bound == ANY else f"{bound[0]}:{bound[1]}" for bound in bounds]

    assert parse_shape(brackets[0] + comma.join(sizes) + brackets[1]) == tuple(bounds)
    assert parse_shape(sizes) == tuple(bounds)


@pytest.mark.parametrize(
    ("value", "bounds"),
    [
        ("auto", None),
        (" AUTO ", None),
        ("()", ()),
        ("(10,)", ((10, 10),)),
        ("[ 1 , 3 ]", ((1, 1), (3, 3))),
        ("(-1,2:8,1 : 2)", (ANY, (2, 8), (1, 2))),
        ([1, "-1"], ((1, 1), ANY)),
    ],
)
def test_shapes(value: object, bounds: tuple[Bound, ...] | None) -> None:
    assert parse_shape(value) == bounds


@pytest.mark.parametrize(
    "value",
    [
        "", "1,3", "(1", "1)", "(1]", "((1))", "(1)(2)", "(,)", "(1,,2)", "(0)", "(-2)", "(1.0)", "(1e2)", "(x)",
        "(8:2)", "(1:-1)", "(:2)", "(2:)", "(1~8)", "(+1)", "(²)", "(٣)", f"({MAX_SIZE + 1})", "(99999999999)", "auto8",
        5, True, None, {}, [True], [1.0], [[1]], [None],
    ],
)  # fmt: skip
def test_what_is_no_shape(value: object) -> None:
    with pytest.raises(ConfigError):
        parse_shape(value)


@pytest.mark.parametrize(
    ("value", "batch_size"),
    [
        (0, None),
        ("0", None),
        (4, BatchSize((4, 4))),
        (" 4 ", BatchSize((4, 4))),
        (-1, BatchSize(ANY)),
        ("2:2", BatchSize((2, 2))),
        ("Auto", BatchSize(None)),
    ],
)
def test_batch_sizes(value: object, batch_size: BatchSize | None) -> None:
    assert parse_batch_size(value) == batch_size


@pytest.mark.parametrize("value", [False, True, 0.0, 1.5, "", "0:4", "-2", "(4)", [4], None, 1 << 31])
def test_what_is_no_batch_size(value: object) -> None:
    with pytest.raises(ConfigError):
        parse_batch_size(value)


@pytest.mark.parametrize(
    ("text", "sides"),
    [
        ("NHWC", ("NHWC", "")),
        ("nhwc : nchw", ("NHWC", "NCHW")),
        ("N...", ("N...", "")),
        ("...", ("...", "")),
        ("N?HWC", ("N?HWC", "")),
        ("N...C:NC...", ("N...C", "NC...")),
        ("NDHWC:NCDHW", ("NDHWC", "NCDHW")),
        ("CN:NC", ("CN", "NC")),
    ],
)
def test_layouts(text: str, sides: tuple[str, str]) -> None:
    assert parse_layout(text) == sides


@pytest.mark.parametrize(
    "value",
    [
        "",
        ":",
        "NHWC:",
        ":NHWC",
        "NHWX",
        "NN",
        "N..",
        "N....",
        "......",
        "NHWC:NCH",
        "NC:NH",
        "N:C:N",
        4,
        None,
        ["N"],
    ],
)
def test_what_is_no_layout(value: object) -> None:
    with pytest.raises(ConfigError):
        parse_layout(value)


@pytest.mark.parametrize(
    ("value", "numbers"),
    [
        (2, (2.0,)),
        (-0.5, (-0.5,)),
        ("1e3", (1000.0,)),
        ("[1, .5,2.]", (1.0, 0.5, 2.0)),
        ("(1,)", (1.0,)),
        ([1, "2"], (1.0, 2.0)),
    ],
)
def test_means_and_scales(value: object, numbers: tuple[float, ...]) -> None:
    assert parse_mean(value) == numbers
    assert parse_scale(value) == numbers


@pytest.mark.parametrize(
    "value",
    ["", "x", "nan", "inf", "1,2", "[1;2]", "[]", "()", "[,]", "1_0", "0x1", "1e9999", "[[1]]", [], [[1]], [True], True,
     None, {}, math.nan, math.inf, 10**400],
)  # fmt: skip
def test_what_is_no_mean(value: object) -> None:
    with pytest.raises(ConfigError):
        parse_mean(value)


@pytest.mark.parametrize("value", [0, 0.0, "-0", "[1,0.0]"])
def test_nothing_is_divided_by_zero(value: object) -> None:
    assert 0 in parse_mean(value)
    with pytest.raises(ConfigError, match="0 is not allowed"):
        parse_scale(value)


@pytest.mark.parametrize("client", COLOR_FORMATS)
def test_clients_may_have_any_color_format(client: str) -> None:
    assert parse_color_format(f"{client.lower()} : Rgb") == (client, "RGB")


@pytest.mark.parametrize(
    "value", ["RGB", "RGB:BGR:RGB", "RGB:", "RGB:NV12", "RGB:I420_3", "XYZ:RGB", 1, None]
)
def test_what_is_no_color_conversion(value: object) -> None:
    with pytest.raises(ConfigError):
        parse_color_format(value)


@pytest.mark.parametrize("model", PRECISIONS)
def test_models_may_have_any_precision(model: str) -> None:
    assert parse_precision(f"UINT8:{model.upper()}") == ("uint8", model)


@pytest.mark.parametrize(
    "value", ["fp32", "fp32:", "f32:u8", "int4:fp32", "uint1:fp32", "uint4:fp32", "fp8:fp32", 8]
)
def test_what_is_no_conversion_of_precision(value: object) -> None:
    with pytest.raises(ConfigError):
        parse_precision(value)
