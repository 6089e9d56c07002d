# SPDX-License-Identifier: Apache-2.0
"""The check that asks for keys, and what it writes into the log."""

from __future__ import annotations

import hashlib
import logging
from dataclasses import dataclass

import pytest

from ovms_mp.errors import OvmsError, PermissionRefused, Unauthenticated
from ovms_mp.front.access.keys import Keys
from ovms_mp.front.access.refusals import KeyRefusals
from ovms_mp.front.call_context import CallContext
from ovms_mp.wire.records import KeyRecord

from ..callers import Caller

MINUTE_NS = 60 * 10**9


@dataclass
class Player(Caller):
    """A client, and a clock."""

    peer: str = "192.0.2.1:4711"
    now_ns: int = 1
    certificate_name: str = ""

    def clock(self) -> int:
        return self.now_ns


def record(name: str, key: str, *, is_admin: bool = False) -> KeyRecord:
    return KeyRecord(name, hashlib.sha256(key.encode()).digest(), is_admin)


def keys_of(origin: Player, *, needs_key: bool = True, needs_admin_key: bool = True) -> Keys:
    keys = Keys(needs_key=needs_key, needs_admin_key=needs_admin_key, refusals=KeyRefusals(origin.clock))
    keys.replace([record("user", "u"), record("admin", "a", is_admin=True)])
    return keys


def call(origin: Player, *given: str, changes_server: bool = False, is_open: bool = False) -> CallContext:
    origin.metadata = tuple(("authorization", value) for value in given)
    return CallContext(0, 0, "tfs", "Predict", origin, "REST", changes_server=changes_server, is_open=is_open)


@pytest.mark.parametrize("needs_key", [True, False])
@pytest.mark.parametrize("needs_admin_key", [True, False])
@pytest.mark.parametrize("changes_server", [True, False])
@pytest.mark.parametrize("is_open", [True, False])
@pytest.mark.parametrize("key", ["", "x", "u", "a"])
def test_who_is_let_in(
    needs_key: bool, needs_admin_key: bool, changes_server: bool, is_open: bool, key: str
) -> None:
    origin = Player()
    keys = keys_of(origin, needs_key=needs_key, needs_admin_key=needs_admin_key)
    context = call(origin, *[f"Bearer {key}"] * bool(key), changes_server=changes_server, is_open=is_open)
    needs_admin = changes_server and needs_admin_key
    if is_open or not (needs_key or needs_admin):
        refusal: type[OvmsError] | None = None
    elif key in ("", "x"):
        refusal = Unauthenticated
    else:
        refusal = PermissionRefused if needs_admin and key == "u" else None

    if refusal is None:
        keys.check(context)
        assert not context.reply_metadata
    else:
        with pytest.raises(refusal):
            keys.check(context)
        assert context.reply_metadata[0][0] == "www-authenticate"
    known = {"u": "user", "a": "admin"}
    assert context.caller in ("", known.get(key, ""))


@pytest.mark.parametrize(
    "given", [("Bearer u", "Bearer u"), ("Basic u",), ("u",), ("Bearer",), ("Bearer \udcff",)]
)
def test_what_is_no_key_is_refused(given: tuple[str, ...]) -> None:
    origin = Player()
    with pytest.raises(Unauthenticated):
        keys_of(origin).check(call(origin, *given))


def test_before_keys_are_known_nobody_is_let_in() -> None:
    origin = Player()
    keys = Keys(needs_key=True, needs_admin_key=False, refusals=KeyRefusals(origin.clock))
    with pytest.raises(Unauthenticated):
        keys.check(call(origin, "Bearer u"))


def test_a_key_of_both_files_is_an_administrators() -> None:
    origin = Player()
    keys = keys_of(origin)
    for order in (1, -1):
        keys.replace([record("user", "k"), record("admin", "k", is_admin=True)][::order])
        keys.check(call(origin, "Bearer k", changes_server=True))


def refuse(keys: Keys, origin: Player, times: int = 1) -> None:
    for _ in range(times):
        with pytest.raises(Unauthenticated):
            keys.check(call(origin, "Bearer wrong"))


def test_a_peer_has_one_line_a_minute_with_what_came_meanwhile(caplog: pytest.LogCaptureFixture) -> None:
    origin = Player()
    keys = keys_of(origin)
    with caplog.at_level(logging.WARNING):
        refuse(keys, origin, 5)
        origin.peer = "192.0.2.1:9999"
        refuse(keys, origin, 5)
        origin.peer = "[2001:db8::1]:1"
        refuse(keys, origin)
        origin.peer, origin.now_ns = "192.0.2.1:4711", origin.now_ns + MINUTE_NS
        refuse(keys, origin, 2)
    lines = [entry.getMessage() for entry in caplog.records]

    assert [line.split()[1] for line in lines] == ["peer=192.0.2.1", "peer=2001:db8::1", "peer=192.0.2.1"]
    assert [line.rpartition("=")[2] for line in lines] == ["0", "0", "9"]
    assert not any("wrong" in line for line in lines)


def test_many_peers_do_not_fill_the_log(caplog: pytest.LogCaptureFixture) -> None:
    origin = Player()
    keys = keys_of(origin)
    with caplog.at_level(logging.WARNING):
        for number in range(3000):
            origin.peer = f"10.0.{number // 256}.{number % 256}:1"
            refuse(keys, origin)

    assert len(caplog.records) == 100


def test_only_the_name_of_a_key_is_logged_as_one(caplog: pytest.LogCaptureFixture) -> None:
    origin = Player()
    keys = keys_of(origin)
    context = call(origin, "Bearer x")
    context.caller = "a certificate"
    with pytest.raises(Unauthenticated):
        keys.check(context)
    origin.peer = "192.0.2.2:1"
    with pytest.raises(PermissionRefused):
        keys.check(call(origin, "Bearer u", changes_server=True))

    assert "key_name" not in caplog.messages[0]
    assert "key_name=user" in caplog.messages[1]


@pytest.mark.parametrize("needs_key", [True, False])
def test_probes_without_a_key_are_not_told_the_load(needs_key: bool) -> None:
    origin = Player()
    probe = call(origin, is_open=True)
    probe.load_format = "text"
    keys_of(origin, needs_key=needs_key).check(probe)

    assert probe.load_format == ("" if needs_key else "text")
