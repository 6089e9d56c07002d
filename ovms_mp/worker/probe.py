# SPDX-License-Identifier: Apache-2.0
"""A probe: ``python -m ovms_mp.worker.probe SPEC``. Started by the manager only.

Compiles a version that nobody has served yet and runs it once on synthetic input, at the low priority that the
manager gives it. What a model can do to the process that compiles it (crash it, hang it, eat its memory) it does to
this one; the worker then loads what has been seen to work, from the cache that is filled here.

::

    Hello --> Welcome --> load, trial inference, a LoadProgress at each stage --> ProbeDone --> Drain --> exit 0

A model that cannot be loaded is a :class:`ProbeDone` with the reason and exit code 0 too. Whatever else ends the
process is for the manager to see.
"""

from __future__ import annotations

import logging
import os
import sys
from typing import TYPE_CHECKING

from ovms_mp.child.process import run_child, with_control_link
from ovms_mp.child.specs import ProbeSpec
from ovms_mp.errors import ModelLoadFailed, OvmsError
from ovms_mp.wire.messages import LoadModel, LoadProgress, ProbeDone
from ovms_mp.wire.records import ErrorRecord, bounded_text
from ovms_mp.worker.engine.affinity import take_share
from ovms_mp.worker.engine.stages import hearing_stages

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ovms_mp.child.control import ControlLink
    from ovms_mp.child.specs import CpuShare

_log = logging.getLogger(__name__)

_HEARD_WITHIN_S = 10.0
"""Longest wait for the manager to have heard the outcome."""


def main(arguments: Sequence[str]) -> int:
    """Run the probe; its exit code."""
    return run_child(
        arguments,
        ProbeSpec,
        lambda spec: f"probe {spec.name} version {spec.version}",
        lambda spec: with_control_link(spec, _probe),
    )


def _probe(spec: ProbeSpec, control: ControlLink) -> None:
    cpu = take_share(spec.cpu)
    control.say_hello()
    control.send(_try_version(spec, cpu, control))
    # The manager's Drain says that it has the outcome; its end before that would look like a crash.
    control.dealer.wait(_HEARD_WITHIN_S)


def _try_version(spec: ProbeSpec, cpu: CpuShare, control: ControlLink) -> ProbeDone:
    from ovms_mp.worker.batching.loading import load_with_batches
    from ovms_mp.worker.engine.engine import create_core

    request = LoadModel(
        spec.handle, spec.name, spec.version, spec.model_file, spec.settings, spec.cache_directory
    )
    try:
        with hearing_stages(lambda stage: control.send(LoadProgress(spec.handle, stage))):
            loaded = load_with_batches(create_core(spec.engine), request, cpu, nireq=1)
    except OvmsError as error:
        return ProbeDone(spec.handle, ErrorRecord.of(error), "")
    except Exception as error:
        # A defect, or an engine failure of a kind we have not met: this version's, not the server's.
        _log.exception("event=probe_raised model=%s version=%d", spec.name, spec.version)
        return ProbeDone(spec.handle, ErrorRecord.of(ModelLoadFailed(f"{type(error).__name__}: {error}")), "")
    return ProbeDone(spec.handle, None, bounded_text(loaded.detail))


if __name__ == "__main__":
    code = main(sys.argv[1:])
    logging.shutdown()
    # Not sys.exit: what the engine would still tidy up ends with the process, and must not hang or crash it.
    os._exit(code)
