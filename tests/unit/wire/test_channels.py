# SPDX-License-Identifier: Apache-2.0
"""The poller over sockets, pipes and pidfds: what it reports, and that it forgets nothing."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from typing import TYPE_CHECKING

import pytest

from ovms_mp.wire.channels import Dealer, Poller, Router, Wakeup, new_endpoint
from tests.support.waiting import eventually

if TYPE_CHECKING:
    from collections.abc import Iterator

WITHIN_S = 10.0


@pytest.fixture
def poller() -> Iterator[Poller]:
    poller = Poller()
    yield poller
    poller.close()


@pytest.fixture
def pair() -> Iterator[tuple[Router, Dealer]]:
    endpoint = new_endpoint()
    with Router(endpoint) as router, Dealer(endpoint, b"d") as dealer:
        yield router, dealer


def test_a_message_is_reported_until_it_is_received(poller: Poller, pair: tuple[Router, Dealer]) -> None:
    router, dealer = pair
    poller.register(router)
    dealer.send(b"one")

    # A socket's own descriptor would signal this once; two waits must see it twice.
    assert poller.wait(WITHIN_S) == {router.fileno()}
    assert poller.wait(WITHIN_S) == {router.fileno()}
    assert router.receive() == (b"d", b"one")
    assert poller.wait(0.0) == set()


def test_a_message_that_came_during_a_send_is_reported(poller: Poller, pair: tuple[Router, Dealer]) -> None:
    router, dealer = pair
    dealer.send(b"one")
    eventually(router.receive, within_s=WITHIN_S, what="the dealer is known")
    poller.register(dealer)
    for number in range(50):
        router.send(b"d", b"%d" % number)
        dealer.send(b"back")  # May take the edge of what has just arrived.
        assert poller.wait(WITHIN_S) == {dealer.fileno()}
        assert dealer.receive() == b"%d" % number


def test_descriptors_and_sockets_are_told_apart(poller: Poller, pair: tuple[Router, Dealer]) -> None:
    router, dealer = pair
    read, write = os.pipe()
    wakeup = Wakeup()
    for source in (router, read, wakeup.fileno()):
        poller.register(source)

    assert poller.wait(0.0) == set()
    os.write(write, b"x")
    wakeup.set()
    assert poller.wait(WITHIN_S) == {read, wakeup.fileno()}
    os.read(read, 1)
    wakeup.clear()
    dealer.send(b"one")
    assert poller.wait(WITHIN_S) == {router.fileno()}
    for descriptor in (read, write):
        os.close(descriptor)
    wakeup.close()


def test_a_pipe_whose_writer_is_gone_is_reported(poller: Poller) -> None:
    read, write = os.pipe()
    poller.register(read)
    os.close(write)

    assert poller.wait(WITHIN_S) == {read}
    os.close(read)


def test_the_end_of_a_process_is_reported(poller: Poller) -> None:
    process = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    pidfd = os.pidfd_open(process.pid)
    poller.register(pidfd)

    assert poller.wait(0.0) == set()
    process.communicate(b"\n")
    assert poller.wait(WITHIN_S) == {pidfd}
    os.close(pidfd)


def test_what_is_unregistered_is_not_reported_and_may_return(poller: Poller) -> None:
    first, second = os.pipe(), os.pipe()
    for read, write in (first, second):
        poller.register(read)
        os.write(write, b"x")
    poller.unregister(first[0])

    assert poller.wait(0.0) == {second[0]}
    poller.register(first[0])
    assert poller.wait(0.0) == {first[0], second[0]}
    with pytest.raises(KeyError):
        poller.unregister(first[1])
    for descriptor in (*first, *second):
        os.close(descriptor)


@pytest.mark.parametrize("timeout_s", [0.0, -100.0])
def test_a_time_that_has_passed_does_not_wait(poller: Poller, timeout_s: float) -> None:
    wakeup = Wakeup()
    poller.register(wakeup.fileno())
    start = time.monotonic()

    assert poller.wait(timeout_s) == set()
    assert time.monotonic() - start < 3 * WITHIN_S
    wakeup.close()


def test_a_short_wait_is_not_cut_to_none(poller: Poller) -> None:
    wakeup = Wakeup()
    poller.register(wakeup.fileno())
    start = time.monotonic()

    assert poller.wait(0.0005) == set()
    assert time.monotonic() - start >= 0.0005
    wakeup.close()
