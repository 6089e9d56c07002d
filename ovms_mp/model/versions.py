# SPDX-License-Identifier: Apache-2.0
"""Version policies: which of the versions on disk a model wants to serve. Pure; run by the manager.

The JSON forms are those of OVMS: ``{"latest": {"num_versions": 2}}``, ``{"all": {}}``,
``{"specific": {"versions": [1, 3]}}``.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

from ovms_mp.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Iterable


@dataclass(frozen=True, slots=True)
class Latest:
    """Serve the ``num_versions`` highest versions."""

    num_versions: int = 1


@dataclass(frozen=True, slots=True)
class All:
    """Serve every version."""


@dataclass(frozen=True, slots=True)
class Specific:
    """Serve these versions, those of them that exist."""

    versions: frozenset[int]


VersionPolicy: TypeAlias = Latest | All | Specific

_FORMS = '{"latest": {"num_versions": N}}, {"all": {}} or {"specific": {"versions": [N, ...]}} with positive integers N'


def desired_versions(available: Iterable[int], policy: VersionPolicy) -> tuple[int, ...]:
    """The versions to serve, ascending.

    Args:
        available: Versions that could be served, in any order.
        policy: What the model's configuration asks for.
    """
    ascending = sorted(set(available))
    match policy:
        case Latest(num_versions=count):
            return tuple(ascending[-count:])
        case All():
            return tuple(ascending)
        case Specific(versions=wanted):
            return tuple(version for version in ascending if version in wanted)


def parse_policy(document: object) -> VersionPolicy:
    """Read a policy from its decoded JSON form.

    Raises:
        ConfigError: Naming the value and the accepted forms.
    """
    match document:
        case {"all": dict() as body, **rest} if not body and not rest:
            return All()
        case {"latest": dict() as body, **rest} if not rest and set(body) <= {"num_versions"}:
            count = body.get("num_versions", 1)
            # The legacy server sliced with [-0:], so 0 meant every version; its users may rely on it.
            if _is_positive(count) or (count == 0 and not isinstance(count, bool)):
                return Latest(count) if count else All()
        case {"specific": {"versions": list() as versions, **body_rest}, **rest} if (
            not rest and not body_rest
        ):
            if versions and all(_is_positive(version) for version in versions):
                return Specific(frozenset(versions))
    raise ConfigError(f"model_version_policy {document!r} is not valid; accepted: {_FORMS}")


def policy_document(policy: VersionPolicy) -> dict[str, dict[str, int | list[int]]]:
    """The JSON form of a policy; :func:`parse_policy` reads it."""
    match policy:
        case Latest(num_versions=count):
            return {"latest": {"num_versions": count}}
        case All():
            return {"all": {}}
        case Specific(versions=versions):
            return {"specific": {"versions": sorted(versions)}}


def _is_positive(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 1
