# SPDX-License-Identifier: Apache-2.0
"""Rules of RFC 9113 and RFC 7541 that bind a server: what comes in, and everything that must come of it.

A row's reactions are compared whole, what the streams are told and what is written, so each row can fail both
by too little and by too much. Rows of ``RAW`` begin at the connection's first octet, the others after a handshake.
"""

from __future__ import annotations

from dataclasses import dataclass

import pytest

from ovms_mp.front.grpc.http2.limits import Limits
from tests.unit.front.grpc.http2.peer import (
    OK,
    PREFACE,
    REQUEST,
    SETTINGS_ACK,
    Peer,
    block,
    changed,
    data,
    frame,
    headers,
    literal,
    ping,
    reset,
    settings,
    window,
    without,
)

LIMITS = Limits(
    max_frame_bytes=16_384, stream_window_bytes=40_000, connection_window_bytes=100_000, max_streams=3
)
NO_GRANTS = Limits(max_frame_bytes=16_384, connection_window_bytes=65_535, process_buffer_bytes=0)

OPEN = headers(end=False)
ANSWERED = headers(1, changed((":path", "/answer")))
EARLY = headers(1, changed((":path", "/early")), end=False)
UNREAD = headers(1, changed((":path", "/unread")), end=False)
REQ, END, GONE, WIDER = "request 1", "end 1", "gone 1", "drained 1"
STARTED = [REQ]
SERVED = [REQ, END]
MALFORMED = ["rst 1 PROTOCOL_ERROR"]
KNOWN_ANSWER = [REQ, END, "HEADERS 1 end"]
GZIP = bytes((0x80 | 16,))
POST, HTTP = b"\x83", b"\x86"
STATIC_REQUEST = POST + HTTP + literal(":path", "/a") + literal(":authority", "host")


def dead(code: str, last: int = 0, before: list[str] | None = None) -> list[str]:
    """The connection ends; streams that were open are gone."""
    return [*(before or []), f"goaway {last} {code}"]


def field(name: str, value: str = "x") -> bytes:
    return headers(1, (*REQUEST, (name, value)))


@dataclass(frozen=True)
class Row:
    section: str
    name: str
    stimulus: bytes
    reaction: list[str]
    limits: Limits = LIMITS


RAW = [
    Row("3.4", "preface_and_settings", PREFACE + settings(), ["settings-ack"]),
    Row("3.4", "wrong_preface", b"GET / HTTP/1.1\r\nHost: a\r\n", dead("PROTOCOL_ERROR")),
    Row("3.4", "wrong_last_octet_of_preface", PREFACE[:-1] + b"x", dead("PROTOCOL_ERROR")),
    Row("3.4", "part_of_preface_waits", PREFACE[:10], []),
    Row("3.4", "ping_before_settings", PREFACE + ping(), dead("PROTOCOL_ERROR")),
    Row("3.4", "headers_before_settings", PREFACE + headers(), dead("PROTOCOL_ERROR")),
    Row("3.4", "data_before_settings", PREFACE + data(b"x"), dead("PROTOCOL_ERROR")),
    Row("3.4", "acknowledgement_before_settings", PREFACE + SETTINGS_ACK, dead("PROTOCOL_ERROR")),
    Row("3.4", "unknown_frame_before_settings", PREFACE + frame(0x77), dead("PROTOCOL_ERROR")),
    Row("3.4", "request_behind_settings", PREFACE + settings() + headers(), [REQ, END, "settings-ack"]),
    Row("6.5", "settings_with_values", PREFACE + settings((1, 0), (3, 7), (6, 9)), ["settings-ack"]),
]

FRAMES = [
    Row("4.1", "unknown_type_is_ignored", frame(0x77, 0xFF, 5, b"abc") + ping(), ["pong 12345678"]),
    Row("4.1", "unknown_flags_are_ignored", frame(6, 0xFE, 0, b"12345678"), ["pong 12345678"]),
    Row("4.1", "reserved_bit_is_ignored", frame(6, 0, 1 << 31, b"12345678"), ["pong 12345678"]),
    Row("4.1", "reserved_bit_of_a_stream", frame(1, 5, 1 << 31 | 1, block()), SERVED),
    Row("4.2", "frame_of_the_largest_size", OPEN + data(b"x" * 16_384), [REQ, "data 1 16384"]),
    Row(
        "4.2",
        "data_too_large",
        OPEN + frame(0, 0, 1, length=16_385),
        [REQ, GONE, "goaway 1 FRAME_SIZE_ERROR"],
    ),
    Row("4.2", "headers_too_large", frame(1, 4, 1, length=16_385), dead("FRAME_SIZE_ERROR")),
    Row("4.2", "settings_too_large", frame(4, 0, 0, length=16_386), dead("FRAME_SIZE_ERROR")),
    Row("4.2", "unknown_too_large", frame(0x77, 0, 0, length=16_385), dead("FRAME_SIZE_ERROR")),
    Row("4.3", "interleaved_frame_in_a_block", frame(1, 1, 1, block()) + ping(), dead("PROTOCOL_ERROR")),
    Row(
        "4.3", "interleaved_unknown_in_a_block", frame(1, 1, 1, block()) + frame(0x77), dead("PROTOCOL_ERROR")
    ),
    Row("4.3", "interleaved_headers", frame(1, 1, 1, block()) + headers(3), dead("PROTOCOL_ERROR")),
    Row("4.3", "interleaved_data", frame(1, 0, 1, block()) + data(b"x"), dead("PROTOCOL_ERROR")),
    Row("4.3", "undecodable_block", frame(1, 5, 1, b"\xff\xff\xff\xff\xff\xff"), dead("COMPRESSION_ERROR")),
]

