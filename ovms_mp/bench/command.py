# SPDX-License-Identifier: Apache-2.0
"""``ovms_mp bench URL MODEL``."""

from __future__ import annotations

import signal
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from ovms_mp.bench import flags
from ovms_mp.bench.endpoint import Endpoint, parse_endpoint
from ovms_mp.bench.failure import NoMeasurement
from ovms_mp.bench.load import Load
from ovms_mp.bench.measuring import Means, measure
from ovms_mp.bench.preparation import Prepared, Subject, prepare, read_metrics
from ovms_mp.bench.report import Report, head_lines, report_svg, table_lines
from ovms_mp.codes import ExitCode
from ovms_mp.config.target_flags import read_key
from ovms_mp.errors import ConfigError
from ovms_mp.log import say
from ovms_mp.log_forms import printable

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from ovms_mp.bench.figures import Level

_USUAL_LEVELS = "1,2,4,8,16"
INTERRUPTED = 128 + signal.SIGINT
_SLACK_S = 0.5


def run_bench(arguments: Sequence[str], environment: Mapping[str, str]) -> int:
    """Read flags, measure, show; the exit code.

    Raises:
        ConfigError: A flag is wrong.
    """
    given = flags.bench_parser().read(arguments)
    subject = _subject(given, environment)
    loads = _Loads(given)
    check_writable(given["svg"])
    unwind_like_ctrl_c()
    try:
        prepared = prepare(subject)
        with tempfile.TemporaryDirectory(prefix="ovms-mp-bench-") as scratch:
            means = Means(
                generator=given["generator"],
                processes=flags.processes(given),
                answer_bytes=prepared.answer_bytes,
                scratch=Path(scratch),
                environment=environment,
                metrics=_metrics(subject, given),
            )
            report = _measured(subject, prepared, loads.of(subject, prepared), means, as_json=given["json"])
    except NoMeasurement as error:
        say(printable(f"ovms_mp: error: {error.message}"))
        return ExitCode.BOOT_FAILED
    return _show(report, given)


def _subject(given: Mapping[str, Any], environment: Mapping[str, str]) -> Subject:
    endpoint = parse_endpoint(given["url"])
    if endpoint.is_grpc and given["api"] == "kserve_json":
        raise ConfigError("--api kserve_json is for http:// and https://; accepted for gRPC: kserve, tfs")
    version = given["model_version"]
    return Subject(
        endpoint=endpoint,
        model=given["model"],
        api=given["api"],
        version=str(flags.whole(version, "model_version", 1, 2**63 - 1)) if version else "",
        key=read_key(given, environment),
        trust=flags.trust(given),
        given=tuple(given["input"]),
        shapes=flags.shapes(given["shape"]),
        batch=flags.batch(given),
        timeout_s=flags.seconds(given, "timeout"),
    )


class _Loads:
    """The levels that were asked for."""

    def __init__(self, given: Mapping[str, Any]) -> None:
        if given["concurrency"] and given["rate"]:
            raise ConfigError("--concurrency is a closed loop and --rate an open one; give one of them")
        self._levels: tuple[int, ...] = ()
        self._rates: tuple[float, ...] = ()
        if given["rate"]:
            self._rates = flags.rates(given["rate"])
        else:
            self._levels = flags.levels(given["concurrency"] or _USUAL_LEVELS)
        self._arrivals = given["arrivals"]
        self._connections = flags.whole(given["connections"], "connections", 1, flags.MOST_IN_FLIGHT)
        self._warmup_s = flags.seconds(given, "warmup", 0.0)
        self._seconds = flags.seconds(given, "seconds")

    def of(self, subject: Subject, prepared: Prepared) -> list[Load]:
        """Loads of the prepared request."""
        return [
            Load(
                endpoint=subject.endpoint,
                request=prepared.request,
                trust=subject.trust,
                in_flight=level,
                rate_per_s=rate,
                arrivals=self._arrivals,
                connections=min(self._connections, level) if level else self._connections,
                warmup_s=self._warmup_s,
                seconds=self._seconds,
                timeout_s=subject.timeout_s,
            )
            for level, rate in (
                *((level, 0.0) for level in self._levels),
                *((0, rate) for rate in self._rates),
            )
        ]


