# SPDX-License-Identifier: Apache-2.0
"""Where lines go: files that are renamed, cut or removed, and streams that nobody reads. No write waits or raises."""

from __future__ import annotations

import contextlib
import fcntl
import os
import socket
import termios
from typing import TYPE_CHECKING

import pytest

from ovms_mp.log_sinks import FileSink, StreamSink

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

LONG = b"x" * 3999 + b"\n"


@pytest.fixture
def sink(tmp_path: Path) -> Iterator[FileSink]:
    made = FileSink(str(tmp_path / "log"))
    yield made
    made.close()


def renamed(path: Path) -> None:
    path.rename(path.with_name("log.1"))


def removed(path: Path) -> None:
    path.unlink()


def replaced(path: Path) -> None:
    other = path.with_name("other")
    other.touch()
    other.replace(path)


def directory_replaced(path: Path) -> None:
    path.parent.rename(path.parent.with_name("moved"))
    path.parent.mkdir()


@pytest.mark.parametrize("change", [renamed, removed, replaced, directory_replaced])
def test_the_next_line_goes_to_the_new_file(
    sink: FileSink, tmp_path: Path, change: Callable[[Path], None]
) -> None:
    assert sink.write(b"1\n")
    change(tmp_path / "log")
    assert sink.write(b"2\n")

    assert (tmp_path / "log").read_bytes() == b"2\n"


def test_a_file_that_is_cut_goes_on_at_its_beginning(sink: FileSink, tmp_path: Path) -> None:
    sink.write(b"1\n")
    os.truncate(tmp_path / "log", 0)
    sink.write(b"2\n")

    assert (tmp_path / "log").read_bytes() == b"2\n"


def test_what_cannot_be_opened_any_more_is_written_where_it_was(sink: FileSink, tmp_path: Path) -> None:
    sink.write(b"1\n")
    (tmp_path / "log").rename(tmp_path / "log.1")
    os.mkfifo(tmp_path / "log")

    assert sink.write(b"2\n")
    assert (tmp_path / "log.1").read_bytes() == b"1\n2\n"


def test_processes_append_to_one_file(sink: FileSink, tmp_path: Path) -> None:
    other = FileSink(str(tmp_path / "log"))
    for text in (b"1\n", b"2\n"):
        sink.write(text)
        other.write(text.upper())
    other.close()

    assert (tmp_path / "log").read_bytes() == b"1\n1\n2\n2\n"


def test_an_idle_process_lets_go_of_a_removed_file_when_asked(sink: FileSink, tmp_path: Path) -> None:
    sink.write(b"1\n")
    number = sink.fileno()
    (tmp_path / "log").unlink()
    sink.reopen()

    assert sink.fileno() == number
    assert os.fstat(number).st_ino == os.stat(tmp_path / "log").st_ino
    assert not os.get_inheritable(number)


def test_a_full_disk() -> None:
    full = FileSink("/dev/full")
    assert not full.write(b"1\n")
    assert full.reason == "No space left on device"
    full.close()


def test_a_path_that_cannot_be_opened_is_tried_again(tmp_path: Path) -> None:
    missing = FileSink(str(tmp_path / "directory" / "log"))
    assert not missing.write(b"1\n")
    (tmp_path / "directory").mkdir()
    missing.reopen()
    assert missing.write(b"2\n")
    missing.close()

    assert (tmp_path / "directory" / "log").read_bytes() == b"2\n"


def test_a_fifo_whose_reader_comes_and_goes(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "log")
    fifo = FileSink(str(tmp_path / "log"))
    assert not fifo.write(b"1\n")
    reader = os.open(tmp_path / "log", os.O_RDONLY | os.O_NONBLOCK)
    fifo.reopen()
    assert fifo.write(b"2\n")
    assert os.read(reader, 100) == b"2\n"
    os.close(reader)
    assert not fifo.write(b"3\n")
    reader = os.open(tmp_path / "log", os.O_RDONLY | os.O_NONBLOCK)
    assert fifo.write(b"4\n")
    assert os.read(reader, 100) == b"4\n"
    os.close(reader)
    fifo.close()


