# SPDX-License-Identifier: Apache-2.0
"""``python -m tests.support.write_tables``: write the tables that pages derive from the code."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

from ovms_mp.config.declared import settings_table
from ovms_mp.config.model_keys import UNSUPPORTED_MODEL_KEYS, UNSUPPORTED_ROOT_KEYS, model_settings_table
from ovms_mp.config.ovms_flags import IGNORED_FLAGS, REFUSED_FLAGS
from ovms_mp.docs import DIRECTORY
from ovms_mp.docs.tables import (
    codes_table,
    errors_table,
    exit_codes_table,
    own_metrics_table,
    pages_table,
    states_table,
)
from ovms_mp.front.metrics.ovms import OvmsMetrics
from ovms_mp.model.metric_names import DEFAULT_METRICS

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from ovms_mp.wire.counters import CounterReader
    from ovms_mp.wire.messages import RoutingSnapshot


def ovms_metrics_table() -> str:
    """The families that have OVMS's names; what they are made from is not looked at."""
    families = OvmsMetrics(cast("Callable[[], RoutingSnapshot]", None), cast("CounterReader", None))()
    shown = {True: "yes", False: "no"}
    rows = [
        f"| `{family.name}` | {family.kind.value} | {shown[family.name in DEFAULT_METRICS]} | {family.help} |"
        for family in families
    ]
    return "\n".join(("| name | kind | shown by default | meaning |", "|---|---|---|---|", *rows))


def refused_keys_table() -> str:
    """Keys of OVMS's configuration files that have no counterpart."""
    rows = [
        f"| `{key}` | {place} | {unsupported.remedy} |"
        for place, keys in (("a model", UNSUPPORTED_MODEL_KEYS), ("the file", UNSUPPORTED_ROOT_KEYS))
        for key, unsupported in keys.items()
    ]
    return "\n".join(("| key | of | instead |", "|---|---|---|", *rows))


def ovms_flags_table() -> str:
    """Flags of OVMS that do nothing here, or are refused."""
    rows = [
        f"| `--{flag}` | {what} | {reason} |"
        for what, flags in (("taken with a notice", IGNORED_FLAGS), ("refused", REFUSED_FLAGS))
        for flag, reason in flags.items()
    ]
    return "\n".join(("| flag | is | because |", "|---|---|---|", *rows))


TABLES: Mapping[tuple[str, str], Callable[[], str]] = {
    ("SETTINGS.md", "settings"): settings_table,
    ("SETTINGS.md", "model settings"): model_settings_table,
    ("SETTINGS.md", "refused keys"): refused_keys_table,
    ("SETTINGS.md", "OVMS flags"): ovms_flags_table,
    ("ERRORS.md", "codes"): codes_table,
    ("ERRORS.md", "failures"): errors_table,
    ("ERRORS.md", "states"): states_table,
    ("ERRORS.md", "exit codes"): exit_codes_table,
    ("METRICS.md", "metrics of OVMS"): ovms_metrics_table,
    ("METRICS.md", "own metrics"): own_metrics_table,
    ("HOW_TO.md", "pages"): pages_table,
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
