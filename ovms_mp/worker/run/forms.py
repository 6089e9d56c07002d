# SPDX-License-Identifier: Apache-2.0
"""Forms: a version's second compiled model, for requests that come together, and which of the two runs tasks.

::

    loaded: LATENCY --requests come together--> THROUGHPUT is compiled beside it, at low priority --> in use, as long as
                                                it answers more (demand.py)
    not in use for a minute --> dropped; compiled again when it is wanted

A version's pool is that of the form in use, so that nothing is decided for a task: the pools change places after a run
has ended, and what is handed over ends where it is. The second form takes memory for its weights once more, as
OpenVINO shares them among the streams of one compiled model only (2026.4: ResNet-50, 102 MB in its file, 160 MB); hence
the limit.

Belongs to the loop's thread, but for what is said to run in another.
"""

from __future__ import annotations

import logging
import time
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ovms_mp.child.memory import read_available_memory
from ovms_mp.defects import contain
from ovms_mp.errors import ModelLoadFailed, OvmsError
from ovms_mp.wire.messages import PlanChanged
from ovms_mp.wire.run_page import SECOND_FORM
from ovms_mp.worker.engine.affinity import call_strays_back, low_priority
from ovms_mp.worker.run.demand import Demand, Form
from ovms_mp.worker.run.form_state import Forms
from ovms_mp.worker.run.pool import InferPool

if TYPE_CHECKING:
    from collections.abc import Callable

    from ovms_mp.child.control import ControlLink
    from ovms_mp.child.specs import CpuShare
    from ovms_mp.wire.channels import Wakeup
    from ovms_mp.wire.run_page import RunPage
    from ovms_mp.worker.load.forms import FormLoader, LoadedForm
    from ovms_mp.worker.load.loader import Loader
    from ovms_mp.worker.run.served import ServedVersion

_log = logging.getLogger(__name__)

_UNUSED_S = 60.0
"""A form that has not been in use for so long is dropped."""
_TELL_S = 1.0
"""The manager, and by it fronts and people, hear of a version's form once in so long at most."""
_AGAIN_S = 60.0
"""So long after memory forbade a form it is asked for again."""


@dataclass(frozen=True, slots=True)
class _Made:
    """What the compiling thread hands back to the loop."""

    version: ServedVersion
    form: Form
    made: LoadedForm | None
    error: OvmsError | None


