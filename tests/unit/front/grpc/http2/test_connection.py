# SPDX-License-Identifier: Apache-2.0
"""Windows in both directions, drain, and the limits: each attack has its answer and its count."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING

import pytest

from ovms_mp.front.grpc.http2.faults import ErrorCode
from ovms_mp.front.grpc.http2.limits import RATES, Hit, Limits
from tests.unit.front.grpc.http2.peer import (
    OK,
    PREFACE,
    REQUEST,
    SECOND,
    SETTINGS_ACK,
    Peer,
    block,
    changed,
    cut,
    data,
    frame,
    headers,
    literal,
    ping,
    reset,
    settings,
    window,
)

if TYPE_CHECKING:
    from collections.abc import Callable

LAST = (1 << 31) - 1


def answering(limits: Limits | None = None, *, setting: bytes = b"") -> Peer:
    """A peer whose stream 1 has its request and waits for our answer."""
    peer = Peer(limits)
    peer.send(setting + headers())
    peer.written()
    return peer


def answer(peer: Peer, *pieces: bytes | memoryview, stream: int = 1) -> None:
    peer.connection.output.data(peer.recorders[stream], list(pieces), peer.release)
    peer.connection.output.headers(peer.recorders[stream], OK, is_end=True)


# What we send.


def test_an_answer_within_the_window_leaves_at_once() -> None:
    peer = answering()

    answer(peer, b"abc", memoryview(b"def"))

    assert peer.written() == ["DATA 1 6", "HEADERS 1 end"]
    assert peer.released == 1
    assert not peer.connection.streams


def test_an_answer_is_cut_into_frames_of_the_peers_size() -> None:
    peer = answering(setting=settings((5, 20_000)))

    answer(peer, b"x" * 45_000)

    assert peer.written() == ["DATA 1 20000", "DATA 1 20000", "DATA 1 5000", "HEADERS 1 end"]


def test_an_answer_larger_than_the_window_goes_on_as_it_opens() -> None:
    peer = answering(setting=settings((4, 10)))
    octets = bytes(range(25))

    answer(peer, memoryview(octets)[:3], octets[3:20], octets[20:])
    sent = [peer.octets()]
    peer.send(window(1, 7))
    sent.append(peer.octets())
    assert peer.released == 0
    peer.send(window(1, 100))
    sent.append(peer.octets())

    assert [[len(part[3]) for part in cut(piece) if part[0] == 0] for piece in sent] == [[10], [7], [8]]
    assert b"".join(part[3] for part in cut(b"".join(sent)) if part[0] == 0) == octets
    assert cut(sent[2])[-1][:3] == (1, 5, 1)
    assert peer.released == 1


def test_the_connections_window_holds_all_streams_and_they_take_turns() -> None:
    peer = Peer()
    peer.send(settings((4, LAST)) + headers(1) + headers(3))
    peer.written()

    answer(peer, b"x" * 65_535, stream=1)
    answer(peer, b"y" * 40_000, stream=3)
    assert peer.written() == [*["DATA 1 16384"] * 3, "DATA 1 16383", "HEADERS 1 end"]
    peer.send(headers(5))
    answer(peer, b"z" * 40_000, stream=5)
    assert peer.written() == []
    peer.send(window(0, 50_000))

    assert peer.written() == ["DATA 3 16384", "DATA 5 16384", "DATA 3 16384", "DATA 5 848"]


def test_a_smaller_initial_window_makes_windows_negative() -> None:
    peer = answering(setting=settings((4, 100)))
    peer.connection.output.data(peer.recorders[1], [b"x" * 60], peer.release)
    assert peer.written() == ["DATA 1 60"]

    peer.send(settings((4, 20)))
    peer.connection.output.data(peer.recorders[1], [b"y" * 60], peer.release)
    assert peer.recorders[1].send_window.size == -40
    assert peer.written() == ["settings-ack"]
    peer.send(window(1, 40))
    assert peer.written() == []
    peer.send(window(1, 1))
    assert peer.written() == ["DATA 1 1"]
    peer.send(settings((4, 79)))

    assert peer.written() == ["settings-ack", "DATA 1 59"]


@pytest.mark.parametrize("change", [(4, 200), (4, LAST)], ids=["more", "most"])
def test_data_that_a_larger_initial_window_allows_follows_the_acknowledgement(
    change: tuple[int, int],
) -> None:
    """RFC 9113, 6.5.3. Until then C-core holds us to the old window, and ends the stream with INTERNAL."""
    peer = answering(setting=settings((4, 100)))
    answer(peer, b"x" * 160)
    assert peer.written() == ["DATA 1 100"]

    peer.send(settings(change))

    assert peer.written() == ["settings-ack", "DATA 1 60", "HEADERS 1 end"]


def test_frames_are_not_larger_than_we_like_whatever_the_peer_takes() -> None:
    """C-core takes 8 MiB and more; one such frame would be above what may wait for the socket."""
    peer = answering(setting=settings((4, LAST), (5, (1 << 24) - 1)) + window(0, 1 << 24))

    answer(peer, bytes(3 << 20))

    assert peer.written() == [*["DATA 1 1048576"] * 3, "HEADERS 1 end"]


def test_a_stream_is_told_when_it_has_sent_all() -> None:
    peer = answering(setting=settings((4, 5)))

    peer.connection.output.data(peer.recorders[1], [b"x" * 6], peer.release)
    assert "drained 1" not in peer.events
    peer.send(window(1, 1))

    assert peer.events[-1] == "drained 1"
    assert peer.recorders[1].is_local_open


def test_what_a_reset_stream_has_not_sent_is_dropped_and_released() -> None:
    peer = answering(setting=settings((4, 5)))
    answer(peer, b"x" * 6)

    peer.send(reset(1))

    assert peer.written() == ["DATA 1 5"]
    assert peer.released == 1
    assert not peer.connection.output.waiting
    peer.send(window(1, 100))
    assert peer.written() == []


def test_output_beyond_its_limit_waits_in_the_stream() -> None:
    peer = answering(Limits(max_output_bytes=20_000), setting=settings((4, LAST)) + window(0, 1 << 20))

    answer(peer, b"x" * 70_000)

    assert peer.written() == ["DATA 1 16384", "DATA 1 16384"]
    peer.connection.output.pump()
    assert peer.written() == ["DATA 1 16384", "DATA 1 16384"]
    peer.connection.output.pump()
    assert peer.written() == ["DATA 1 4464", "HEADERS 1 end"]


# What we receive.

SMALL = Limits(stream_window_bytes=1000, connection_window_bytes=70_000, max_frame_bytes=16_384)


def test_a_streams_window_is_given_back_when_half_is_used() -> None:
    peer = Peer(SMALL)

    peer.send(headers(end=False) + data(b"x" * 499))
    assert peer.written() == []
    peer.send(data(b"x"))

    assert peer.written() == ["window 1 500"]


def test_a_stream_that_does_not_read_is_given_nothing_until_it_does() -> None:
    peer = Peer(SMALL)
    peer.send(headers(1, changed((":path", "/unread")), end=False) + data(b"x" * 900))
    assert peer.written() == []

    peer.recorders[1].is_reading = True
    peer.connection.grant_stream(peer.recorders[1])

    assert peer.written() == ["window 1 900"]


def test_the_connections_window_is_given_back_also_for_discarded_data() -> None:
    peer = Peer(Limits(stream_window_bytes=1 << 20, connection_window_bytes=80_000, max_frame_bytes=20_000))
    peer.send(headers(1, changed((":path", "/early")), end=False))
    peer.written()

    peer.send(data(b"x" * 19_999))
    assert peer.written() == []
    peer.send(data(b"x"))

    assert peer.written() == ["window 0 20000"]


def test_no_window_is_granted_while_too_much_is_held() -> None:
    limits = Limits(stream_window_bytes=1000, connection_window_bytes=70_000, process_buffer_bytes=100)
    peer = Peer(limits)
    peer.guard.held_bytes += 100
    peer.send(headers(end=False) + data(b"x" * 900))
    assert peer.written() == []

    peer.guard.held_bytes -= 1
    peer.connection.grant_stream(peer.recorders[1])

    assert peer.written() == ["window 1 900"]


def test_one_connections_share_is_bounded_too() -> None:
    peer = Peer(Limits(connection_buffer_bytes=50))

    peer.connection.held_bytes = 50
    assert not peer.connection.may_grant()
    peer.connection.held_bytes = 49

    assert peer.connection.may_grant()


def test_an_arena_without_room_grants_no_window() -> None:
    free = [10]
    limits = Limits(arena_reserve_bytes=11)
    guard = type(Peer(limits).guard)(limits, lambda: free[0])

    assert not guard.is_open
    free[0] = 11

    assert guard.is_open


# Drain.


def test_drain_has_two_phases_and_serves_what_comes_between_them() -> None:
    peer = Peer()
    peer.send(headers(1))

    peer.connection.drain()
    assert peer.written() == [f"goaway {LAST} NO_ERROR", "PING drain..."]
    peer.send(headers(3))
    peer.send(ping(b"drain...", ack=True))
    assert peer.written() == ["goaway 3 NO_ERROR"]
    peer.send(headers(5) + ping())
    assert peer.written() == ["pong 12345678"]
    assert peer.events == ["request 1", "end 1", "request 3", "end 3"]
    for stream in (1, 3):
        assert not peer.connection.is_closed
        answer(peer, b"x", stream=stream)

    assert peer.written() == ["DATA 1 1", "HEADERS 1 end", "DATA 3 1", "HEADERS 3 end"]
    assert peer.connection.is_closed


def test_a_client_that_does_not_answer_the_ping_is_told_the_last_stream_anyway() -> None:
    peer = Peer()
    peer.connection.drain()
    peer.written()

    peer.connection.drain()

    assert peer.written() == ["goaway 0 NO_ERROR"]
    assert peer.connection.is_closed


def test_a_drain_that_is_over_is_not_repeated() -> None:
    peer = Peer()
    peer.send(headers())
    peer.connection.drain()
    peer.connection.drain()
    peer.written()

    peer.connection.drain()

    assert peer.written() == []


def test_another_pong_does_not_finish_the_drain() -> None:
    peer = Peer()
    peer.connection.drain()
    peer.written()

    peer.send(ping(b"drain!!!", ack=True))

    assert peer.written() == []
    assert peer.connection.drain_phase == 1


def test_data_and_resets_of_streams_above_the_last_one_are_ignored() -> None:
    peer = Peer()
    peer.send(headers(1))
    peer.connection.drain()
    peer.connection.drain()
    peer.written()

    peer.send(headers(3, end=False) + data(b"x", 3) + window(3, 5) + reset(3) + frame(2, 0, 3, bytes(5)))
    peer.send(frame(1, 5, 5, literal(":path", "/b", 0x40)))

    assert peer.written() == []
    assert not peer.connection.is_closed


def test_a_drained_connections_streams_that_are_reset_end_it() -> None:
    peer = Peer()
    peer.send(headers(1))
    peer.connection.drain()
    peer.connection.drain()

    peer.send(reset(1))

    assert peer.connection.is_closed


def test_nothing_is_taken_or_said_after_the_end() -> None:
    peer = Peer()
    peer.connection.close(ErrorCode.PROTOCOL_ERROR, "why")
    assert peer.octets().endswith(b"why")

    peer.send(headers() + ping())
    peer.connection.close(ErrorCode.PROTOCOL_ERROR, "again")
    peer.connection.drain()

    assert peer.written() == []
    assert peer.events == []


# Limits. An attack is what comes once more than may be; one time less is served.

CANCELLED = [headers(number) + reset(number) for number in range(1, 9, 2)]
REFUSED = [frame(1, 5, number, block((("A", "b"),))) for number in range(1, 9, 2)]
RATED = {
    "rapid_reset_cve_2023_44487": (Hit.RESETS, CANCELLED),
    "made_you_reset_cve_2025_8671": (Hit.RESETS, REFUSED),
    "ping_flood_cve_2019_9512": (Hit.PINGS, [ping()] * 4),
    "settings_flood_cve_2019_9515": (Hit.SETTINGS, [settings()] * 4),
    "settings_ack_flood": (Hit.SETTINGS, [SETTINGS_ACK] * 4),
    "empty_data_cve_2019_9518": (Hit.EMPTY_DATA, [headers(end=False) + data(b""), *[data(b"")] * 3]),
    "padded_empty_data": (
        Hit.EMPTY_DATA,
        [headers(end=False) + data(b""), *[frame(0, 8, 1, b"\x02\0\0")] * 3],
    ),
    "window_update_flood": (Hit.WINDOW_UPDATES, [window(0, 1)] * 4),
    "priority_flood_cve_2019_9513": (Hit.IGNORED, [frame(2, 0, 3, bytes(5))] * 4),
    "unknown_flood": (Hit.IGNORED, [frame(0xFA, 0, 0, b"x")] * 4),
    "goaway_flood": (Hit.IGNORED, [frame(7, 0, 0, bytes(8))] * 4),
}


def rated(hit: Hit) -> Peer:
    peer = Peer(Limits(rates=dict.fromkeys(RATES, 10**6) | {hit: 3}))
    peer.now_ns += 11 * SECOND  # The handshake's frames are in an earlier window of time.
    return peer


@pytest.mark.parametrize("name", RATED)
def test_a_flood_ends_the_connection_and_is_counted(name: str) -> None:
    hit, pieces = RATED[name]
    peer = rated(hit)

    peer.send(b"".join(pieces[:3]))
    assert "goaway" not in " ".join(peer.written())
    assert not peer.guard.counters[hit]
    peer.send(pieces[3])

    assert peer.connection.is_closed
    assert peer.written()[-1].endswith(" ENHANCE_YOUR_CALM")
    assert peer.guard.counters[hit] == 1
    assert not peer.connection.streams


def test_who_reaches_a_tenth_of_a_limit_is_suspect_until_the_count_begins_anew() -> None:
    peer = Peer(Limits(rates=dict.fromkeys(RATES, 10**6) | {Hit.PINGS: 30}, rate_window_s=10))
    peer.now_ns += 11 * SECOND
    began_ns = peer.now_ns

    peer.send(ping() * 3)
    assert peer.connection.suspect_until_ns < peer.now_ns
    peer.now_ns += SECOND
    peer.send(ping())

    assert peer.connection.suspect_until_ns == began_ns + 10 * SECOND
    assert not peer.connection.is_closed


@pytest.mark.parametrize(("size", "expected"), [(1, 3), (1023, 3), (1024, 0), (2048, 0)])
def test_a_crumb_of_an_answer_earns_no_window_updates(size: int, expected: int) -> None:
    """Those that it did not earn are more than may be."""
    peer = rated(Hit.WINDOW_UPDATES)
    peer.send(settings((4, 0)) + headers())
    stream = peer.recorders[1]
    peer.connection.output.data(stream, [bytes(1 << 20)], peer.release)
    closed_after = 0
    for number in range(1, 11):
        peer.send(window(1, size))
        if peer.connection.is_closed:
            break
        closed_after = number

    assert closed_after == (expected or 10)


@pytest.mark.parametrize("name", RATED)
def test_the_same_at_leisure_is_no_flood(name: str) -> None:
    hit, pieces = RATED[name]
    peer = rated(hit)

    for piece in pieces:
        peer.send(piece)
        peer.now_ns += 4 * SECOND

    assert not peer.connection.is_closed
    assert not peer.guard.counters[hit]


def test_window_updates_are_earned_by_data() -> None:
    peer = rated(Hit.WINDOW_UPDATES)
    peer.send(headers())
    peer.connection.output.data(peer.recorders[1], [b"x"], peer.release)
    peer.send(window(0, 1) * 3)

    peer.connection.output.data(peer.recorders[1], [b"x"], peer.release)
    peer.send(window(0, 1) * 3)
    assert not peer.connection.is_closed
    peer.send(window(0, 1))

    assert peer.connection.is_closed


def test_window_updates_are_earned_by_answers_without_data() -> None:
    peer = rated(Hit.WINDOW_UPDATES)
    for number in range(100):
        stream_id = 2 * number + 1
        peer.send(headers(stream_id) + window(0, 1) * 2)
        peer.connection.output.headers(peer.recorders[stream_id], b"", is_end=True)

    assert not peer.connection.is_closed


@pytest.mark.parametrize(("timeout_ms", "lived_ms"), [(0, 6), (4, 3), (50, 40), (2000, 6)])
def test_calls_that_are_given_up_when_their_time_is_over_are_no_rapid_resets(
    timeout_ms: int, lived_ms: int
) -> None:
    peer = rated(Hit.RESETS)
    for number in range(1, 21, 2):
        peer.send(headers(number))
        if timeout_ms:
            peer.recorders[number].deadline_ns = peer.now_ns + timeout_ms * SECOND // 1000
        peer.now_ns += lived_ms * SECOND // 1000
        peer.send(reset(number))

    assert not peer.connection.is_closed
    assert not peer.connection.streams


@pytest.mark.parametrize(("timeout_ms", "lived_ms"), [(0, 4), (4, 1), (50, 4)])
def test_short_deadlines_excuse_no_rapid_resets(timeout_ms: int, lived_ms: int) -> None:
    peer = rated(Hit.RESETS)
    for number in range(1, 9, 2):
        peer.send(headers(number))
        if timeout_ms:
            peer.recorders[number].deadline_ns = peer.now_ns + timeout_ms * SECOND // 1000
        peer.now_ns += lived_ms * SECOND // 1000
        peer.send(reset(number))

    assert peer.connection.is_closed
    assert peer.guard.counters[Hit.RESETS] == 1


def test_a_reset_may_cross_the_answer() -> None:
    peer = rated(Hit.RESETS)
    for number in range(1, 201, 2):
        peer.send(headers(number, changed((":path", "/answer"))) + reset(number))

    assert not peer.connection.is_closed


def test_pings_are_earned_by_answers() -> None:
    """As grpc-go's clients send them, for each answer that comes behind the last PING's."""
    peer = rated(Hit.PINGS)
    for number in range(1, 201, 2):
        peer.send(headers(number, changed((":path", "/answer"))) + ping())

    assert not peer.connection.is_closed
    peer.send(ping() * 5)
    assert peer.connection.is_closed


def test_pings_are_refused_in_the_words_that_grpc_clients_know() -> None:
    peer = rated(Hit.PINGS)

    peer.send(ping() * 4)

    assert peer.octets().endswith(b"too_many_pings")


@pytest.mark.parametrize(
    ("limits", "stimulus", "hit"),
    [
        (Limits(max_continuations=3), frame(1, 1, 1) + frame(9, 0, 1) * 4, Hit.CONTINUATIONS),
        (
            Limits(max_header_block_bytes=50),
            frame(1, 1, 1, bytes(30)) + frame(9, 0, 1, length=21),
            Hit.HEADER_BLOCK,
        ),
        (Limits(max_header_block_bytes=50), frame(1, 5, 1, length=51), Hit.HEADER_BLOCK),
        (Limits(max_settings=2), settings((3, 1), (3, 1), (3, 1)), Hit.SETTINGS),
    ],
    ids=["continuation_flood_cve_2024_27316", "long_block_in_pieces", "long_block", "many_settings"],
)
def test_too_much_at_once_ends_the_connection_and_is_counted(
    limits: Limits, stimulus: bytes, hit: Hit
) -> None:
    peer = Peer(limits)

    peer.send(stimulus)

    assert peer.written() == ["goaway 0 ENHANCE_YOUR_CALM"]
    assert peer.guard.counters[hit] == 1


@pytest.mark.parametrize(
    ("limits", "stimulus"),
    [
        (Limits(max_continuations=3), frame(1, 1, 1, block()) + frame(9, 0, 1) * 2 + frame(9, 4, 1)),
        (
            Limits(max_header_block_bytes=300),
            frame(1, 0xD, 1, bytes((244,)) + block() + bytes(244)),
        ),
        (Limits(max_settings=2), settings((3, 1), (3, 1)) + headers()),
    ],
    ids=["continuations", "block", "settings"],
)
def test_as_much_as_may_be_is_served(limits: Limits, stimulus: bytes) -> None:
    assert len(block()) == 55
    peer = Peer(limits)

    peer.send(stimulus)

    assert peer.events == ["request 1", "end 1"]
    assert not peer.guard.counters


def test_a_window_of_time_ends_when_it_is_over() -> None:
    peer = rated(Hit.PINGS)
    peer.send(ping() * 3)

    peer.now_ns += 10 * SECOND
    peer.send(ping() * 3)

    assert peer.written() == ["pong 12345678"] * 6


def test_the_last_stream_of_a_goaway_is_not_above_it() -> None:
    peer = Peer()
    peer.send(headers(1) + headers(3))
    peer.connection.drain()
    peer.connection.drain()
    answer(peer, b"", b"x", stream=3)
    peer.written()

    peer.send(data(b"late", 3))

    assert peer.written() == ["goaway 3 STREAM_CLOSED"]


def test_a_header_bomb_ends_the_connection() -> None:
    """CVE-2016-6581: a few octets that mean many. The table holds one entry of 4 kB, sent for one octet each."""
    peer = Peer(Limits(max_header_block_bytes=30_000))
    entry = literal("a", "x" * 4000, 0x40)

    peer.send(frame(1, 5, 1, block() + entry + b"\xbe" * 10))

    assert peer.written() == ["goaway 0 ENHANCE_YOUR_CALM"]


def test_too_many_streams_are_refused_and_counted() -> None:
    peer = Peer(Limits(max_streams=1))

    peer.send(headers(1) + headers(3))

    assert peer.written() == ["rst 3 REFUSED_STREAM"]
    assert peer.guard.counters[Hit.STREAMS] == 1
    assert peer.guard.counters[Hit.PROTOCOL] == 0


@pytest.mark.parametrize("stimulus", [headers(0), headers(1, (("A", "b"),))], ids=["connection", "stream"])
def test_other_faults_are_counted_too(stimulus: bytes) -> None:
    peer = Peer()

    peer.send(stimulus)

    assert peer.guard.counters[Hit.PROTOCOL] == 1


@pytest.mark.parametrize(
    ("octets", "hit"),
    [
        (b"\x16\x03\x01\x02\x00\x01", Hit.TLS_HELLO),
        (b"GET / HTTP/1.1\r\n", Hit.NOT_HTTP2),
        (b"PRI * HTTP/1.1\r\n", Hit.NOT_HTTP2),
        (b"\0", Hit.NOT_HTTP2),
    ],
)
def test_who_does_not_greet_is_a_stranger(octets: bytes, hit: Hit) -> None:
    peer = Peer(shakes_hands=False)

    peer.send(octets)

    assert (peer.connection.is_stranger, peer.connection.fault) == (True, "no HTTP/2 connection preface")
    assert peer.guard.counters == {hit: 1}


def test_what_waits_for_the_rest_of_a_frame_is_bounded() -> None:
    peer = Peer(Limits(max_header_block_bytes=500))

    peer.send(headers(end=False) + frame(0, 0, 1, b"x" * 5000, length=6000))
    assert peer.events == ["request 1", "data 1 5000"]
    assert len(peer.connection._reader._tail) == 0
    peer.send(b"x" * 1000 + frame(0xFA, 0, 0, b"y" * 5000, length=6000))

    assert len(peer.connection._reader._tail) == 0
    assert peer.connection.is_mid_frame


@pytest.mark.parametrize("most", [1, 2, 7])
def test_a_turn_that_is_over_leaves_frames_for_later_and_none_is_lost(most: int) -> None:
    whole, parted = Peer(), Peer()
    calls = [
        headers(n, end=False) + data(b"abc", n) * 3 + data(b"de", n) + data(b"f", n, end=True)
        for n in range(1, 20, 2)
    ]
    octets = b"".join(calls) + headers(21, end=False) + data(b"cut off", 21)[:11]
    whole.send(octets)
    lent = bytearray(octets)

    def clock() -> Callable[[], bool]:
        """Over after so many looks, and from then on, as time does not go back."""
        looks = itertools.count(1)
        return lambda: next(looks) > most

    parted.connection.receive(memoryview(lent), parted.now_ns, clock())
    lent[:] = b"\xee" * len(lent)  # As the next read does.
    turns = 1
    while parted.connection.is_behind:
        assert parted.events == whole.events[: len(parted.events)] != whole.events
        parted.connection.receive(b"", parted.now_ns, clock())
        turns += 1

    assert turns > 1
    for peer in (parted, whole):
        peer.send(data(b"cut off", 21)[11:])
    assert parted.events == whole.events
    assert parted.written() == whole.written()


@pytest.mark.parametrize("is_end", [False, True])
def test_what_follows_the_frame_that_ended_a_draining_connection_is_not_taken(is_end: bool) -> None:
    peer = Peer()
    peer.send(headers(1, changed((":path", "/refuse")), end=False))
    for _ in range(2):
        peer.connection.drain()
    peer.written()

    peer.send(data(b"abc", end=is_end) + ping(b"too late"))

    assert peer.connection.is_closed
    assert peer.written() == ["rst 1 REFUSED_STREAM"]


def test_nothing_is_held_after_the_end() -> None:
    peer = Peer()
    peer.send(headers(0))

    for _ in range(3):
        peer.send(b"x" * 1000)

    assert len(peer.connection._reader._tail) < 100


def test_what_is_remembered_of_ended_streams_is_bounded() -> None:
    peer = Peer(Limits(rates=dict.fromkeys(RATES, 10**6)))

    for number in range(1, 6001, 2):
        peer.send(headers(number) + reset(number))
    assert not peer.connection.is_closed

    assert len(peer.connection._table._was_ours) == 1024


# The memory of header blocks.


def test_equal_blocks_are_understood_once_while_the_table_is_the_same() -> None:
    peer = Peer()

    peer.send(headers(1) + headers(3))
    assert peer.recorders[1].head is peer.recorders[3].head
    peer.send(frame(1, 5, 5, block() + literal("a", "b", 0x40)) + headers(7))

    assert peer.recorders[7].head is not peer.recorders[3].head


def test_an_index_means_what_the_table_holds_at_that_moment() -> None:
    peer = Peer()
    request = b"\x83\x86"
    for number, octets in enumerate(
        (
            literal(":path", "/1", 0x40),
            b"\xbe",
            b"\xbe",
            literal(":path", "/2", 0x40),
            b"\xbe",
            b"\xbf",
            b"\x20\x3f\xe1\x1f" + request + literal(":path", "/3", 0x40),
            b"\xbe",
        )
    ):
        prefix = b"" if octets[:1] == b"\x20" else request
        peer.send(frame(1, 5, 2 * number + 1, prefix + octets))

    paths = [recorder.head.path for recorder in peer.recorders.values()]

    assert paths == [b"/1", b"/1", b"/1", b"/2", b"/2", b"/1", b"/3", b"/3"]


def test_the_memory_of_blocks_is_bounded() -> None:
    peer = Peer(Limits(max_streams=10**6))

    for number in range(1, 2001, 2):
        peer.send(headers(number, (*REQUEST, ("a", str(number)))))

    assert len(peer.connection._blocks._known) <= 64


def test_the_first_octets_say_what_we_accept() -> None:
    limits = Limits(max_streams=7, stream_window_bytes=70_000, max_frame_bytes=1 << 20)
    peer = Peer(limits, shakes_hands=False)

    kind, flags, stream, payload = cut(peer.octets())[0]

    assert (kind, flags, stream) == (4, 0, 0)
    keys = {
        int.from_bytes(payload[i : i + 2], "big"): int.from_bytes(payload[i + 2 : i + 6], "big")
        for i in range(0, len(payload), 6)
    }
    assert keys == {3: 7, 4: 70_000, 5: 1 << 20, 6: limits.max_header_list_bytes}
    peer.send(PREFACE[:5])
    assert not peer.connection.is_settled
