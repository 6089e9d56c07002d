# SPDX-License-Identifier: Apache-2.0
"""Counters in memory that outlives the processes that write it; whoever has the file mapped reads all of them.

::

    file:      | directory | row 0 | row 1 | ...        a row for each front's arena, then one for each worker's seat
    directory: | row 0 is used | row 1 is used | ...    8 bytes each
    row:       | page 0 | page 1 | ... | page 4095 |    page 0: of the process itself; others: one for each version
    page:      | 512 words of 8 bytes |
    page 0:    | 448 words of the process | 64 words: a bit for each page that was written |

An anonymous sparse file like the arenas: a version takes a page of memory for each process that counts something of it.
A row has one writer at a time. A successor goes on adding to what it finds, so a death loses nothing.

SAFETY: no lock is needed. A word has one writer, so ``+=`` loses nothing; no two threads of a process write the same
row. Words are aligned, and CPython reads and writes an item of a view of format ``Q`` with one 8-byte load or store,
which is single-copy atomic on x86-64 and on aarch64 (Intel SDM 3A, 9.1.1; Arm ARM, B2.2.1): a reader sees the old or
the new number. It may see one word of a page new and another one still old. What was written before a message was sent
is seen by whoever has received that, as the kernel's locks in between order both.

PERF: 54 ns to add to a word (CPython 3.11, 2-core Xeon). Reading does not touch pages that nobody has written, as that
would allocate them.
"""

from __future__ import annotations

import mmap
import os
import sys
from typing import TYPE_CHECKING

from ovms_mp.wire.call_counters import close_page
from ovms_mp.wire.records import NO_COUNTERS, CountersHandle

if TYPE_CHECKING:
    from collections.abc import Iterator

PAGE_WORDS = 512
PAGES = 4096
"""In a row. So counters are kept for 4095 versions at once; what is beyond them is served and not counted."""
PROCESS_PAGE = 0
"""Of the process itself; no version has it, so it stands for none, too."""

_WORD_BYTES = 8
_PAGE_BYTES = PAGE_WORDS * _WORD_BYTES
_ROW_BYTES = PAGES * _PAGE_BYTES
_WRITTEN_WORDS = PAGES // 64
_FIRST_WRITTEN_WORD = PAGE_WORDS - _WRITTEN_WORDS
PROCESS_WORDS = _FIRST_WRITTEN_WORD
"""Words of page 0 that are free for a process's own counters."""
MOST_ROWS = 4096
_DIRECTORY_BYTES = MOST_ROWS * _WORD_BYTES


def create_counters_file(rows: int) -> CountersHandle:
    """Make the memfd; the caller owns the descriptor (close-on-exec until it is passed on).

    Raises:
        OSError: The kernel refuses.
        ValueError: More rows than the directory has words for.
    """
    if rows > MOST_ROWS:
        raise ValueError(f"{rows} rows; at most {MOST_ROWS}")
    descriptor = os.memfd_create("ovms_mp-counters", os.MFD_CLOEXEC)
    try:
        os.ftruncate(descriptor, _DIRECTORY_BYTES + rows * _ROW_BYTES)
    except OSError:
        os.close(descriptor)
        raise
    return CountersHandle(descriptor, rows)


def _row_offset(row: int) -> int:
    return _DIRECTORY_BYTES + row * _ROW_BYTES