@contextlib.contextmanager
def pipe() -> Iterator[tuple[int, int]]:
    with contextlib.ExitStack() as stack:
        ends = os.pipe()
        for end in ends:
            stack.callback(close_quietly, end)
        yield ends


@contextlib.contextmanager
def non_blocking_pipe() -> Iterator[tuple[int, int]]:
    with pipe() as (read, write):
        os.set_blocking(write, False)
        yield read, write


@contextlib.contextmanager
def socket_pair() -> Iterator[tuple[int, int]]:
    read, write = socket.socketpair()
    with read, write:
        ends = read.detach(), write.detach()
        yield ends
        for end in ends:
            close_quietly(end)


@contextlib.contextmanager
def terminal() -> Iterator[tuple[int, int]]:
    ends = os.openpty()
    attributes = termios.tcgetattr(ends[1])
    attributes[1] &= ~termios.OPOST
    termios.tcsetattr(ends[1], termios.TCSANOW, attributes)
    yield ends
    for end in ends:
        close_quietly(end)


def close_quietly(descriptor: int) -> None:
    with contextlib.suppress(OSError):
        os.close(descriptor)


STREAMS = [pipe, non_blocking_pipe, socket_pair, terminal]


def drained(descriptor: int) -> bytes:
    os.set_blocking(descriptor, False)
    found = b""
    with contextlib.suppress(BlockingIOError):
        while piece := os.read(descriptor, 1 << 20):
            found += piece
    return found


@pytest.mark.parametrize("stream", STREAMS)
def test_a_stream_that_nobody_reads_loses_lines_and_comes_back(
    stream: Callable[[], contextlib.AbstractContextManager[tuple[int, int]]],
) -> None:
    with stream() as (read, write):
        flags = fcntl.fcntl(write, fcntl.F_GETFL)
        sink = StreamSink(write, "stderr")
        written = 0
        while sink.write(LONG):
            written += 1
        sink.lost = 1
        assert not sink.write(LONG)
        assert sink.reason == "nobody reads it"
        assert drained(read).count(LONG) == written
        assert sink.write(b"again\n")
        *_, last = drained(read).splitlines()
        assert last == b"again"
        # The description is others', too.
        assert fcntl.fcntl(write, fcntl.F_GETFL) == flags
        sink.close()


@pytest.mark.parametrize("stream", [pipe, non_blocking_pipe, socket_pair])
def test_a_stream_whose_reader_is_gone(
    stream: Callable[[], contextlib.AbstractContextManager[tuple[int, int]]],
) -> None:
    with stream() as (read, write):
        sink = StreamSink(write, "stderr")
        os.close(read)
        assert not sink.write(b"1\n")
        assert sink.reason == "Broken pipe"
        sink.close()


def test_a_reader_that_was_gone_before(tmp_path: Path) -> None:
    with pipe() as (read, write):
        os.close(read)
        sink = StreamSink(write, "stderr")
        assert not sink.write(b"1\n")
        sink.close()


def test_a_stream_that_is_a_file_keeps_its_place(tmp_path: Path) -> None:
    descriptor = os.open(tmp_path / "out", os.O_WRONLY | os.O_CREAT)
    os.write(descriptor, b"others'\n")
    sink = StreamSink(descriptor, "stderr")
    assert sink.write(b"ours\n")
    os.write(descriptor, b"others'\n")
    os.close(descriptor)

    assert (tmp_path / "out").read_bytes() == b"others'\nours\nothers'\n"


def test_no_stream_loses_nothing() -> None:
    with pipe() as (_, write):
        number = write
    sink = StreamSink(number, "stderr")

    assert sink.write(b"1\n")
    sink.close()
