# SPDX-License-Identifier: Apache-2.0
"""A closed loop made by h2load (nghttp2), which needs fewer instructions for a request than anything in Python.

What it does not see: a gRPC status, which comes in trailers, so a failed call is a fast 200 to it. So one call is made
before (:mod:`ovms_mp.bench.preparation`), and the bytes of all answers are held against that one's
(:func:`is_trustworthy`). What it shows: its command line, to every user of the machine, so that it gets no API keys.

Its ``--warm-up-time`` is not used: h2load 1.52 counts the warm-up's bytes but not its requests. The first part of its
log is left out instead.
"""

from __future__ import annotations

import contextlib
import functools
import os
import re
import resource
import shutil
import signal
import subprocess
from typing import TYPE_CHECKING

import numpy as np

from ovms_mp.bench.failure import NoMeasurement
from ovms_mp.bench.load import Load, Observed
from ovms_mp.child.lifetime import die_with_parent

if TYPE_CHECKING:
    from pathlib import Path

_GRACE_S = 30.0
_END_GRACE_S = 5.0
_REQUESTS = re.compile(r"requests: \d+ total, (\d+) started, (\d+) done, (\d+) succeeded, (\d+) failed,")
_DATA_BYTES = re.compile(r"traffic: .*\((\d+)\) data$", re.MULTILINE)
_TOLERANCE = 0.5
"""Of the mean size of answers in JSON, whose numbers may have other digits."""
_SUCCESS = b"2"
_LOG_COLUMNS = 3


def is_usable(load: Load) -> bool:
    """Whether it is here and can make this load."""
    # 1.52 shows what it sends in its command line, and has neither client certificates nor an open loop.
    has_secret = "authorization" in load.request.headers or bool(load.trust.certificate)
    # Each of its connections has as many streams as any other.
    is_even = not load.endpoint.is_grpc or load.in_flight % min(load.connections, load.in_flight or 1) == 0
    return bool(load.in_flight) and is_even and not has_secret and shutil.which("h2load") is not None


def command(load: Load, body_path: Path, log_path: Path) -> list[str]:
    """The command line for a load."""
    endpoint, headers = load.endpoint, load.request.headers
    connections = min(load.connections, load.in_flight) if endpoint.is_grpc else load.in_flight
    words = ["h2load", "-t", "1", "-c", str(connections), "-D", f"{round(load.total_s * 1000)}ms"]
    words += ["--log-file", str(log_path), "-d", str(body_path)]
    words += ["-m", str(load.in_flight // connections)] if endpoint.is_grpc else ["--h1"]
    for name, value in headers.items():
        if not name.startswith(":") and name != "host":  # h2load writes those itself.
            words += ["-H", f"{name}: {value}"]
    if endpoint.unix_path:
        words += ["-B", f"unix:{endpoint.unix_path}"]
    scheme = "https" if endpoint.is_secure else "http"
    return [*words, f"{scheme}://{endpoint.authority}{load.request.path}"]


def run(load: Load, scratch: Path) -> Observed:
    """Apply a load; Ctrl-C ends it early.

    Raises:
        NoMeasurement: h2load cannot connect, or said something unknown.
    """
    body_path, log_path = scratch / "h2load-body", scratch / "h2load-log"
    body_path.write_bytes(load.request.body)
    log_path.unlink(missing_ok=True)
    before_s = _children_cpu_s()
    child = subprocess.Popen(
        command(load, body_path, log_path),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        # The terminal's Ctrl-C is for us, who pass it on. PERF: a session of its own is another one to the scheduler
        # (sched_autogroup), and where cores are scarce made half of the load.
        process_group=0,
        preexec_fn=functools.partial(die_with_parent, os.getpid()),  # no threads here
    )
    output, is_cut = "", False
    try:
        output, _ = child.communicate(timeout=load.total_s + _GRACE_S)
    except KeyboardInterrupt:
        is_cut = True
        child.send_signal(signal.SIGTERM)
        with contextlib.suppress(subprocess.TimeoutExpired):  # Its log has what there was.
            output, _ = child.communicate(timeout=_END_GRACE_S)
    except subprocess.TimeoutExpired:
        raise NoMeasurement("h2load does not end") from None
    finally:
        if child.poll() is None:
            child.kill()
            child.communicate()
    cpu_s = _children_cpu_s() - before_s
    log = log_path.read_bytes() if log_path.exists() else b""
    return observed(output, log, cpu_s / load.total_s, is_cut=is_cut)


def observed(output: str, log: bytes, cpu_share: float, *, is_cut: bool) -> Observed:
    """What the summary and the log say.

    The log's columns: start in us since the epoch, status, us until the end of the answer.

    Raises:
        NoMeasurement: It has sent nothing.
    """
    summary, data = _REQUESTS.search(output), _DATA_BYTES.search(output)
    rows = [row for line in log.splitlines() if len(row := line.split(b"\t")) >= _LOG_COLUMNS]
    is_connected = summary is not None and int(summary[1]) > 0
    if not rows and not is_cut and not is_connected:
        said = output.strip().rpartition("\n")[2][-200:]
        raise NoMeasurement(f"h2load had no answer; it says {said!r}")
    starts = np.array([int(row[0]) for row in rows], np.int64)
    begun = starts.min() if len(starts) else 0
    sent = (starts - begun) / 1e6
    ended = sent + np.array([int(row[2]) for row in rows], np.float64) / 1e6
    names = [""]
    codes = np.zeros(len(rows), np.uint16)
    for index, row in enumerate(rows):
        if not row[1].startswith(_SUCCESS):
            name = f"HTTP {row[1].decode('latin-1')}"
            if name not in names:
                names.append(name)
            codes[index] = names.index(name)
    started, done, good, failed = map(int, summary.groups()) if summary else (0, 0, 0, 0)
    if failed and len(names) == 1:
        names.append("failed")  # Without a line in the log, e.g. as the connection was lost.
    return Observed(
        intended_s=sent,
        sent_s=sent,
        ended_s=ended,
        codes=codes,
        outcomes=tuple(names),
        answer_bytes=int(data[1]) / good if data and good else 0.0,
        cpu_share=cpu_share,
        processes=1,
        generator="h2load",
        is_cut=is_cut,
        unfinished=started - done,
    )


def is_trustworthy(observed: Observed, answer_bytes: int, *, is_grpc: bool) -> bool:
    """Whether all answers were as long as the one that is known to be good.

    Args:
        observed: A load by h2load.
        answer_bytes: Of the good answer's body.
        is_grpc: A failed call has no body then, and no other sign.
    """
    if observed.is_cut and not observed.answer_bytes:
        return True  # It was ended before it could sum up.
    good = observed.answers
    more = round(observed.answer_bytes * good) - answer_bytes * good
    tolerance = 0 if is_grpc else _TOLERANCE * good
    # It counts what has come of answers that the end found under way, too.
    is_same = -tolerance <= more <= answer_bytes * observed.unfinished + tolerance
    return is_same and len(observed.outcomes) == 1


def _children_cpu_s() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime
