# SPDX-License-Identifier: Apache-2.0
"""Base paths one level too high: a directory of models in the place of a model's."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from ovms_mp.model.formats import models_among, shown, version_number

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

_MOST_LOOKED_INTO = 50
_MOST_NAMED = 3


def models_below(base_path: Path, names: Sequence[str]) -> dict[str, str]:
    """The directories that could be base paths themselves, each with its model's relative name.

    Args:
        base_path: A directory without versions.
        names: Directories in it.
    """
    visible = [name for name in names if not name.startswith(".")]
    found = {name: _model_of(base_path / name) for name in visible[:_MOST_LOOKED_INTO]}
    return {name: model for name, model in found.items() if model}


def directory_of_models_text(base_path: Path, below: Mapping[str, str]) -> str:
    """What is wrong with a base path that holds these, and what to give instead."""
    (first, model), *_ = below.items()
    names = ", ".join(shown(name) for name in list(below)[:_MOST_NAMED])
    more = f" and {len(below) - _MOST_NAMED} more" if len(below) > _MOST_NAMED else ""
    return (
        f"is a directory of models ({names}{more}), not of one model's versions; give {shown(str(base_path / first))}, "
        f"which has {shown(model)}, or for several models a configuration file (--config_path)"
    )


def _model_of(directory: Path) -> str:
    """The model of its highest version; empty where there is none."""
    try:
        versions = {version_number(name): name for name in os.listdir(directory)}
        highest = versions[max(number for number in versions if number is not None)]
        models = models_among(os.listdir(directory / highest))
    except (OSError, ValueError):
        return ""  # No directory or version, or not ours to read.
    return f"{highest}/{models[0]}" if models else ""
