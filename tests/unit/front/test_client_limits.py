# SPDX-License-Identifier: Apache-2.0
"""Requests of one client: who has too many is refused, and what has ended makes room."""

from __future__ import annotations

import pytest

from ovms_mp.errors import TooManyRequests
from ovms_mp.front.call_context import CallContext
from ovms_mp.front.client_limits import ClientLimits

from .callers import Caller


class Clients:
    def __init__(self, most: int) -> None:
        self.now_ns = 10**9
        self.limits = ClientLimits(most, lambda: self.now_ns)

    def call(self, peer: str, *, flow: int = 0, caller: str = "", is_open: bool = False) -> CallContext:
        context = CallContext(0, flow, "tfs", "Predict", Caller(peer), "gRPC", self.now_ns, is_open=is_open)
        context.caller = caller
        self.limits.begun(context)
        try:
            self.limits.check(context)
        except TooManyRequests as refusal:
            self.limits.ended(context, refusal.code, refusal)
            raise
        return context

    def end(self, context: CallContext) -> None:
        self.limits.ended(context, None, None)


@pytest.mark.parametrize(
    ("first", "second", "is_same"),
    [
        ("10.0.0.1:1", "10.0.0.1:2", True),
        ("10.0.0.1:1", "10.0.0.2:1", False),
        ("[2001:db8::1]:1", "[2001:db8::1]:2", True),
        ("[2001:db8::1]:1", "[2001:db8::2]:1", False),
        ("[::ffff:10.0.0.1]:1", "10.0.0.1:1", True),
    ],
)
def test_a_client_is_an_address(first: str, second: str, is_same: bool) -> None:
    clients = Clients(1)
    clients.call(first, flow=1)
    if not is_same:
        clients.call(second, flow=2)
        return
    with pytest.raises(
        TooManyRequests, match=r"has 1 requests under way, the limit \(--max_requests_per_client\)"
    ):
        clients.call(second, flow=2)


@pytest.mark.parametrize(("flows", "is_same"), [((1, 1), True), ((1, 2), False), ((0, 0), True)])
def test_on_a_unix_socket_a_client_is_a_connection(flows: tuple[int, int], is_same: bool) -> None:
    clients = Clients(1)
    clients.call("unix:/run/s", flow=flows[0])
    if not is_same:
        clients.call("unix:/run/s", flow=flows[1])
        return
    with pytest.raises(TooManyRequests):
        clients.call("unix:/run/s", flow=flows[1])


def test_a_key_is_a_client_wherever_it_comes_from() -> None:
    clients = Clients(1)
    clients.call("10.0.0.1:1", caller="batch")
    clients.call("10.0.0.1:1", caller="web")
    with pytest.raises(TooManyRequests, match="key 'batch'"):
        clients.call("10.0.0.2:1", caller="batch")


def test_what_has_ended_makes_room_and_refusals_take_none() -> None:
    clients = Clients(2)
    held = [clients.call("10.0.0.1:1") for _ in range(2)]
    for _ in range(3):
        with pytest.raises(TooManyRequests):
            clients.call("10.0.0.1:1")
    clients.end(held.pop())
    held.append(clients.call("10.0.0.1:1"))
    with pytest.raises(TooManyRequests):
        clients.call("10.0.0.1:1")


def test_probes_do_not_count() -> None:
    clients = Clients(1)
    clients.call("10.0.0.1:1")
    for _ in range(3):
        clients.end(clients.call("10.0.0.1:1", is_open=True))


def test_a_message_of_a_stream_takes_and_gives_back_nothing() -> None:
    clients = Clients(1)
    stream = clients.call("10.0.0.1:1")
    for _ in range(2):
        part = stream.part("ModelInfer", clients.now_ns)
        clients.limits.check(part)
        clients.end(part)
    with pytest.raises(TooManyRequests):
        clients.call("10.0.0.1:1")


def test_who_is_refused_hears_when_one_of_its_requests_may_have_ended() -> None:
    clients = Clients(4)
    held = [clients.call("10.0.0.1:1") for _ in range(4)]
    with pytest.raises(TooManyRequests) as unknown:
        clients.call("10.0.0.1:1")
    clients.now_ns += 2 * 10**9
    clients.end(held.pop())
    held.append(clients.call("10.0.0.1:1"))
    with pytest.raises(TooManyRequests) as known:
        clients.call("10.0.0.1:1")

    assert unknown.value.retry_after_s == 0.0
    assert known.value.retry_after_s == pytest.approx(0.5)


def test_who_had_a_stream_for_days_is_not_sent_away_for_hours() -> None:
    clients = Clients(2)
    held = [clients.call("10.0.0.1:1") for _ in range(2)]
    clients.now_ns += 3 * 86400 * 10**9
    clients.end(held.pop())
    held.append(clients.call("10.0.0.1:1"))
    with pytest.raises(TooManyRequests) as refused:
        clients.call("10.0.0.1:1")

    assert refused.value.retry_after_s == 10.0


def test_clients_without_requests_are_forgotten() -> None:
    clients = Clients(4)
    for number in range(100):
        clients.end(clients.call(f"10.0.0.{number}:1"))

    assert not clients.limits._clients
    assert not clients.limits._held
