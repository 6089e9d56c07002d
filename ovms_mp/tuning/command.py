# SPDX-License-Identifier: Apache-2.0
"""``ovms_mp tune MODEL_PATH``."""

from __future__ import annotations

import functools
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from ovms_mp.bench import flags
from ovms_mp.bench.command import (
    INTERRUPTED,
    check_writable,
    print_lines,
    unwind_like_ctrl_c,
    write_svg,
)
from ovms_mp.bench.failure import NoMeasurement
from ovms_mp.codes import ExitCode
from ovms_mp.config.argument_parser import Parser
from ovms_mp.config.json_document import Findings as ConfigFindings
from ovms_mp.config.json_document import child_place
from ovms_mp.config.model_keys import MODEL_KEYS, UNSUPPORTED_MODEL_KEYS
from ovms_mp.config.model_settings import read_model
from ovms_mp.errors import ConfigError
from ovms_mp.log import say
from ovms_mp.places import absolute_path, usable_cores
from ovms_mp.storage.local import list_versions
from ovms_mp.tuning.candidates import first_candidates, neighbours
from ovms_mp.tuning.explain import Findings, findings_lines, findings_svg
from ovms_mp.tuning.sandbox import Sandbox
from ovms_mp.tuning.search import Search
from ovms_mp.tuning.target import Target, parse_target
from ovms_mp.tuning.trials import Sample, Trials, most_loaded

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from ovms_mp.tuning.search import Trial

_MOST_BUDGET_S = 86_400.0
_LONGEST_SHOWN = 100


def run_tune(arguments: Sequence[str], environment: Mapping[str, str]) -> int:
    """Read flags, search, show; the exit code.

    Raises:
        ConfigError: A flag is wrong.
    """
    given = tune_parser().read(arguments)
    path = absolute_path(given["model_path"], "MODEL_PATH")
    if not path.exists():
        raise ConfigError(f"MODEL_PATH {given['model_path']} does not exist")
    cores = len(usable_cores())
    target = parse_target(given["target"], cores)
    name = given["name"] or (path.stem if path.is_file() else path.name)
    keys = _keys(given)
    _check_model(name, path, keys)
    check_writable(given["svg"])
    sample = Sample(
        given=tuple(given["input"]),
        shapes=flags.shapes(given["shape"]),
        batch=flags.batch(given),
        timeout_s=flags.seconds(given, "timeout"),
    )
    budget_s = flags.number(given["budget"], "budget", 1.0, _MOST_BUDGET_S)
    load_timeout_s = flags.seconds(given, "load_timeout")
    unwind_like_ctrl_c()
    try:
        with Sandbox(str(path), keys, environment, load_timeout_s) as sandbox:
            room = most_loaded(path, cores, Path("/proc/meminfo").read_text())
            trials = Trials(sandbox, target, sample, environment, room)
            found = _searched(target, trials, keys, cores=cores, budget_s=budget_s, name=name, path=str(path))
    except NoMeasurement as error:
        say(f"ovms_mp: error: {error.message}")
        return ExitCode.BOOT_FAILED
    _show(found, trials, given["svg"])
    if found.trouble:
        say(f"ovms_mp: error: {found.trouble}")
        return ExitCode.BOOT_FAILED
    if not found.is_complete:
        return INTERRUPTED
    return ExitCode.CLEAN if found.search.best() else ExitCode.BOOT_FAILED


def tune_parser() -> Parser:
    """The flags."""
    parser = Parser(
        prog="ovms_mp tune",
        operands="MODEL_PATH",
        description="Find out how many streams, workers and infer requests serve a model best on this machine, by "
        "short runs of a real server that nobody else can reach, and print what to write into the configuration.",
        examples=(
            ("most answers a second", "ovms_mp tune models/resnet"),
            ("fastest answer to a lone request", "ovms_mp tune models/resnet --target latency"),
            (
                "the slowest hundredth below 50 ms, at 100 requests a second",
                "ovms_mp tune models/bert --target p99:50ms@100/s --shape ids=1,128 --shape mask=1,128",
            ),
            ("longer, so more exact, with a plot", "ovms_mp tune model.onnx --budget 300 --svg tune.svg"),
        ),
        closing="Each setting is looked at once; the better half goes on, measured by turns as machines are noisy; "
        "then settings next to the best; the last ones run five times by turns, beside what the server does with "
        "nothing set. Of those within a hundredth of each other the one that sets least wins. Stop other work on the "
        "machine meanwhile. Ctrl-C prints what is known so far and leaves nothing behind.\n\n"
        "Exit codes: 0 found, 2 usage, 3 the model cannot be served.",
    )
    parser.add_argument(
        "model_path",
        metavar="MODEL_PATH",
        help="as --model_path of the server: a directory with version directories, or a model file",
    )
    aim = parser.add_argument_group("aim")
    aim.add_argument(
        "--target",
        default="throughput",
        metavar="TARGET",
        help="throughput: most answers with at least 16, or 4 times as many as cores, in flight (default); "
        "throughput@N: with N in flight; latency: the median of requests that travel alone; p99:50ms@100/s: the "
        "slowest hundredth, when 100 requests arrive each second",
    )
    aim.add_argument(
        "--budget",
        default="120",
        metavar="S",
        help="about how long it may take; the first look at each setting is always finished (default 120)",
    )
    model = parser.add_argument_group("model")
    model.add_argument(
        "--name", default="", metavar="NAME", help="name in the snippet (default: the path's last part)"
    )
    model.add_argument("--target_device", default="", metavar="DEVICE", help="OpenVINO device (default CPU)")
    model.add_argument(
        "--keys",
        default="{}",
        metavar="JSON",
        help="""keys that are fixed, as in '{"shape": "(1,3,224,224)"}'; `ovms_mp help settings` lists them""",
    )
    model.add_argument(
        "--load_timeout",
        default="300",
        metavar="S",
        help="how long loading one setting may take (default 300)",
    )
    request = parser.add_argument_group("request")
    flags.add_input_flags(request)
    request.add_argument(
        "--timeout", default="30", metavar="S", help="time after which a request has failed (default 30)"
    )
    parser.add_argument_group("result").add_argument(
        "--svg", default="", metavar="FILE", help="write a plot of what was tried"
    )
    return parser