STATES = [
    Row("5.1", "idle_data", data(b"x"), dead("PROTOCOL_ERROR")),
    Row("5.1", "idle_rst_stream", reset(1), dead("PROTOCOL_ERROR")),
    Row("5.1", "idle_window_update", window(1, 1), dead("PROTOCOL_ERROR")),
    Row("5.1", "idle_continuation", frame(9, 4, 1, b""), dead("PROTOCOL_ERROR")),
    Row("5.1", "idle_priority_is_fine", frame(2, 0, 7, bytes(5)) + ping(), ["pong 12345678"]),
    Row("5.1", "data_after_end", headers() + data(b"x"), [*SERVED, GONE, "rst 1 STREAM_CLOSED"]),
    Row("5.1", "headers_after_end", headers() + headers(), [*SERVED, GONE, "rst 1 STREAM_CLOSED"]),
    Row("5.1", "window_update_after_end_is_fine", headers() + window(1, 9) + ping(),
        [*SERVED, WIDER, "pong 12345678"]),
    Row("5.1", "reset_after_end_is_fine", headers() + reset(1) + ping(), [*SERVED, GONE, "pong 12345678"]),
    Row("5.1", "priority_after_end_is_fine", headers() + frame(2, 0, 1, bytes(5)), SERVED),
    Row("5.1", "window_update_on_closed_is_ignored", ANSWERED + window(1, 9), KNOWN_ANSWER),
    Row("5.1", "rst_stream_on_closed_is_ignored", ANSWERED + reset(1), KNOWN_ANSWER),
    Row("5.1", "priority_on_closed_is_ignored", ANSWERED + frame(2, 0, 1, bytes(5)), KNOWN_ANSWER),
    Row("5.1", "data_on_closed", ANSWERED + data(b"x"), [*KNOWN_ANSWER, "goaway 1 STREAM_CLOSED"]),
    Row("5.1", "headers_on_closed", ANSWERED + headers(), [*KNOWN_ANSWER, "goaway 1 STREAM_CLOSED"]),
    Row("5.1", "data_after_the_peers_reset", OPEN + reset(1) + data(b"x"), [REQ, GONE, "goaway 1 STREAM_CLOSED"]),
    Row("5.1", "headers_after_the_peers_reset", OPEN + reset(1) + headers(), [REQ, GONE, "goaway 1 STREAM_CLOSED"]),
    Row("5.1", "late_data_after_our_reset", EARLY + data(b"x"), [REQ, "HEADERS 1 end", "rst 1 NO_ERROR"]),
    Row("5.1", "late_trailers_after_our_reset", EARLY + headers(), [REQ, "HEADERS 1 end", "rst 1 NO_ERROR"]),
    Row("5.1", "late_reset_after_our_reset", EARLY + reset(1), [REQ, "HEADERS 1 end", "rst 1 NO_ERROR"]),
    Row("5.1", "late_window_update_after_our_reset", EARLY + window(1, 1), [REQ, "HEADERS 1 end", "rst 1 NO_ERROR"]),
    Row("5.1.1", "stream_0", headers(0), dead("PROTOCOL_ERROR")),
    Row("5.1.1", "even_stream", headers(2), dead("PROTOCOL_ERROR")),
    Row("5.1.1", "skipped_streams", headers(7) + headers(9), ["request 7", "end 7", "request 9", "end 9"]),
    Row("5.1.1", "lower_stream", headers(5) + headers(3), ["request 5", "end 5", "gone 5", "goaway 5 PROTOCOL_ERROR"]),
    Row("5.1.1", "data_on_a_skipped_stream", headers(5) + data(b"x", 3),
        ["request 5", "end 5", "gone 5", "goaway 5 PROTOCOL_ERROR"]),
    Row("5.1.1", "data_on_an_even_stream", headers(5) + data(b"x", 4),
        ["request 5", "end 5", "gone 5", "goaway 5 PROTOCOL_ERROR"]),
    Row("5.1.1", "window_update_on_an_even_stream", headers(5) + window(4, 1),
        ["request 5", "end 5", "gone 5", "goaway 5 PROTOCOL_ERROR"]),
    Row("5.1.1", "largest_stream", headers((1 << 31) - 1), [f"request {(1 << 31) - 1}", f"end {(1 << 31) - 1}"]),
    Row("5.1.2", "one_stream_too_many", headers(1, end=False) + headers(3, end=False) + headers(5) + headers(7),
        ["request 1", "request 3", "request 5", "end 5", "rst 7 REFUSED_STREAM"]),
    Row("5.1.2", "late_data_of_a_refused_stream",
        headers(1) + headers(3) + headers(5) + headers(7, end=False) + data(b"x", 7, end=True),
        ["request 1", "end 1", "request 3", "end 3", "request 5", "end 5", "rst 7 REFUSED_STREAM"]),
    Row("5.1.2", "room_again_after_a_reset",
        headers(1) + headers(3) + headers(5) + reset(3) + headers(7),
        ["request 1", "end 1", "request 3", "end 3", "request 5", "end 5", "gone 3", "request 7", "end 7"]),
]  # fmt: skip

