# SPDX-License-Identifier: Apache-2.0
"""Puts the parts of a front's live page together, when its session is open."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from ovms_mp.front.live.feed import PageFeed
from ovms_mp.front.live.fleet import FleetNews
from ovms_mp.front.live.history import History
from ovms_mp.front.live.processes import Processes
from ovms_mp.front.live.samples import Sampler
from ovms_mp.wire.counters import managers_row

if TYPE_CHECKING:
    from ovms_mp.child.specs import PageSpec, RestSpec
    from ovms_mp.front.session import FrontSession


def open_page(session: FrontSession, spec: RestSpec, page: PageSpec) -> PageFeed:
    """The feed of this front, which hears of the session's snapshots from now on."""
    common = spec.common
    has_metrics = bool(spec.metrics)
    sampler = Sampler(
        session.service.counting.reader,
        managers_row(common.counters),
        Processes(common.parent_pid).look,
        time.monotonic_ns,
        int(common.heartbeat_timeout_s * 1e9),
        has_metrics=has_metrics,
    )
    history = History(time.time)
    fleet = FleetNews(page.fleet_file, time.monotonic_ns) if page.fleet_file else None
    feed = PageFeed(
        lambda: session.service.table.snapshot, sampler, history, page, fleet, has_metrics=has_metrics
    )
    feed.hear(session.service.table.snapshot)
    session.hearers.append(feed.hear)
    return feed
