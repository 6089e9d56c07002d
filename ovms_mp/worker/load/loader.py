# SPDX-License-Identifier: Apache-2.0
"""Loads versions and gives their memory back, in threads beside the worker's loop."""

from __future__ import annotations

import contextlib
import ctypes
import gc
import logging
import time
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from ovms_mp.defects import contain
from ovms_mp.errors import ModelLoadFailed, OvmsError
from ovms_mp.wire.messages import LoadProgress
from ovms_mp.wire.run_page import NOT_A_TASK
from ovms_mp.worker.engine.affinity import call_strays_back, low_priority
from ovms_mp.worker.engine.stages import hearing_stages
from ovms_mp.worker.load.forms import FormLoader, form_loader, may_have_forms
from ovms_mp.worker.load.kept_files import files_of

if TYPE_CHECKING:
    import openvino as ov

    from ovms_mp.child.specs import CpuShare
    from ovms_mp.wire.channels import Wakeup
    from ovms_mp.wire.messages import LoadModel
    from ovms_mp.wire.run_page import RunPage
    from ovms_mp.worker.load.compiled import CompiledVersion
    from ovms_mp.worker.load.forms import Load
    from ovms_mp.worker.load.loaded import LoadedVersion

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class LoadOutcome:
    """What the loader thread hands back to the loop."""

    request: LoadModel
    loaded: LoadedVersion | None
    error: OvmsError | None
    seconds: float
    forms: FormLoader | None = None


class Loader:
    """One load at a time; what is let go does not wait for one."""

    def __init__(
        self, core: ov.Core, cpu: CpuShare, wakeup: Wakeup, page: RunPage, load_version: Load
    ) -> None:
        """Prepare; no thread runs before there is work for it.

        Args:
            core: The process's core.
            cpu: This worker's part of the machine.
            wakeup: Wakes the loop when :attr:`outcomes` or :attr:`stages` has something.
            page: Where loads are marked, so that nothing else is blamed for what they do.
            load_version: Loads one.
        """
        self._load_version = load_version
        self._page = page
        self._core = core
        self._cpu = cpu
        self._wakeup = wakeup
        self.outcomes: deque[LoadOutcome] = deque()
        self.stages: deque[LoadProgress] = deque()
        self._threads = ThreadPoolExecutor(1, thread_name_prefix="loader")
        self._cleaner = ThreadPoolExecutor(1, thread_name_prefix="cleaner")

    def load(self, request: LoadModel) -> None:
        """Load a version when those before it are done; the outcome comes in :attr:`outcomes`."""
        self._threads.submit(self._load, request)

    def release(self, compiled: CompiledVersion) -> None:
        """Give a compiled model's memory back to the machine. Nothing may use it any more."""
        self._cleaner.submit(_release, compiled)

    def _load(self, request: LoadModel) -> None:
        start = time.monotonic()
        loaded: LoadedVersion | None = None
        forms: FormLoader | None = None
        error: OvmsError | None = None
        mark = self._page.begin((0, 0), NOT_A_TASK, request.handle)
        try:
            # Before it is loaded: a file that is changed meanwhile is another one's.
            files = files_of(request.model_file) if may_have_forms(request) else None
            priority = contextlib.nullcontext() if request.is_urgent else low_priority()
            with priority, hearing_stages(partial(self._tell_stage, request.handle)):
                loaded = self._load_version(self._core, request, self._cpu)
            forms = form_loader(self._core, request, self._cpu, loaded, self._load_version, files)
            call_strays_back(self._cpu)
        except OvmsError as reason:
            error = reason
        except Exception as raised:
            # A defect, or an engine failure of a kind we have not met: it is this version's status, not the
            # worker's end.
            _log.exception("event=load_raised model=%s version=%d", request.name, request.version)
            error = ModelLoadFailed(f"{type(raised).__name__}: {raised}")
        finally:
            self._page.end(mark)
        self.outcomes.append(LoadOutcome(request, loaded, error, time.monotonic() - start, forms))
        self._wakeup.set()
        # What the model was read into, which for a large one is its size once or twice.
        contain("worker.give_back", request.name, _give_back)

    def _tell_stage(self, handle: int, stage: str) -> None:
        self.stages.append(LoadProgress(handle, stage))
        self._wakeup.set()


def _release(compiled: CompiledVersion) -> None:
    """Runs in the cleaner thread."""
    try:
        compiled.close()
        _give_back()
    except Exception:
        # Nobody waits for this; the memory stays in use, which the manager's limit sees.
        _log.exception("event=release_raised")


def _give_back() -> None:
    """Give memory that nothing uses any more back to the machine."""
    # Whatever of the engine hangs in a cycle of references.
    gc.collect()
    # glibc keeps what is freed in its heaps: a model of 100 MB leaves about its size behind. malloc_trim(3)
    ctypes.CDLL(None).malloc_trim(0)