def _keys(given: Mapping[str, Any]) -> dict[str, object]:
    """Keys of the model that are not varied.

    Raises:
        ConfigError: They are no JSON object, or say what is ours to say.
    """
    try:
        keys = msgspec.json.decode(given["keys"], type=dict[str, object])
    except msgspec.MsgspecError as error:
        raise ConfigError(f"--keys {given['keys']!r}: {error}; accepted: a JSON object") from None
    for ours in ("name", "base_path"):
        if ours in keys:
            raise ConfigError(f"--keys: {ours} is said by MODEL_PATH and --name")
    if given["target_device"]:
        keys["target_device"] = given["target_device"]
    return keys


def _check_model(name: str, path: Path, keys: dict[str, object]) -> None:
    """See that there is something to serve: a server would wait until there is, or is configured right.

    Raises:
        ConfigError: No version is there, or no configuration may say this.
    """
    findings = ConfigFindings(is_strict=True)
    findings.unknown_keys("--keys", keys, MODEL_KEYS, UNSUPPORTED_MODEL_KEYS)
    body = {"name": name, "base_path": str(path), **keys}
    read_model(body, findings, Path("/"), lambda key: child_place("--keys", key), may_climb=True)
    findings.finish()
    listing = list_versions(path)
    if not listing.model_files:
        why = next((f" ({entry} {problem})" for entry, problem in listing.problems.items()), "")
        raise ConfigError(f"MODEL_PATH {path} holds no version with a model{why}")


def _searched(
    target: Target,
    trials: Trials,
    keys: Mapping[str, object],
    *,
    cores: int,
    budget_s: float,
    name: str,
    path: str,
) -> Findings:
    begun_s = time.monotonic()
    progress = _Progress(target)
    search = Search(
        first_candidates(cores, str(keys.get("target_device") or "CPU"), keys),
        functools.partial(neighbours, cores=cores, given=keys),
        trials,
        budget_s=budget_s,
        clock=time.monotonic,
        least_seconds=target.least_seconds(),
        on_run=progress.tell,
    )
    print_lines([f"{name}: {target.text()}; {len(search.trials)} settings to begin with, {budget_s:g} s"])
    is_complete, trouble = False, ""
    try:
        search.run()
        is_complete = True
    except KeyboardInterrupt:
        pass
    except NoMeasurement as error:
        if not any(trial.score for trial in search.trials):
            raise
        trouble = error.message  # What was found before it is worth being told.
    finally:
        progress.clear()
    return Findings(
        target=target,
        search=search,
        levels=trials.levels,
        failures=trials.failures,
        name=name,
        path=path,
        given=keys,
        seconds=time.monotonic() - begun_s,
        is_complete=is_complete,
        trouble=trouble,
    )


class _Progress:
    """One line that is written over; without a terminal a line for each round."""

    def __init__(self, target: Target) -> None:
        self._target = target
        self._round = ""
        self._runs = 0

    def tell(self, trial: Trial, name: str) -> None:
        """A run has ended."""
        self._runs += 1
        if sys.stderr.isatty():
            text = (
                f"[run {self._runs}, {name}] {trial.candidate.text()}: {self._target.shown(trial.scores[-1])}"
            )
            sys.stderr.write(f"\r\x1b[K{text[:_LONGEST_SHOWN]}")
        elif name != self._round:
            sys.stderr.write(f"{name} ...\n")
        self._round = name
        sys.stderr.flush()

    @staticmethod
    def clear() -> None:
        """Leave the line to what follows."""
        if sys.stderr.isatty():
            sys.stderr.write("\r\x1b[K")
            sys.stderr.flush()


def _show(found: Findings, trials: Trials, svg_path: str) -> None:
    sent = [f"request: {line}" if not index else f"note: {line}" for index, line in enumerate(trials.inputs)]
    print_lines([*sent, "", *findings_lines(found)])
    if svg_path:
        write_svg(svg_path, findings_svg(found))