def _metrics(subject: Subject, given: Mapping[str, Any]) -> Any:
    """What reads the server's metrics, if it is known where they are and they are shown."""
    endpoint: Endpoint | None = None if subject.endpoint.is_grpc else subject.endpoint
    if given["metrics"]:
        endpoint = parse_endpoint(given["metrics"], "--metrics")
        if endpoint.is_grpc:
            raise ConfigError("--metrics is the server's REST address, as in http://127.0.0.1:8000")
    if endpoint is None:
        return None
    found = endpoint
    page = read_metrics(found, subject.trust, subject.key)
    if page is None and given["metrics"]:
        raise NoMeasurement(
            f"{found.url} shows no metrics; the server needs --metrics_enable and a REST port"
        )
    return None if page is None else lambda: read_metrics(found, subject.trust, subject.key)


def _measured(
    subject: Subject, prepared: Prepared, loads: Sequence[Load], means: Means, *, as_json: bool
) -> Report:
    notes = list(prepared.notes)
    if subject.endpoint.is_local:
        notes.append("the load takes processor time from the server, which runs on this machine")
    report = Report(
        url=subject.endpoint.url,
        model=subject.model,
        api=subject.api,
        inputs=prepared.inputs,
        request_bytes=len(prepared.request.body),
        answer_bytes=prepared.answer_bytes,
        levels=(),
        notes=tuple(notes),
    )
    if not as_json:
        print_lines(head_lines(report))
    levels: list[Level] = []
    is_complete = True
    try:
        for index, load in enumerate(loads):
            _tell_progress(load, index, len(loads))
            level = measure(load, means, subject.model)
            levels.append(level)
            if level.is_cut:
                is_complete = False
                break
    except KeyboardInterrupt:
        is_complete = False  # Between two levels.
    finally:
        if sys.stderr.isatty():
            sys.stderr.write("\r\x1b[K")
    return msgspec.structs.replace(report, levels=tuple(levels), is_complete=is_complete)


def _tell_progress(load: Load, index: int, count: int) -> None:
    """One line that is written over, for whoever sits there."""
    if sys.stderr.isatty():
        what = f"{load.in_flight} in flight" if load.in_flight else f"{load.rate_per_s:g}/s"
        sys.stderr.write(f"\r\x1b[K[{index + 1}/{count}] {what}, {load.total_s:g} s ...")
        sys.stderr.flush()


def _show(report: Report, given: Mapping[str, Any]) -> int:
    if given["json"]:
        sys.stdout.write(msgspec.json.format(msgspec.json.encode(report)).decode() + "\n")
    else:
        print_lines(["", *table_lines(report.levels)])
        if not report.is_complete:
            print_lines(["interrupted; these are the figures so far"])
    if given["svg"] and report.levels:
        write_svg(given["svg"], report_svg(report))
    if not report.is_complete:
        return INTERRUPTED
    return ExitCode.CLEAN if any(level.answered for level in report.levels) else ExitCode.BOOT_FAILED


def unwind_like_ctrl_c() -> None:
    """Have `timeout` and a terminal's end leave neither servers nor generators behind."""
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.default_int_handler)


def check_writable(path: str) -> None:
    """Before anything is measured.

    Raises:
        ConfigError: The file cannot be written.
    """
    if path:
        try:
            with open(path, "a"):
                pass
        except OSError as error:
            raise ConfigError(f"--svg {path}: {error.strerror}") from None


def write_svg(path: str, text: str) -> None:
    """Keep a plot.

    Raises:
        ConfigError: The file cannot be written any more.
    """
    try:
        Path(path).write_text(text)
    except OSError as error:
        raise ConfigError(f"--svg {path}: {error.strerror}") from None


def print_lines(lines: Sequence[str]) -> None:
    """Write to stdout at once, without what could move a terminal's cursor."""
    sys.stdout.write("".join(f"{printable(line)}\n" for line in lines))
    sys.stdout.flush()