FRAME_RULES = [
    Row("6.1", "data_on_stream_0", frame(0, 0, 0, b"x"), dead("PROTOCOL_ERROR")),
    Row("6.1", "padded_data", OPEN + frame(0, 8, 1, b"\x03abc\0\0\0"), [REQ, "data 1 3"]),
    Row("6.1", "padded_data_with_end", OPEN + frame(0, 9, 1, b"\x03abc\0\0\0"), [REQ, "data 1 3", END]),
    Row("6.1", "only_padding", OPEN + frame(0, 9, 1, b"\x03\0\0\0"), [REQ, END]),
    Row("6.1", "padding_of_0", OPEN + frame(0, 9, 1, b"\0abc"), [REQ, "data 1 3", END]),
    Row("6.1", "padding_as_long_as_the_payload", OPEN + frame(0, 8, 1, b"\x04abc"),
        [REQ, GONE, "goaway 1 PROTOCOL_ERROR"]),
    Row("6.1", "all_but_the_pad_length_is_padding", OPEN + frame(0, 8, 1, b"\x03\0\0\0") + ping(),
        [REQ, "pong 12345678"]),
    Row("6.1", "padding_longer_than_data", OPEN + frame(0, 8, 1, b"\xff"), [REQ, GONE, "goaway 1 PROTOCOL_ERROR"]),
    Row("6.1", "no_pad_length", OPEN + frame(0, 8, 1), [REQ, GONE, "goaway 1 FRAME_SIZE_ERROR"]),
    Row("6.1", "empty_data_with_end", OPEN + data(b"", end=True), [REQ, END]),
    Row("6.2", "padded_headers", frame(1, 0xD, 1, b"\x02" + block() + b"\0\0"), SERVED),
    Row("6.2", "headers_with_priority", frame(1, 0x25, 1, bytes(5) + block()), SERVED),
    Row("6.2", "padded_headers_with_priority", frame(1, 0x2D, 1, b"\x01" + bytes(5) + block() + b"\0"), SERVED),
    Row("6.2", "self_dependency_is_ignored", frame(1, 0x25, 1, b"\0\0\0\x01\x10" + block()), SERVED),
    Row("6.2", "padding_longer_than_headers", frame(1, 0xD, 1, b"\xff" + block()), dead("PROTOCOL_ERROR")),
    Row("6.2", "headers_without_pad_length", frame(1, 0xD, 1), dead("FRAME_SIZE_ERROR")),
    Row("6.2", "headers_with_half_a_priority", frame(1, 0x25, 1, b"\0\0"), dead("FRAME_SIZE_ERROR")),
    Row("6.3", "priority_on_stream_0", frame(2, 0, 0, bytes(5)), dead("PROTOCOL_ERROR")),
    Row("6.3", "priority_of_4", OPEN + frame(2, 0, 1, bytes(4)), [REQ, GONE, "rst 1 FRAME_SIZE_ERROR"]),
    Row("6.3", "priority_of_6", OPEN + frame(2, 0, 1, bytes(6)) + ping(),
        [REQ, GONE, "rst 1 FRAME_SIZE_ERROR", "pong 12345678"]),
    Row("6.4", "rst_stream", OPEN + reset(1), [REQ, GONE]),
    Row("6.4", "rst_stream_with_unknown_code", OPEN + reset(1, 0xBEEF), [REQ, GONE]),
    Row("6.4", "rst_stream_on_stream_0", reset(0), dead("PROTOCOL_ERROR")),
    Row("6.4", "rst_stream_of_3", OPEN + frame(3, 0, 1, bytes(3)), [REQ, GONE, "goaway 1 FRAME_SIZE_ERROR"]),
    Row("6.4", "rst_stream_of_5", OPEN + frame(3, 0, 1, bytes(5)), [REQ, GONE, "goaway 1 FRAME_SIZE_ERROR"]),
    Row("6.5", "settings_are_acknowledged", settings((4, 1)), ["settings-ack"]),
    Row("6.5", "acknowledgement_is_not", SETTINGS_ACK + ping(), ["pong 12345678"]),
    Row("6.5", "acknowledgement_with_payload", frame(4, 1, 0, bytes(6)), dead("FRAME_SIZE_ERROR")),
    Row("6.5", "settings_on_a_stream", frame(4, 0, 1), dead("PROTOCOL_ERROR")),
    Row("6.5", "settings_of_5", frame(4, 0, 0, bytes(5)), dead("FRAME_SIZE_ERROR")),
    Row("6.5.2", "unknown_setting", settings((0xBEEF, 1)), ["settings-ack"]),
    Row("6.5.2", "enable_push_0", settings((2, 0)), ["settings-ack"]),
    Row("6.5.2", "enable_push_1", settings((2, 1)), ["settings-ack"]),
    Row("6.5.2", "enable_push_2", settings((2, 2)), dead("PROTOCOL_ERROR")),
    Row("6.5.2", "largest_initial_window", settings((4, (1 << 31) - 1)), ["settings-ack"]),
    Row("6.5.2", "initial_window_too_large", settings((4, 1 << 31)), dead("FLOW_CONTROL_ERROR")),
    Row("6.5.2", "smallest_frame_size", settings((5, 16_384)), ["settings-ack"]),
    Row("6.5.2", "frame_size_too_small", settings((5, 16_383)), dead("PROTOCOL_ERROR")),
    Row("6.5.2", "largest_frame_size", settings((5, (1 << 24) - 1)), ["settings-ack"]),
    Row("6.5.2", "frame_size_too_large", settings((5, 1 << 24)), dead("PROTOCOL_ERROR")),
    Row("6.5.3", "last_of_equal_settings_counts", settings((5, 1 << 24), (5, 16_384)), dead("PROTOCOL_ERROR")),
    Row("6.6", "push_promise", frame(5, 4, 1, bytes(4)), dead("PROTOCOL_ERROR")),
    Row("6.7", "ping", ping(b"abcdefgh"), ["pong abcdefgh"]),
    Row("6.7", "pong_is_not_answered", ping(ack=True) + ping(b"abcdefgh"), ["pong abcdefgh"]),
    Row("6.7", "ping_on_a_stream", frame(6, 0, 1, bytes(8)), dead("PROTOCOL_ERROR")),
    Row("6.7", "ping_of_7", frame(6, 0, 0, bytes(7)), dead("FRAME_SIZE_ERROR")),
    Row("6.7", "ping_of_9", frame(6, 0, 0, bytes(9)), dead("FRAME_SIZE_ERROR")),
    Row("6.8", "goaway_is_taken", frame(7, 0, 0, bytes(8)) + ping(), ["pong 12345678"]),
    Row("6.8", "goaway_with_debug_data", frame(7, 0, 0, bytes(8) + b"why") + ping(), ["pong 12345678"]),
    Row("6.8", "goaway_on_a_stream", frame(7, 0, 1, bytes(8)), dead("PROTOCOL_ERROR")),
    Row("6.8", "goaway_of_7", frame(7, 0, 0, bytes(7)), dead("FRAME_SIZE_ERROR")),
    Row("6.8", "streams_go_on_after_goaway", OPEN + frame(7, 0, 0, bytes(8)) + data(b"x", end=True),
        [REQ, "data 1 1", END]),
    Row("6.9", "window_update_of_0_on_the_connection", window(0, 0), dead("PROTOCOL_ERROR")),
    Row("6.9", "window_update_of_0_on_a_stream", OPEN + window(1, 0), [REQ, GONE, "rst 1 PROTOCOL_ERROR"]),
    Row("6.9", "reserved_bit_of_an_increment", OPEN + window(1, 1 << 31 | 1) + ping(),
        [REQ, WIDER, "pong 12345678"]),
    Row("6.9", "window_update_of_3", frame(8, 0, 0, bytes(3)), dead("FRAME_SIZE_ERROR")),
    Row("6.9", "window_update_of_5", frame(8, 0, 0, bytes(5)), dead("FRAME_SIZE_ERROR")),
    Row("6.9.1", "connection_window_overflows", window(0, (1 << 31) - 1), dead("FLOW_CONTROL_ERROR")),
    Row("6.9.1", "stream_window_overflows", OPEN + window(1, (1 << 31) - 1), [REQ, GONE, "rst 1 FLOW_CONTROL_ERROR"]),
    Row("6.9.1", "largest_connection_window", window(0, (1 << 31) - 1 - 65_535) + ping(), ["pong 12345678"]),
    Row("6.9.1", "more_than_the_streams_window", UNREAD + 3 * data(b"x" * 13_334),
        [REQ, "data 1 13334", "data 1 13334", GONE, "rst 1 FLOW_CONTROL_ERROR", "window 0 40002"]),
    Row("6.9.1", "all_of_the_streams_window", UNREAD + 2 * data(b"x" * 15_000) + data(b"x" * 10_000),
        [REQ, "data 1 15000", "data 1 15000", "data 1 10000", "window 0 40000"]),
    Row("6.9.1", "padding_counts", UNREAD + 2 * data(b"x" * 15_000) + frame(0, 8, 1, b"\xff" + bytes(10_000)),
        [REQ, "data 1 15000", "data 1 15000", GONE, "rst 1 FLOW_CONTROL_ERROR", "window 0 40001"]),
    Row("6.9.1", "more_than_the_connections_window", OPEN + 4 * data(b"x" * 16_384),
        [REQ, "data 1 16384", "data 1 16384", "data 1 16384", GONE, "goaway 1 FLOW_CONTROL_ERROR"], NO_GRANTS),
    Row("6.9.1", "all_of_the_connections_window", OPEN + 3 * data(b"x" * 16_384) + data(b"x" * 16_383),
        [REQ, "data 1 16384", "data 1 16384", "data 1 16384", "data 1 16383"], NO_GRANTS),
    Row("6.9.2", "initial_window_overflows_a_stream", OPEN + window(1, 1000) + settings((4, (1 << 31) - 1)),
        [REQ, WIDER, WIDER, GONE, "goaway 1 FLOW_CONTROL_ERROR"]),
    Row("6.10", "continuation", frame(1, 1, 1, block()[:7]) + frame(9, 4, 1, block()[7:]), SERVED),
    Row("6.10", "three_continuations", frame(1, 1, 1, block()[:7]) + frame(9, 0, 1, block()[7:8])
        + frame(9, 0, 1) + frame(9, 4, 1, block()[8:]), SERVED),
    Row("6.10", "end_stream_of_headers_counts", frame(1, 0, 1, block()[:7]) + frame(9, 5, 1, block()[7:]), STARTED),
    Row("6.10", "continuation_of_another_stream", frame(1, 1, 1, block()) + frame(9, 4, 3), dead("PROTOCOL_ERROR")),
    Row("6.10", "continuation_on_stream_0", frame(1, 1, 1, block()) + frame(9, 4, 0), dead("PROTOCOL_ERROR")),
    Row("6.10", "continuation_after_the_block", headers() + frame(9, 4, 1), [*SERVED, GONE, "goaway 1 PROTOCOL_ERROR"]),
    Row("6.10", "continuation_after_data", OPEN + data(b"x") + frame(9, 4, 1),
        [REQ, "data 1 1", GONE, "goaway 1 PROTOCOL_ERROR"]),
]  # fmt: skip

