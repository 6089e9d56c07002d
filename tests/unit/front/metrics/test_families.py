# SPDX-License-Identifier: Apache-2.0
"""The page's text, held against the parser of Prometheus's own Python client."""

from __future__ import annotations

import asyncio
import math
from typing import TYPE_CHECKING

from prometheus_client.parser import text_string_to_metric_families

from ovms_mp.front.metrics.families import Buckets, Family, Kind, Sample, text_of
from ovms_mp.front.metrics.page import MetricsPage

if TYPE_CHECKING:
    from collections.abc import Iterator


def _text(*families: Family) -> str:
    return "".join(text_of(families))


def test_counters_and_gauges_are_lines_with_labels() -> None:
    text = _text(
        Family("requests", Kind.COUNTER, "Requests.", [Sample((("api", "KServe"), ("name", "m")), 3)]),
        Family("cores", Kind.GAUGE, "Cores.", [Sample((), 1.5)]),
    )

    assert text == (
        '# HELP requests Requests.\n# TYPE requests counter\nrequests{api="KServe",name="m"} 3\n'
        "# HELP cores Cores.\n# TYPE cores gauge\ncores 1.5\n"
    )


def test_a_histogram_adds_its_buckets_up() -> None:
    text = _text(
        Family(
            "time_us", Kind.HISTOGRAM, "Time.", [Sample((("name", "m"),), Buckets([10, 18.5], [1, 2, 4], 99))]
        )
    )

    assert text.splitlines()[2:] == [
        'time_us_bucket{name="m",le="10"} 1',
        'time_us_bucket{name="m",le="18.5"} 3',
        'time_us_bucket{name="m",le="+Inf"} 7',
        'time_us_sum{name="m"} 99',
        'time_us_count{name="m"} 7',
    ]


def test_a_histogram_may_be_without_labels() -> None:
    text = _text(Family("time_us", Kind.HISTOGRAM, "Time.", [Sample((), Buckets([10], [1, 0], 3))]))

    assert text.splitlines()[2:] == [
        'time_us_bucket{le="10"} 1',
        'time_us_bucket{le="+Inf"} 1',
        "time_us_sum 3",
        "time_us_count 1",
    ]


def test_a_family_without_samples_has_its_head() -> None:
    assert _text(Family("a", Kind.GAUGE, "A.", ())) == "# HELP a A.\n# TYPE a gauge\n"


def test_any_name_of_a_model_survives_the_parser() -> None:
    names = ['quote"', "back\\slash", "new\nline", "\\n", "中文 ü", '}{,=" 1', "\\"]
    page = _text(Family("a", Kind.GAUGE, 'Of "a" \\ b\nc.', [Sample((("name", name),), 1) for name in names]))

    (family,) = text_string_to_metric_families(page)

    assert [sample.labels["name"] for sample in family.samples] == names
    assert family.documentation == 'Of "a" \\ b\nc.'


def test_a_name_that_is_no_text_leaves_the_page_readable() -> None:
    page = _text(Family("a", Kind.GAUGE, "A.", [Sample((("name", "a\udc80b"),), 1)]))

    assert 'name="a?b"' in page.encode().decode()


def test_numbers_are_read_as_they_were() -> None:
    values = [0, 1.0, 0.1, 1e300, -2.5, 2**63, math.inf, -math.inf, True, 1e15]
    page = _text(
        Family("a", Kind.GAUGE, "A.", [Sample((("i", str(i)),), value) for i, value in enumerate(values)])
    )

    (family,) = text_string_to_metric_families(page)

    assert [sample.value for sample in family.samples] == [float(value) for value in values]
    assert 'a{i="1"} 1\n' in page
    assert "NaN" in _text(Family("a", Kind.GAUGE, "A.", [Sample((), math.nan)]))


def test_the_page_shows_the_families_that_are_enabled_and_makes_no_sample_of_others() -> None:
    made = []

    def unwanted() -> Iterator[Sample]:
        made.append("b")
        yield Sample((), 1)

    def collect() -> list[Family]:
        return [
            Family("a", Kind.GAUGE, "A.", [Sample((), 1)]),
            Family("b", Kind.GAUGE, "B.", unwanted()),
        ]

    page = MetricsPage([collect, collect], {"a"})

    assert asyncio.run(page.written()).decode().count("a 1\n") == 2
    assert not made
    assert page.is_enabled
    assert not MetricsPage([collect], ()).is_enabled


def test_who_asks_while_a_page_is_written_gets_the_next_one() -> None:
    written = []

    def collect() -> list[Family]:
        written.append(1)
        return [Family("a", Kind.GAUGE, "A.", [Sample((), len(written))])]

    async def ask() -> list[bytes]:
        page = MetricsPage([collect], {"a"})
        first = [asyncio.create_task(page.written()) for _ in range(3)]
        await first[0]
        return [*await asyncio.gather(*first), await page.written()]

    pages = asyncio.run(ask())

    assert [page.splitlines()[-1] for page in pages] == [b"a 1", b"a 1", b"a 1", b"a 2"]


def test_who_gives_up_leaves_the_page_to_others() -> None:
    async def ask() -> bytes:
        page = MetricsPage([lambda: [Family("a", Kind.GAUGE, "A.", [Sample((), 1)])]], {"a"})
        gone, patient = (asyncio.create_task(page.written()) for _ in range(2))
        await asyncio.sleep(0)
        gone.cancel()
        return await patient

    assert asyncio.run(ask()).endswith(b"a 1\n")
