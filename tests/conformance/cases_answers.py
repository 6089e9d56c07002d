# SPDX-License-Identifier: Apache-2.0
"""Predictions that succeed or fail by their values: shapes, dtypes, conversions, the compact form."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import numpy as np

from ovms_mp import errors
from tests.conformance.case import (
    GRPC,
    KSERVE_REST,
    PAIR,
    PAIR_ANSWER,
    X10,
    Y10,
    Answer,
    Case,
    Form,
    Refusal,
    Rest,
    f32,
    predict,
    same,
    sent,
)
from tests.support.tensors import NUMPY, content, typed

if TYPE_CHECKING:
    from ovms_mp.model.dtypes import AnyArray

ROWS = f32([[1, 2, 3, 4], [5, 6, 7, 8]])
MANY = np.tile(ROWS, (150, 1))
LEAST, GREATEST = np.ones((2, 3), np.float32), np.ones((4, 3), np.float32)
ZERO_ROWS, ZERO_ELEMENTS = np.zeros((0, 4), np.float32), np.zeros(0, np.float32)

WHOLE = (*GRPC, *KSERVE_REST)
"""Forms that say the shape of what has no elements."""


def _places(*places: int) -> Answer:
    """What nonzero answers."""
    return Answer({"places": np.array([places], np.int64)})


GOOD = (
    predict("static shape", "tiny", {"x": X10}, Answer({"y": Y10})),
    predict("ONNX model", "onnx_tiny", {"x": X10}, Answer({"y": Y10})),
    predict("several inputs and outputs", "pair", PAIR, PAIR_ANSWER),
    predict("dynamic batch 2", "batch", {"x": ROWS}, Answer({"y": 2 * ROWS})),
    predict("dynamic batch 1", "batch", {"x": ROWS[:1]}, Answer({"y": 2 * ROWS[:1]})),
    predict("dynamic batch 300", "batch", {"x": MANY}, Answer({"y": 2 * MANY})),
    predict("range, least", "range", {"x": LEAST}, Answer({"y": LEAST})),
    predict("range, greatest", "range", {"x": GREATEST}, Answer({"y": GREATEST})),
    predict("shape depends on data", "nonzero", {"x": f32([0, 1, 2, 0, 3])}, _places(1, 2, 4)),
    predict("shape depends on data, nothing", "nonzero", {"x": f32([0, 0])}, _places()),
    predict("larger than guessed", "nonzero", {"x": np.ones(5000, np.float32)}, _places(*range(5000))),
    predict("zero rows", "batch", {"x": ZERO_ROWS}, Answer({"y": ZERO_ROWS}), WHOLE),
    predict(
        "zero elements", "id_f32", {"x": ZERO_ELEMENTS}, Answer({"y": ZERO_ELEMENTS}), (*WHOLE, Form.COLUMN)
    ),
    predict("scalar", "scalar", {"x": f32(41)}, Answer({"y": f32(42)}), (*WHOLE, Form.COLUMN)),
    predict("version given", "versions", {"x": X10}, Answer({"y": X10 + 1}), version=1),
    predict("the other version given", "versions", {"x": X10}, Answer({"y": X10 + 2}), version=3),
    predict("version 0 is the highest", "versions", {"x": X10}, Answer({"y": X10 + 2}), version=0),
    predict("no version is the highest", "versions", {"x": X10}, Answer({"y": X10 + 2})),
)


def _identity(what: str, name: str, array: AnyArray) -> Case:
    return predict(what, f"id_{name}", {"x": array}, same(name, array))


def _extremes(name: str) -> AnyArray:
    """Values of a dtype that any wrong conversion would change."""
    dtype = NUMPY[name]
    if name == "boolean":
        return np.array([True, False, False, True])
    if dtype.kind in "iu":
        limits = np.iinfo(dtype)
        return np.array([limits.min, limits.max, 0, 1, limits.max - 1], dtype)
    if name.startswith("f8"):
        return np.array([0, 0.5, -1, 2, 448], np.float32).astype(dtype)
    return np.array([0, -0.5, 1, 0.1, -65504], np.float64).astype(dtype)


INF_NAN = f32([np.nan, np.inf, -np.inf, 1.5])
WITH_INF = ("f16", "bf16", "f32", "f64", "f8e5m2")
VALUES = (
    *(_identity(f"dtype {name}", name, _extremes(name)) for name in NUMPY),
    *(_identity(f"NaN and infinities, {name}", name, INF_NAN.astype(NUMPY[name])) for name in WITH_INF),
    _identity("int64 beyond 2^53", "i64", np.array([2**53 + 1, -(2**53) - 1, 2**62 + 1])),
    _identity("uint64 beyond 2^63", "u64", np.array([2**63 + 1, 2**53 + 1], np.uint64)),
    _identity("subnormal float32", "f32", f32([1e-45, -1e-40])),
    _identity("float64 of 17 digits", "f64", np.array([0.1, 1 / 3, 1e300])),
)


def _converted(given: AnyArray, name: str, array: AnyArray) -> tuple[Case, Case]:
    """A tensor sent as another dtype than the model's, both ways of writing it."""
    what = f"{given.dtype} {given} to {name}"
    answer = same(name, array.astype(NUMPY[name]))
    return (
        sent(f"{what}, content", f"id_{name}", content(given), answer),
        sent(f"{what}, typed", f"id_{name}", typed(given), answer),
    )