MESSAGES = [
    Row("8.1", "trailers", OPEN + data(b"x") + headers(1, (("a", "b"),)), [REQ, "data 1 1", END]),
    Row("8.1", "trailers_without_end", OPEN + headers(1, (("a", "b"),), end=False), [REQ, GONE, *MALFORMED]),
    Row("8.1", "trailers_with_pseudo_header", OPEN + headers(1, ((":path", "/b"),)), [REQ, GONE, *MALFORMED]),
    Row("8.1", "trailers_equal_to_the_headers", OPEN + headers(), [REQ, GONE, *MALFORMED]),
    Row("8.1", "trailers_with_upper_case", OPEN + headers(1, (("A", "b"),)), [REQ, GONE, *MALFORMED]),
    Row("8.1", "answer_before_the_request_ends", EARLY, [REQ, "HEADERS 1 end", "rst 1 NO_ERROR"]),
    Row("8.1.1", "content_length", field("content-length", "3"), MALFORMED),
    Row("8.1.1", "content_length_0", field("content-length", "0"), SERVED),
    Row("8.1.1", "body_as_long_as_declared",
        headers(1, (*REQUEST, ("content-length", "3")), end=False) + data(b"abc", end=True), [REQ, "data 1 3", END]),
    Row("8.1.1", "body_too_short",
        headers(1, (*REQUEST, ("content-length", "3")), end=False) + data(b"ab", end=True),
        [REQ, "data 1 2", GONE, *MALFORMED]),
    Row("8.1.1", "body_too_long",
        headers(1, (*REQUEST, ("content-length", "3")), end=False) + data(b"abcd"), [REQ, GONE, *MALFORMED]),
    Row("8.1.1", "body_too_short_before_trailers",
        headers(1, (*REQUEST, ("content-length", "3")), end=False) + headers(1, (("a", "b"),)),
        [REQ, GONE, *MALFORMED]),
    Row("8.1.1", "padding_is_no_body",
        headers(1, (*REQUEST, ("content-length", "1")), end=False) + frame(0, 9, 1, b"\x02x\0\0"),
        [REQ, "data 1 1", END]),
    Row("8.1.1", "body_where_none_is_declared",
        headers(1, (*REQUEST, ("content-length", "0")), end=False) + data(b"x"), [REQ, GONE, *MALFORMED]),
    Row("8.1.1", "content_length_no_number", field("content-length", "x"), MALFORMED),
    Row("8.1.1", "content_length_negative", field("content-length", "-1"), MALFORMED),
    Row("8.1.1", "content_length_twice_unequal",
        headers(1, (*REQUEST, ("content-length", "0"), ("content-length", "1"))), MALFORMED),
    Row("8.1.1", "connection_goes_on_after_a_malformed_request", field("A") + headers(3),
        ["request 3", "end 3", *MALFORMED]),
    Row("8.2.1", "upper_case_name", field("Aa"), MALFORMED),
    Row("8.2.1", "space_in_name", field("a b"), MALFORMED),
    Row("8.2.1", "nul_in_name", field("a\0"), MALFORMED),
    Row("8.2.1", "del_in_name", field("a\x7f"), MALFORMED),
    Row("8.2.1", "high_octet_in_name", field("a\xe9"), MALFORMED),
    Row("8.2.1", "colon_in_name", field("a:b"), MALFORMED),
    Row("8.2.1", "empty_name", field(""), MALFORMED),
    Row("8.2.1", "nul_in_value", field("a", "b\0"), MALFORMED),
    Row("8.2.1", "cr_in_value", field("a", "b\rc"), MALFORMED),
    Row("8.2.1", "lf_in_value", field("a", "b\nc"), MALFORMED),
    Row("8.2.1", "space_before_value", field("a", " b"), MALFORMED),
    Row("8.2.1", "tab_behind_value", field("a", "b\t"), MALFORMED),
    Row("8.2.1", "space_inside_value", field("a", "b c"), SERVED),
    Row("8.2.1", "empty_value", field("a", ""), SERVED),
    Row("8.2.1", "high_octet_in_value", field("a", "\xe9"), SERVED),
    Row("8.2.1", "lf_in_path", headers(1, changed((":path", "/a\nb"))), MALFORMED),
    Row("8.2.2", "connection", field("connection", "close"), MALFORMED),
    Row("8.2.2", "proxy_connection", field("proxy-connection"), MALFORMED),
    Row("8.2.2", "keep_alive", field("keep-alive"), MALFORMED),
    Row("8.2.2", "transfer_encoding", field("transfer-encoding", "chunked"), MALFORMED),
    Row("8.2.2", "upgrade", field("upgrade", "h2c"), MALFORMED),
    Row("8.2.2", "te_trailers", field("te", "trailers"), SERVED),
    Row("8.2.2", "te_gzip", field("te", "gzip"), MALFORMED),
    Row("8.3", "unknown_pseudo_header", headers(1, ((":x", "y"), *REQUEST)), MALFORMED),
    Row("8.3", "response_pseudo_header", headers(1, ((":status", "200"), *REQUEST)), MALFORMED),
    Row("8.3", "pseudo_header_behind_a_field", headers(1, (*REQUEST[:3], ("a", "b"), REQUEST[3])), MALFORMED),
    Row("8.3.1", "no_method", headers(1, without(":method")), MALFORMED),
    Row("8.3.1", "no_scheme", headers(1, without(":scheme")), MALFORMED),
    Row("8.3.1", "no_path", headers(1, without(":path")), MALFORMED),
    Row("8.3.1", "empty_path", headers(1, changed((":path", ""))), MALFORMED),
    Row("8.3.1", "path_without_slash", headers(1, changed((":path", "a"))), MALFORMED),
    Row("8.3.1", "asterisk_of_post", headers(1, changed((":path", "*"))), MALFORMED),
    Row("8.3.1", "asterisk_of_options", headers(1, changed((":path", "*"), (":method", "OPTIONS"))), SERVED),
    Row("8.3.1", "no_authority", headers(1, without(":authority")), SERVED),
    Row("8.3.1", "equal_host", field("host", "host"), SERVED),
    Row("8.3.1", "other_host", field("host", "other"), MALFORMED),
    Row("8.3.1", "two_methods", headers(1, ((":method", "GET"), *REQUEST)), MALFORMED),
    Row("8.3.1", "two_paths", headers(1, (*REQUEST, (":path", "/a"))), MALFORMED),
    Row("8.5", "connect", headers(1, ((":method", "CONNECT"), (":authority", "a:1"))), SERVED),
    Row("8.5", "connect_with_path", headers(1, (*changed((":method", "CONNECT")),)), MALFORMED),
    Row("8.5", "connect_without_authority", headers(1, ((":method", "CONNECT"),)), MALFORMED),
    Row("9.1", "two_requests_in_one_piece", headers(1) + headers(3), ["request 1", "end 1", "request 3", "end 3"]),
]  # fmt: skip


