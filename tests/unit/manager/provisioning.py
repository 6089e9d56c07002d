# SPDX-License-Identifier: Apache-2.0
"""A provisioner with all that it needs, on a kernel that is played."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from ovms_mp.log_levels import LogLevels
from ovms_mp.manager.children.control import ControlChannel
from ovms_mp.manager.children.spec_maker import SpecMaker
from ovms_mp.manager.children.supervisor import Supervisor
from ovms_mp.manager.timers import Timers
from ovms_mp.manager.workers.provisioner import Provisioner
from ovms_mp.manager.workers.workers import Workers
from ovms_mp.wire.channels import Poller

from .fakes import FakeRows, Router
from .kernel import InlineReaper

if TYPE_CHECKING:
    from ovms_mp.config.server import ServerConfig
    from ovms_mp.manager.workers.cpu_plan import Machine

    from .kernel import Kernel


@dataclass(frozen=True)
class Provisioning:
    """The parts, each made from those before it."""

    timers: Timers
    poller: Poller
    router: Router
    supervisor: Supervisor
    workers: Workers
    provisioner: Provisioner


def provisioning(config: ServerConfig, machine: Machine, kernel: Kernel) -> Provisioning:
    timers, poller, router = Timers(kernel), Poller(), Router()
    supervisor = Supervisor(config.supervision, timers, poller, InlineReaper(), kernel)
    control = ControlChannel(router)  # type: ignore[arg-type]  # only sends
    workers = Workers(control, timers, 600.0, FakeRows())
    specs = SpecMaker(config, "run", "ipc://@control", (), 8 << 30, LogLevels)
    provisioner = Provisioner(config, machine, supervisor, workers, control, specs, (5,), timers, kernel)
    return Provisioning(timers, poller, router, supervisor, workers, provisioner)
