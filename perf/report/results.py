# SPDX-License-Identifier: Apache-2.0
"""Result files: written line by line, read as a whole."""

from __future__ import annotations

from pathlib import Path
from types import TracebackType

import msgspec

from perf.report.records import SCHEMA, AnyRecord, Environment


class ResultRefused(Exception):
    """A result file without environment, or of another schema."""


class ResultWriter:
    """Writes a result file line by line; the environment is its first line. Keeps the records for the table.

    Args:
        path: Written anew.
        environment: Where the run takes place; there is no result without.
    """

    def __init__(self, path: Path, environment: Environment) -> None:
        self._file = path.open("wb")
        self.records: list[AnyRecord] = []
        self.write(environment)

    def write(self, record: AnyRecord) -> None:
        """Append a record, at once: an aborted run leaves what it has."""
        self.records.append(record)
        self._file.write(msgspec.json.encode(record) + b"\n")
        self._file.flush()

    def __enter__(self) -> ResultWriter:
        """The writer itself."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Close the file."""
        self._file.close()


def read_results(path: Path) -> list[AnyRecord]:
    """Read a result file.

    Raises:
        ResultRefused: It does not begin with an environment, has another schema, or a line is no record.
    """
    decoder = msgspec.json.Decoder(AnyRecord)
    try:
        records: list[AnyRecord] = [decoder.decode(line) for line in path.read_bytes().splitlines()]
    except msgspec.DecodeError as error:
        raise ResultRefused(f"{path}: {error}") from None
    if not records or not isinstance(records[0], Environment):
        raise ResultRefused(
            f"{path}: its first line is not the environment; figures without one mean nothing"
        )
    if records[0].schema != SCHEMA:
        raise ResultRefused(f"{path}: schema {records[0].schema}, this program reads {SCHEMA}")
    return records