def hpack(*blocks: bytes) -> bytes:
    """Requests on streams 1, 3, ..."""
    return b"".join(frame(1, 5, 2 * index + 1, octets) for index, octets in enumerate(blocks))


BROKEN = dead("COMPRESSION_ERROR")
HUFFMAN_HOST = b"\x41\x83" + bytes((0x9C, 0x75, 0x1F))
HPACK = [
    Row("7541 2.3.1", "static_indexes", hpack(b"\x83\x86\x84"), SERVED),
    Row("7541 2.3.3", "index_0", hpack(b"\x80"), BROKEN),
    Row("7541 2.3.3", "index_beyond_the_tables", hpack(b"\xbe"), BROKEN),
    Row("7541 2.3.3", "dynamic_index", hpack(b"\x83\x86" + literal(":path", "/b", 0x40), b"\x83\x86\xbe"),
        ["request 1", "end 1", "request 3", "end 3"]),
    Row("7541 2.3.3", "name_index_beyond_the_tables", hpack(b"\x7f\x00" + b"\x01x"), BROKEN),
    Row("7541 6.2.2", "not_indexed_is_not_remembered", hpack(b"\x83\x86" + literal(":path", "/b"), b"\x83\x86\xbe"),
        ["request 1", "end 1", "gone 1", "goaway 1 COMPRESSION_ERROR"]),
    Row("7541 6.2.3", "never_indexed", hpack(POST + HTTP + literal(":path", "/b", 0x10)), SERVED),
    Row("7541 4.2", "size_update_at_the_start", hpack(b"\x20" + STATIC_REQUEST), SERVED),
    Row("7541 4.2", "two_size_updates", hpack(b"\x20\x3f\xe1\x1f" + STATIC_REQUEST), SERVED),
    Row("7541 4.2", "three_size_updates", hpack(b"\x20\x20\x20" + STATIC_REQUEST), BROKEN),
    Row("7541 4.2", "three_long_size_updates", hpack(b"\x3f\xe1\x1f" * 3 + STATIC_REQUEST), BROKEN),
    Row("7541 4.2", "three_padded_size_updates", hpack(b"\x3f\x80\x00" * 3 + STATIC_REQUEST), BROKEN),
    Row("7541 4.2", "three_size_updates_in_two_frames",
        frame(1, 1, 1, b"\x20\x20") + frame(9, 4, 1, b"\x20\x83\x86\x84"), BROKEN),
    Row("7541 4.2", "nothing_but_size_updates", hpack(b"\x20" * 10_000), BROKEN),
    Row("7541 4.2", "three_size_updates_in_three_blocks", hpack(*[b"\x20" + STATIC_REQUEST] * 3),
        ["request 1", "end 1", "request 3", "end 3", "request 5", "end 5"]),
    Row("7541 4.2", "size_update_between_fields", hpack(b"\x83\x86" + b"\x20" + b"\x84"), BROKEN),
    Row("7541 4.2", "size_update_behind_a_field", hpack(STATIC_REQUEST + b"\x20"), BROKEN),
    Row("7541 6.3", "size_update_above_the_limit", hpack(b"\x3f\xe2\x1f" + STATIC_REQUEST), BROKEN),
    Row("7541 4.3", "size_update_evicts",
        hpack(b"\x83\x86" + literal(":path", "/b", 0x40), b"\x20\x83\x86\x84", b"\x83\x86\xbe"),
        ["request 1", "end 1", "request 3", "end 3", "gone 1", "gone 3", "goaway 3 COMPRESSION_ERROR"]),
    Row("7541 4.4", "entry_above_the_size_empties",
        hpack(b"\x83\x86" + literal(":path", "/b", 0x40), b"\x83\x86\x84" + literal("a", "x" * 4096, 0x40),
              b"\x83\x86\xbe"),
        ["request 1", "end 1", "request 3", "end 3", "gone 1", "gone 3", "goaway 3 COMPRESSION_ERROR"]),
    Row("7541 4.1", "insertion_shifts_indexes",
        hpack(b"\x83\x86" + literal(":path", "/b", 0x40), b"\x83\x86\xbe" + literal("a", "b", 0x40), b"\x83\x86\xbe"),
        ["request 1", "end 1", "request 3", "end 3", "rst 5 PROTOCOL_ERROR"]),
    Row("7541 5.1", "integer_that_does_not_end", hpack(b"\xff\x80\x80\x80"), BROKEN),
    Row("7541 5.1", "integer_that_is_too_large", hpack(b"\xff\x80\x80\x80\x80\x80\x80\x80\x01"), BROKEN),
    Row("7541 5.2", "literal_that_is_cut_off", hpack(b"\x00\x05ab"), BROKEN),
    Row("7541 5.2", "value_that_is_missing", hpack(b"\x00\x01a"), BROKEN),
    Row("7541 5.2", "huffman", hpack(POST + HTTP + b"\x84" + HUFFMAN_HOST), SERVED),
    Row("7541 5.2", "huffman_padding_of_8_bits", hpack(POST + HTTP + b"\x84" + b"\x41\x84\x9c\x75\x1f\xff"), BROKEN),
    Row("7541 5.2", "huffman_padding_of_zeros", hpack(POST + HTTP + b"\x84" + b"\x41\x83\x9c\x75\x18"), BROKEN),
    Row("7541 5.2", "huffman_end_of_string", hpack(POST + HTTP + b"\x84" + b"\x41\x84\xff\xff\xff\xff"), BROKEN),
    Row("4.3", "a_block_of_a_refused_stream_is_decoded",
        headers(1) + headers(3) + headers(5)
        + frame(1, 5, 7, b"\x83\x86" + literal(":path", "/b", 0x40)) + reset(1) + frame(1, 5, 9, b"\x83\x86\xbe"),
        ["request 1", "end 1", "request 3", "end 3", "request 5", "end 5", "gone 1", "request 9", "end 9",
         "rst 7 REFUSED_STREAM"]),
    Row("4.3", "a_block_of_a_malformed_request_is_decoded",
        frame(1, 5, 1, literal(":path", "/b", 0x40)) + frame(1, 5, 3, b"\x83\x86\xbe"),
        ["request 3", "end 3", *MALFORMED]),
    Row("4.3", "late_trailers_are_decoded",
        EARLY + frame(1, 5, 1, literal(":path", "/b", 0x40)) + frame(1, 5, 3, b"\x83\x86\xbe"),
        [REQ, "request 3", "end 3", "HEADERS 1 end", "rst 1 NO_ERROR"]),
]  # fmt: skip