class CounterRow:
    """The row of this process, to write to. A process that was given none counts in memory of its own."""

    def __init__(self, handle: CountersHandle = NO_COUNTERS, row: int = -1) -> None:
        """Map a row, and say that it is used.

        Args:
            handle: The file, if there is one.
            row: Its number; negative for none.
        """
        if not 0 <= row < handle.rows:
            self._map = mmap.mmap(-1, _ROW_BYTES)
        else:
            with mmap.mmap(handle.descriptor, _DIRECTORY_BYTES) as directory:
                directory[row * _WORD_BYTES : (row + 1) * _WORD_BYTES] = (1).to_bytes(
                    _WORD_BYTES, sys.byteorder
                )
            self._map = mmap.mmap(handle.descriptor, _ROW_BYTES, offset=_row_offset(row))
        self._words = memoryview(self._map).cast("Q")

    def page(self, page: int) -> memoryview:
        """The words of a page, which are to be read or written only after :meth:`mark`."""
        return self._words[page * PAGE_WORDS : (page + 1) * PAGE_WORDS]

    def mark(self, page: int) -> None:
        """Have readers look at a version's page from now on."""
        self._words[_FIRST_WRITTEN_WORD + page // 64] |= 1 << page % 64


class CounterReader:
    """All rows, to read. Belongs to one thread."""

    def __init__(self, handle: CountersHandle) -> None:
        """Map the directory; a row is mapped when it is used.

        Args:
            handle: The file; one without rows has nothing to read.
        """
        self._handle = handle
        self._rows: dict[int, memoryview] = {}
        self._directory = memoryview(b"").cast("Q")
        if handle.rows:
            directory = mmap.mmap(handle.descriptor, _DIRECTORY_BYTES, prot=mmap.PROT_READ)
            self._directory = memoryview(directory).cast("Q")[: handle.rows]

    def pages(self, page: int) -> Iterator[memoryview]:
        """The words of a version's page in each row that has it written."""
        bit, word = 1 << page % 64, _FIRST_WRITTEN_WORD + page // 64
        for row in self.used_rows():
            if (words := self._row(row))[word] & bit:
                yield words[page * PAGE_WORDS : (page + 1) * PAGE_WORDS]

    def used_rows(self) -> list[int]:
        """Numbers of the rows that some process has written to."""
        return [row for row, is_used in enumerate(self._directory.tolist()) if is_used]

    def _row(self, row: int) -> memoryview:
        words = self._rows.get(row)
        if words is None:
            mapped = mmap.mmap(
                self._handle.descriptor, _ROW_BYTES, prot=mmap.PROT_READ, offset=_row_offset(row)
            )
            words = self._rows[row] = memoryview(mapped).cast("Q")
        return words


class CountersFile:
    """The manager's: owns the file, gives rows to workers and has pages begin at zero."""

    def __init__(self, front_rows: int, worker_rows: int) -> None:
        """Make the file.

        Args:
            front_rows: A front's row is the number of its arena.
            worker_rows: Given out by :meth:`take_row`.

        Raises:
            OSError: The kernel refuses.
        """
        self.handle = create_counters_file(front_rows + worker_rows)
        self.reader = CounterReader(self.handle)
        self._free_rows = list(range(front_rows, front_rows + worker_rows))[::-1]

    def take_row(self) -> int:
        """A row for a worker's seat; -1 where there is none left, and that worker's counts are lost."""
        return self._free_rows.pop() if self._free_rows else -1

    def give_row_back(self, row: int) -> None:
        """Its writer has ended; the next one goes on adding."""
        if row >= 0:
            self._free_rows.append(row)

    def clear(self, page: int) -> None:
        """Have a page begin at zero, and give its memory back; nobody may be writing it."""
        for row in self.reader.used_rows():
            # SAFETY: a mapping survives this and reads zeros, as the file keeps its length.
            with mmap.mmap(self.handle.descriptor, _ROW_BYTES, offset=_row_offset(row)) as mapped:
                mapped.madvise(mmap.MADV_REMOVE, page * _PAGE_BYTES, _PAGE_BYTES)

    def close_row(self, row: int) -> None:
        """Settle what a process had under way; it has been reaped, and nobody else has its row yet."""
        if not 0 <= row < self.handle.rows:
            return
        with (
            mmap.mmap(self.handle.descriptor, _ROW_BYTES, offset=_row_offset(row)) as mapped,
            memoryview(mapped) as octets,
            octets.cast("Q") as words,
        ):
            for index, bits in enumerate(words[_FIRST_WRITTEN_WORD:PAGE_WORDS].tolist()):
                for page in (64 * index + bit for bit in range(64) if bits >> bit & 1):
                    with words[page * PAGE_WORDS : (page + 1) * PAGE_WORDS] as written:
                        close_page(written)

    def close(self) -> None:
        """Give the descriptor back."""
        os.close(self.handle.descriptor)