CONVERSIONS = (
    *_converted(np.array([0.1, -2.5, 1e30]), "f32", f32([0.1, -2.5, 1e30])),
    *_converted(np.array([0, 1, 255], np.uint8), "f32", f32([0, 1, 255])),
    *_converted(np.array([-3, 2**24, 2**53]), "f32", f32([-3, 2**24, 2**53])),
    *_converted(np.array([True, False]), "f32", f32([1, 0])),
    *_converted(f32([0.5, 65504]), "f16", f32([0.5, 65504])),
    *_converted(np.array([0.1], np.float16), "f64", np.array([0.1], np.float16)),
    *_converted(f32([3, -4, 0]), "i32", f32([3, -4, 0])),
    *_converted(np.array([2.0**40]), "i64", np.array([2.0**40])),
    *_converted(np.array([0, 200]), "u8", np.array([0, 200])),
    *_converted(np.array([0, 1]), "boolean", np.array([0, 1])),
    *_converted(np.array([np.nan, np.inf]), "f32", np.array([np.nan, np.inf])),
)


def _unconvertible(given: AnyArray, name: str) -> tuple[Case, Case]:
    refusal = Refusal(errors.DtypeMismatch, ("'x'", "cannot be converted"))
    return (
        sent(f"{given.dtype} {given} to {name}", f"id_{name}", content(given), refusal),
        Case(
            f"JSON {given} to {name}",
            Rest(path=f"/v1/models/id_{name}:predict", body=json.dumps({"inputs": {"x": given.tolist()}})),
            refusal,
        ),
    )


UNCONVERTIBLE = (
    *_unconvertible(np.array([1.0, 1.5]), "i32"),
    *_unconvertible(np.array([np.nan]), "i64"),
    *_unconvertible(np.array([np.inf]), "i64"),
    *_unconvertible(np.array([2.0**31]), "i32"),
    *_unconvertible(np.array([2.0**63]), "i64"),
    *_unconvertible(np.array([256]), "u8"),
    *_unconvertible(np.array([-1]), "u64"),
    *_unconvertible(np.array([-129]), "i8"),
    *_unconvertible(np.array([1e39]), "f32"),
    *_unconvertible(np.array([65536]), "f16"),
    *_unconvertible(np.array([2]), "boolean"),
    *_unconvertible(np.array([0.5]), "boolean"),
)


def _compact(given: AnyArray, count: int) -> Case:
    """Fewer values than elements: the last one fills the rest, none at all means zeros."""
    expected = given.copy()
    expected[count:] = given[count - 1] if count else 0
    name = next(name for name, dtype in NUMPY.items() if dtype == given.dtype)
    return sent(
        f"compact {name}, {count} of {len(given)}", f"id_{name}", typed(given, count), same(name, expected)
    )


COMPACT = (
    *(_compact(np.ones(6, dtype), 1) for dtype in NUMPY.values()),
    *(_compact(_extremes(name), 2) for name in NUMPY),
    _compact(np.ones(6, np.float32), 0),
    _compact(np.ones(1000, np.float32), 1),
)


ANSWERS = (*GOOD, *VALUES, *CONVERSIONS, *UNCONVERTIBLE, *COMPACT)
