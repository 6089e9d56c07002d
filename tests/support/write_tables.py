# SPDX-License-Identifier: Apache-2.0
"""``python -m tests.support.write_tables``: write the tables that pages derive from the code."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ovms_mp.config.declared import settings_table
from ovms_mp.config.model_keys import model_settings_table
from ovms_mp.docs import DIRECTORY
from ovms_mp.docs.tables import codes_table, errors_table, exit_codes_table, own_metrics_table, states_table

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

TABLES: Mapping[tuple[str, str], Callable[[], str]] = {
    ("SETTINGS.md", "settings"): settings_table,
    ("SETTINGS.md", "model settings"): model_settings_table,
    ("ERRORS.md", "codes"): codes_table,
    ("ERRORS.md", "failures"): errors_table,
    ("ERRORS.md", "states"): states_table,
    ("ERRORS.md", "exit codes"): exit_codes_table,
    ("METRICS.md", "own metrics"): own_metrics_table,
}
"""By page and mark."""


def marked(text: str, mark: str) -> str:
    """What a page has between two marks."""
    return text.partition(f"<!-- {mark} -->\n")[2].partition(f"\n<!-- /{mark} -->")[0]


def main() -> None:
    """Write them all."""
    for (file, mark), table in TABLES.items():
        path = DIRECTORY / file
        begin, _, rest = path.read_text().partition(f"<!-- {mark} -->\n")
        _, _, end = rest.partition(f"<!-- /{mark} -->")
        path.write_text(f"{begin}<!-- {mark} -->\n{table()}\n<!-- /{mark} -->{end}")


if __name__ == "__main__":
    main()