class FormKeeper:
    """The forms of all versions of one worker."""

    def __init__(
        self,
        control: ControlLink,
        loader: Loader,
        wakeup: Wakeup,
        cpu: CpuShare,
        page: RunPage,
        available: Callable[[], int] = read_available_memory,
    ) -> None:
        """Prepare; no thread runs before there is work for it.

        Args:
            control: Where the manager hears of changes.
            loader: Gives memory back.
            wakeup: Wakes the loop when the thread has something for :meth:`take_outcomes`.
            cpu: This worker's part of the machine.
            page: Where compilations are marked, so that nobody's request is blamed for what they do.
            available: Bytes of memory that can be had without taking any from others.
        """
        self._available_nbytes = available
        self._control = control
        self._loader = loader
        self._wakeup = wakeup
        self._cpu = cpu
        self._page = page
        self._versions: dict[int, ServedVersion] = {}
        self._due: deque[int] = deque()
        self._made: deque[_Made] = deque()
        self._next_sweep_s = 0.0
        self._compiler = ThreadPoolExecutor(1, thread_name_prefix="forms")

    def admit(
        self, version: ServedVersion, loader: FormLoader, detail: str, notices: tuple[str, ...]
    ) -> Forms[ServedVersion]:
        """Let a version that has just been taken into service have a second form.

        Args:
            version: With its first one.
            loader: Loads forms of it.
            detail: The first one's plan.
            notices: For its status.
        """
        version.forms = Forms(Demand(version.run_time_s), loader, {Form.LONE: detail}, notices, self._due)
        self._versions[version.handle] = version
        return version.forms

    def forget(self, version: ServedVersion) -> None:
        """A version ends; it is in the loop's table no more, and has nothing left."""
        forms, version.forms = version.forms, None
        if forms is None:
            return
        del self._versions[version.handle]
        if forms.other is not None:
            forms.discarded.append(forms.other)
        self._release(forms)

    def longest_wait_s(self) -> float | None:
        """How long the loop may wait before :meth:`advance` has something to do; None for ever."""
        return _TELL_S if any(_needs_sweep(version.forms) for version in self._versions.values()) else None

    def advance(self) -> None:
        """Change forms that should be changed, have them compiled, and drop those that nobody needs."""
        while self._due:
            version = self._versions.get(self._due.popleft())
            if version is not None and version.forms is not None and not version.is_retiring:
                contain("worker.form", version.title, self._attend, version, version.forms, time.monotonic())
        if not self._versions:
            return
        now_s = time.monotonic()
        if now_s < self._next_sweep_s:
            return
        self._next_sweep_s = now_s + _TELL_S
        for version in self._versions.values():
            if version.forms is not None and _needs_sweep(version.forms):
                contain("worker.form", version.title, self._sweep, version, version.forms, now_s)

    def take_outcomes(self) -> None:
        """Keep what has been compiled."""
        while self._made:
            made = self._made.popleft()
            forms = made.version.forms
            if forms is None:
                if made.made is not None:
                    self._loader.release(made.made.loaded.compiled)
                continue
            forms.is_compiling = False
            contain("worker.form", made.version.title, self._take, made, forms)

    def _attend(self, version: ServedVersion, forms: Forms[ServedVersion], now_s: float) -> None:
        if forms.other is not None:
            form = forms.demand.next_form(now_s)
            if form is not forms.demand.form:
                self._change(version, forms, form, now_s)
        elif (
            version.pool is not None
            and not forms.is_compiling
            and now_s >= forms.again_s
            and forms.demand.is_worth_compiling
        ):
            self._compile(version, forms, now_s)

    def _change(self, version: ServedVersion, forms: Forms[ServedVersion], form: Form, now_s: float) -> None:
        pool, forms.other = forms.other, version.pool
        forms.since_s = now_s
        forms.demand.changed(form, now_s)
        is_lone = form is Form.LONE
        version.use(pool, form, forms.demand.lone_s if is_lone else forms.demand.parallel_s)
        _log.debug("event=form_changed model=%r %s", version.title, forms.text)
        self._tell(version, forms, now_s)

    def _compile(self, version: ServedVersion, forms: Forms[ServedVersion], now_s: float) -> None:
        needed = max(forms.nbytes, forms.loader.least_nbytes)
        if text := self._over_limit(forms, needed):
            self._forbid(version, forms, text, now_s)
            return
        peak, left = max(needed, forms.loader.peak_nbytes), self._available_nbytes()
        if peak > left:
            text = f"compiling it takes {peak >> 20} MiB for a while, and the machine or container has {left >> 20}"
            self._forbid(version, forms, text, now_s)
            return
        form = Form.PARALLEL if forms.demand.form is Form.LONE else Form.LONE
        self._compiler.submit(self._make, version, forms.loader, form)
        forms.is_compiling = True

    def _over_limit(self, forms: Forms[ServedVersion], needed: int) -> str:
        """Why a second form that takes so many bytes is too much beside those of other versions; empty if it is not."""
        limit = forms.loader.limit_nbytes
        used = sum(
            max(other.nbytes, other.loader.least_nbytes)
            for version in self._versions.values()
            if (other := version.forms) is not None and other is not forms and other.has_second
        )
        if used + needed <= limit:
            return ""
        return (
            f"it takes {needed >> 20} MiB, second forms have {used >> 20} already, and --adaptive_memory_mb allows "
            f"{limit >> 20}"
        )

    def _forbid(self, version: ServedVersion, forms: Forms[ServedVersion], text: str, now_s: float) -> None:
        forms.again_s = now_s + _AGAIN_S
        if not forms.refusal:
            _log.warning("event=second_form_forbidden model=%r %s", version.title, text)
        forms.refusal = text
        self._tell(version, forms, now_s)

    def _make(self, version: ServedVersion, loader: FormLoader, form: Form) -> None:
        """Runs in the compiling thread."""
        made: LoadedForm | None = None
        error: OvmsError | None = None
        mark = self._page.begin((0, 0), SECOND_FORM, version.handle)
        try:
            with low_priority():
                made = loader.load(form.value)
            call_strays_back(self._cpu)
        except OvmsError as refusal:
            error = refusal
        except Exception as raised:
            # A defect, or an engine failure of a kind we have not met: the version goes on with the form it has.
            _log.exception("event=form_raised model=%r", version.title)
            error = ModelLoadFailed(f"{type(raised).__name__}: {raised}")
        finally:
            self._page.end(mark)
        self._made.append(_Made(version, form, made, error))
        self._wakeup.set()

    def _take(self, made: _Made, forms: Forms[ServedVersion]) -> None:
        version, now_s = made.version, time.monotonic()
        if made.made is None:
            forms.refusal = made.error.message if made.error else "unknown reason"
            forms.again_s = float("inf")
            _log.warning("event=second_form_failed model=%r reason=%s", version.title, forms.refusal)
            self._tell(version, forms, now_s)
            return
        loaded = made.made.loaded
        forms.nbytes = max(made.made.nbytes, forms.loader.least_nbytes)
        is_wanted = made.form is not forms.demand.form and forms.other is None
        text = self._over_limit(forms, forms.nbytes)
        if not is_wanted or text:
            if is_wanted:
                self._forbid(version, forms, text, now_s)
            self._loader.release(loaded.compiled)
            return
        forms.refusal = ""
        forms.details[made.form] = f"load_s={made.made.seconds:.3f} {loaded.detail}"
        forms.other = InferPool(version, loaded.compiled, f"infer-{version.handle}-{made.form.name.lower()}")
        forms.since_s = now_s
        if made.form is Form.PARALLEL:
            # Streams without an infer request run nothing.
            streams = min(loaded.compiled.streams, loaded.compiled.nireq)
            forms.demand.compiled(streams, loaded.run_time_s)
        _log.info(
            "event=second_form model=%r form=%s seconds=%.3f memory_mb=%d %s",
            version.title,
            made.form.value,
            made.made.seconds,
            forms.nbytes >> 20,
            loaded.detail,
        )
        self._attend(version, forms, now_s)

    def _sweep(self, version: ServedVersion, forms: Forms[ServedVersion], now_s: float) -> None:
        if forms.is_untold:
            self._tell(version, forms, now_s)
        other, demand = forms.other, forms.demand
        if other is not None and not other.handed_over:
            if demand.form is Form.PARALLEL and now_s - demand.asked_s > _UNUSED_S:
                self._change(version, forms, Form.LONE, now_s)
            elif now_s - forms.since_s > _UNUSED_S:
                _log.info("event=form_dropped model=%r in use: %s", version.title, forms.text)
                forms.discarded.append(other)
                forms.other = None
        self._release(forms)

    def _release(self, forms: Forms[ServedVersion]) -> None:
        """Give pools back whose tasks have ended; the others next time."""
        for pool in [pool for pool in forms.discarded if not pool.handed_over]:
            forms.discarded.remove(pool)
            pool.close()
            self._loader.release(pool.compiled)

    def _tell(self, version: ServedVersion, forms: Forms[ServedVersion], now_s: float) -> None:
        forms.is_untold = now_s - forms.told_s < _TELL_S
        if not forms.is_untold and version.pool is not None:
            forms.told_s = now_s
            compiled = version.pool.compiled
            self._control.send(PlanChanged(version.handle, compiled.nireq, compiled.streams, forms.detail()))


def _needs_sweep(forms: Forms[ServedVersion] | None) -> bool:
    return forms is not None and (forms.other is not None or forms.is_untold or bool(forms.discarded))
