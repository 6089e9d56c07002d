# SPDX-License-Identifier: Apache-2.0
"""Families of samples and Prometheus's text of them.

Families are made when somebody asks, out of shared memory and snapshots: any front can tell them, and waits for nobody.
Their samples are made one by one while they are written, so a family that is not wanted costs nothing, and a page of
many thousand lines can be written in turns with other work.

The text format, not OpenMetrics: that would have every counter end in ``_total``, and OVMS's counters do not.

Source: https://prometheus.io/docs/instrumenting/exposition_formats/#text-based-format
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import NamedTuple, TypeAlias

CONTENT_TYPE = "text/plain; version=0.0.4"
"""The format is UTF-8 without saying so."""

Labels: TypeAlias = tuple[tuple[str, str], ...]
"""Names with values, sorted by name as OVMS does; no name twice."""


class Kind(Enum):
    """What a family's samples are."""

    COUNTER = "counter"
    GAUGE = "gauge"
    HISTOGRAM = "histogram"


class Buckets(NamedTuple):
    """The value of one histogram.

    Attributes:
        bounds: Upper bounds, inclusive and ascending, without the infinite one.
        counts: Observations of each bucket alone, those beyond the last bound at the end: one more than bounds.
        sum: Of all observed values.
    """

    bounds: Sequence[float]
    counts: Sequence[int]
    sum: float


class Sample(NamedTuple):
    """One value of a family; a histogram's is :class:`Buckets`."""

    labels: Labels
    value: float | Buckets


@dataclass(frozen=True, slots=True)
class Family:
    """Samples of one name.

    Attributes:
        name: With its unit at the end, as users write it in queries.
        kind: What the samples are.
        help: One sentence.
        samples: Iterated once, while it is written; may be a generator. No two with the same labels.
    """

    name: str
    kind: Kind
    help: str
    samples: Iterable[Sample]


Collector: TypeAlias = Callable[[], Iterable[Family]]
"""Called for each scrape in the event loop of any front; reads shared memory and snapshots, and waits for nothing."""


def text_of(families: Iterable[Family]) -> Iterator[str]:
    """The page, in pieces of a few lines. PERF: 0.4 us a line of a histogram, 0.7 us another."""
    for family in families:
        yield f"# HELP {family.name} {_escaped_help(family.help)}\n# TYPE {family.name} {family.kind.value}\n"
        for labels, value in family.samples:
            inner = ",".join([f'{name}="{_escaped(text)}"' for name, text in labels])
            if isinstance(value, Buckets):
                yield _histogram_text(family.name, inner, value)
            elif inner:
                yield f"{family.name}{{{inner}}} {_number(value)}\n"
            else:
                yield f"{family.name} {_number(value)}\n"


def _histogram_text(name: str, inner: str, buckets: Buckets) -> str:
    bounds = [_number(bound) for bound in buckets.bounds]
    begin = f"{name}_bucket{{{inner},le=" if inner else f"{name}_bucket{{le="
    counts = list(itertools.accumulate(buckets.counts))
    lines = [f'{begin}"{bound}"}} {count}\n' for bound, count in zip([*bounds, "+Inf"], counts, strict=True)]
    braced = f"{{{inner}}}" if inner else ""
    lines.append(f"{name}_sum{braced} {_number(buckets.sum)}\n{name}_count{braced} {counts[-1]}\n")
    return "".join(lines)


def _number(value: float) -> str:
    """As Go reads it; whole numbers without a fraction, however they were computed."""
    if isinstance(value, int):
        return str(int(value))  # A bool is an int, too.
    if math.isnan(value):
        return "NaN"
    if math.isinf(value):
        return "+Inf" if value > 0 else "-Inf"
    return str(int(value)) if value.is_integer() and abs(value) < 1e15 else repr(value)


def _escaped(text: str) -> str:
    """A label's value; what no UTF-8 can carry becomes a question mark."""
    if "\\" in text or '"' in text or "\n" in text:
        text = text.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n")
    return text if text.isascii() else text.encode("utf-8", "replace").decode()


def _escaped_help(text: str) -> str:
    return text.replace("\\", r"\\").replace("\n", r"\n")
