# SPDX-License-Identifier: Apache-2.0
"""What the log says when the server becomes ready, and when it starts or stops serving anything at all.

Two forms: the line that scripts of OVMS users wait for, which names only models that are served or on their way; and
one for people, which says what is served, what is not and why, and where to ask. What fails later is told to people by
a line of its own, once for each reason, however often it is tried again.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from ovms_mp.config.addresses import split_addresses
from ovms_mp.log import tell_everybody, tell_people
from ovms_mp.manager.fronts.listeners import ALL_ADDRESSES
from ovms_mp.model.status import State

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from ovms_mp.config.server import ServerConfig
    from ovms_mp.wire.records import ModelRecord, VersionRecord

_log = logging.getLogger(__name__)

_MOST_NAMED = 10
_SHOWN_FOR_ALL = "0.0.0.0"
"""Every address, as people and links know it; those of IPv6 are meant, too, where the machine has it."""
_COMING = (State.START, State.LOADING)
_STILL_LOADING, _NO_VERSION, _UNLOADED = "(still loading)", "(it has no version)", "(unloaded by a client)"


class Announcement:
    """Tells once, and again when the server begins or ceases to serve anything."""

    def __init__(self, config: ServerConfig) -> None:
        """Prepare; nothing has been told."""
        self._config = config
        self._was_serving: bool | None = None
        self._loaded: list[tuple[str, str]] = []
        self._has_told_scripts = False
        self._told_missing: frozenset[str] = frozenset()

    def loaded(self, version: str, detail: str) -> None:
        """Log that a version is served; those loaded during the start share one line once the server is ready.

        Args:
            version: E.g. ``lin/1``.
            detail: How it runs, e.g. its streams and infer requests.
        """
        self._loaded.append((version, detail))
        if self._was_serving is not None:
            self._tell_loaded()

    def _tell_loaded(self) -> None:
        loaded, self._loaded = self._loaded, []
        if len(loaded) == 1:
            tell_people(_log, "Loaded %s: %s", *loaded[0])
        elif loaded:
            tell_people(
                _log, "Loaded %d versions: %s", len(loaded), _some([version for version, _ in loaded])
            )

    def tell(self, models: Sequence[ModelRecord], notes: Mapping[str, Sequence[str]]) -> None:
        """Log what is served, if that is news.

        Args:
            models: As clients see them.
            notes: What is odd about the base paths of models, by name.
        """
        self._tell_loaded()
        names = [model.name for model in models if any(map(_is_promising, model.versions))]
        if names and not self._has_told_scripts:
            self._has_told_scripts = True
            self._tell_scripts(names)
        serving = _serving(models)
        missing = _missing(models, notes)
        reasons = [text for text in missing if not text.endswith((_STILL_LOADING, _NO_VERSION, _UNLOADED))]
        former, self._told_missing = self._told_missing, frozenset(reasons)
        level = logging.ERROR if any(map(_has_failed, models)) else logging.WARNING
        is_change = self._was_serving is not bool(serving)
        # Where only errors are logged, the line that says what is ready is not.
        if not is_change or (serving and not _log.isEnabledFor(logging.INFO)):
            news = [text for text in reasons if text not in former]
            if news:
                tell_people(_log, "Not serving %s", _some(news), level=level)
        if not is_change:
            return
        self._was_serving = bool(serving)
        if serving:
            without = f"; not serving {_some(missing)}" if missing else ""
            text = f"Ready: {self._addresses()}  serving {_some(serving)}{without}"
            tell_everybody(_log, logging.INFO, "%s", text)
            tell_people(_log, "%s", self._example(serving[0].rpartition("/")[0]))
        else:
            text = f"Listening, but serving nothing: {_some(missing) or 'no models'}  {self._addresses()}"
            tell_everybody(_log, level, "%s", text)

    def _tell_scripts(self, names: Sequence[str]) -> None:
        text = ", ".join(repr(name) for name in names)
        for protocol, config in (("gRPC", self._config.grpc), ("REST", self._config.rest)):
            places = [f"port {config.tcp_port}"] if config.tcp_port else []
            for place in (*places, *(f"unix:{path}" for path in config.unix_paths)):
                _log.info("%s server listens on %s and will be serving models: [%s]", protocol, place, text)

    def _example(self, model: str) -> str:
        """How to ask what just became ready."""
        rest = self._config.rest
        if not rest.is_served:
            return "Ask: ovms_mp status"
        if not rest.tcp_port:
            url = f"http://localhost/v1/models/{model}/metadata"
            return f"Ask: curl --unix-socket {rest.unix_paths[0]} {url}  or: ovms_mp status"
        host = _shown_address(rest.bind_address)
        host = "127.0.0.1" if host == _SHOWN_FOR_ALL else host
        tls = self._config.tls
        url = f"{'https' if tls.files else 'http'}://{host}:{rest.port}/v1/models/{model}/metadata"
        trust = "--cacert CA.pem " if tls.files else ""
        shown = "--cert CLIENT.pem --key CLIENT.key " if tls.client_ca else ""
        return f"Ask: curl {trust}{shown}{url}  or: ovms_mp status"

    def _addresses(self) -> str:
        rest, grpc, is_secure = self._config.rest, self._config.grpc, self._config.tls.files is not None
        parts = []
        if rest.tcp_port:
            scheme = "https" if is_secure else "http"
            parts.append(f"REST {scheme}://{_shown_address(rest.bind_address)}:{rest.port}{rest.prefix}")
        parts += [f"REST unix:{path}" for path in rest.unix_paths]
        if grpc.tcp_port:
            parts.append(
                f"gRPC {'grpcs://' if is_secure else ''}{_shown_address(grpc.bind_address)}:{grpc.port}"
            )
        parts += [f"gRPC unix:{path}" for path in grpc.unix_paths]
        return "  ".join(parts)


def _shown_address(bind_address: str) -> str:
    """The first of these addresses, as a URL has it."""
    addresses = split_addresses(bind_address)
    # Beside an address of IPv4, all of IPv6 is just that.
    if "0.0.0.0" in addresses or (addresses and set(addresses) <= set(ALL_ADDRESSES)):
        return _SHOWN_FOR_ALL
    first = addresses[0] if addresses else ""
    return f"[{first}]" if ":" in first and not first.startswith("[") else first


def _is_promising(version: VersionRecord) -> bool:
    """Whether it is served, or may be in a moment."""
    state = State(version.state)
    return state is State.AVAILABLE or (state in _COMING and not version.error_code)


def _has_failed(model: ModelRecord) -> bool:
    return any(version.error_code for version in model.versions)


def _serving(models: Sequence[ModelRecord]) -> list[str]:
    return [
        f"{model.name}/{version.version}"
        for model in models
        for version in model.versions
        if version.state == State.AVAILABLE
    ]


def _missing(models: Sequence[ModelRecord], notes: Mapping[str, Sequence[str]]) -> list[str]:
    """What is not served, each with its reason."""
    found: list[str] = []
    for model in models:
        if model.is_unloaded:
            found.append(f"{model.name} {_UNLOADED}")
            continue
        failed = [version for version in model.versions if version.error_code]
        found += [f"{model.name}/{version.version} ({version.error_message})" for version in failed]
        loading = [version for version in model.versions if _is_promising(version)]
        if not failed and not any(version.state == State.AVAILABLE for version in loading):
            if loading:
                found.append(f"{model.name} {_STILL_LOADING}")
            else:
                reason = "; ".join(notes.get(model.name, ()))
                found.append(f"{model.name} ({reason})" if reason else f"{model.name} {_NO_VERSION}")
    return found


def _some(texts: Sequence[str]) -> str:
    named = ", ".join(texts[:_MOST_NAMED])
    return f"{named} and {len(texts) - _MOST_NAMED} more" if len(texts) > _MOST_NAMED else named