ROWS = [*FRAMES, *STATES, *FRAME_RULES, *MESSAGES, *HPACK]
by_name = pytest.mark.parametrize("row", ROWS, ids=lambda row: f"{row.section}-{row.name}")


def test_the_table_is_large_and_its_rows_differ() -> None:
    rows = [*RAW, *ROWS]

    assert len(rows) >= 120
    assert len({(row.section, row.name) for row in rows}) == len(rows)
    assert len({row.stimulus for row in rows}) == len(rows)


@pytest.mark.parametrize("row", RAW, ids=lambda row: f"{row.section}-{row.name}")
def test_from_the_first_octet(row: Row) -> None:
    peer = Peer(row.limits, shakes_hands=False)
    assert peer.written() == ["settings", "window 0 34465"]

    peer.send(row.stimulus)

    assert peer.events + peer.written() == row.reaction


@by_name
def test_rule(row: Row) -> None:
    peer = Peer(row.limits)

    peer.send(row.stimulus)

    assert peer.events + peer.written() == row.reaction
    assert peer.connection.is_closed == any(word.startswith("goaway") for word in row.reaction)


@by_name
def test_rule_octet_by_octet(row: Row) -> None:
    """The same in the smallest pieces; but data comes in pieces too, and windows are given back earlier."""
    peer = Peer(row.limits)

    for index in range(len(row.stimulus)):
        peer.send(row.stimulus[index : index + 1])

    def words(reactions: list[str]) -> list[str]:
        return [word for word in reactions if not word.startswith(("data ", "window "))]

    assert words(peer.events + peer.written()) == words(row.reaction)


def test_what_we_send_needs_no_table() -> None:
    peer = Peer(LIMITS)
    peer.send(settings((1, 0)) + ANSWERED)

    assert peer.octets().endswith(frame(1, 5, 1, OK))
