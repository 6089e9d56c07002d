# SPDX-License-Identifier: Apache-2.0
"""Loading another form of a version that serves: the same files with another hint, and answers that are the same.

A form is loaded as the version was: from the cache where it is kept there, its outputs' way proven. Two forms may
differ in how an operation is divided among threads, and an engine may add in another order then. So that an answer
does not depend on how many others are asked for at that moment, the forms must agree bit by bit, unless the user has
asked for ``ADAPTIVE`` by name: on what the proof runs, and on random values, as sums of the proof's values are exact in
whichever order they are made. (OpenVINO 2026.4: ResNet-50, convolutions, matrix products and a transformer block agreed
bit by bit, in bf16 and in f32.)
"""

from __future__ import annotations

import logging
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from ovms_mp.errors import ModelLoadFailed, OvmsError
from ovms_mp.worker.engine.properties import is_adaptive, is_named_adaptive, with_hint
from ovms_mp.worker.load.agreement import sampled_answers
from ovms_mp.worker.load.batches import FirstForm
from ovms_mp.worker.load.kept_files import files_of

if TYPE_CHECKING:
    from typing import Protocol

    import openvino as ov

    from ovms_mp.child.specs import CpuShare
    from ovms_mp.wire.messages import LoadModel
    from ovms_mp.worker.load.kept_files import FileFacts
    from ovms_mp.worker.load.loaded import LoadedVersion

    class Load(Protocol):
        """How a version is loaded; :func:`ovms_mp.worker.load.loaded.load_version`, or that with what batches it."""

        def __call__(
            self, core: ov.Core, request: LoadModel, cpu: CpuShare, *, first: FirstForm | None = None
        ) -> LoadedVersion:
            """Load it; ``first`` is given for another form of a version that serves."""


_log = logging.getLogger(__name__)

_KIBIBYTE = 1024
_WHILE_COMPILING = 3
"""Times what a form takes at least: what is read, what is compiled of it, and what that passes through."""


@dataclass(frozen=True, slots=True)
class LoadedForm:
    """A form of a version.

    Attributes:
        nbytes: By how much this process has grown meanwhile.
    """

    loaded: LoadedVersion
    nbytes: int
    seconds: float


class FormLoader:
    """Loads forms of one version, for threads that may wait."""

    def __init__(
        self,
        core: ov.Core,
        request: LoadModel,
        cpu: CpuShare,
        loaded: LoadedVersion,
        load_version: Load,
        files: FileFacts | None,
    ) -> None:
        """Remember what the version is.

        Args:
            core: The process's core.
            request: How it was loaded.
            cpu: This worker's part of the machine.
            loaded: What that brought.
            load_version: What loads a form.
            files: What its files were before it was loaded; None where that cannot be said.
        """
        self._load_version = load_version
        self._core = core
        self._request = request
        self._cpu = cpu
        self._answers = loaded.answers
        # Now, as it does not serve yet.
        self._sampled = () if is_named_adaptive(request.settings) else sampled_answers(loaded.compiled)
        batches = loaded.compiled.batches
        self._first = FirstForm(None if batches is None else batches.verdict)
        self._specs = _specs(loaded)
        self._files = files
        # Once, as the loop asks, which must not wait for a file system.
        self.least_nbytes = _weights_nbytes(request.model_file)
        """What a form takes at least: about its weights."""

    @property
    def limit_nbytes(self) -> int:
        """Of the memory of all second forms of this process."""
        return self._request.settings.adaptive_bytes

    @property
    def peak_nbytes(self) -> int:
        """What compiling a form takes for a while."""
        return _WHILE_COMPILING * self.least_nbytes

    def load(self, hint: str) -> LoadedForm:
        """Load the form with a hint.

        Raises:
            OvmsError: It cannot be loaded, is another model by now, or answers differently.
        """
        start, before = time.monotonic(), own_nbytes()
        settings = self._request.settings
        config = with_hint(settings.plugin_config, hint)
        settings = msgspec.structs.replace(settings, plugin_config=config)
        loaded = self._load_version(
            self._core,
            msgspec.structs.replace(self._request, settings=settings),
            self._cpu,
            first=self._first,
        )
        try:
            self._check(loaded)
        except OvmsError:
            loaded.compiled.close()
            raise
        return LoadedForm(loaded, max(0, own_nbytes() - before), time.monotonic() - start)

    def _check(self, loaded: LoadedVersion) -> None:
        if self._files is None or files_of(self._request.model_file) != self._files:
            raise ModelLoadFailed("its files were changed after it was loaded")
        if loaded.shapes is not None or _specs(loaded) != self._specs:
            raise ModelLoadFailed("its inputs or outputs differ from those of the form that serves")
        if is_named_adaptive(self._request.settings):
            return
        can_compare = bool(self._answers) and loaded.compiled.has_tried_values
        if not can_compare or loaded.answers != self._answers or not self._agrees(loaded):
            what = "differs in some bits from" if can_compare else "cannot be compared with"
            raise ModelLoadFailed(
                f"what it answers {what} what the form that serves answers; PERFORMANCE_HINT ADAPTIVE in plugin_config "
                "allows that"
            )

    def _agrees(self, loaded: LoadedVersion) -> bool:
        found = sampled_answers(loaded.compiled)
        count = min(len(found), len(self._sampled))
        return count > 0 and found[:count] == self._sampled[:count]


def form_loader(
    core: ov.Core,
    request: LoadModel,
    cpu: CpuShare,
    loaded: LoadedVersion,
    load_version: Load,
    files: FileFacts | None,
) -> FormLoader | None:
    """What loads other forms of a version; None where it must have one only."""
    if loaded.shapes is not None or not may_have_forms(request):
        return None
    return FormLoader(core, request, cpu, loaded, load_version, files)


def may_have_forms(request: LoadModel) -> bool:
    """Whether a version may get a second form, as far as its settings go; one infer request has no use for it."""
    return request.may_adapt and request.settings.nireq != 1 and is_adaptive(request.settings)


def own_nbytes() -> int:
    """Memory that this process has for itself."""
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
    except OSError:
        return 0
    found = [line.split()[1] for line in lines if line.startswith("RssAnon:")]
    return _KIBIBYTE * int(found[0]) if found else 0


def _weights_nbytes(model_file: str) -> int:
    try:
        return sum(entry.stat().st_size for entry in _weights(model_file))
    except OSError:
        return 0


def _weights(model_file: str) -> list[Path]:
    given = Path(model_file)
    if given.is_dir():
        return [path for path in given.rglob("*") if path.is_file()]
    return [path for path in (given, given.with_suffix(".bin")) if path.is_file()]


def _specs(loaded: LoadedVersion) -> tuple[object, ...]:
    return tuple(
        (spec.name, spec.dtype, spec.bounds) for spec in (*loaded.compiled.inputs, *loaded.compiled.outputs)
    )
