# SPDX-License-Identifier: Apache-2.0
"""How much of a connection is read ahead, and how long a client is waited for."""

MOST_PIPELINED = 8
"""Requests behind the one that is answered; a piece may hold some more."""
PIECE_BYTES = 1 << 10
"""What is parsed at once where requests may begin: fifty of the shortest."""
BODY_PIECE_BYTES = 16 << 10
"""The same where a chunked body goes on."""
BODY_PIECES_A_TURN = 2048
"""What is read at once of a chunked body of tiny chunks. PERF: 2 ms; then others have their turn."""
HEAD_TIMEOUT_S = 30.0
IDLE_TIMEOUT_S = 75.0
LINGER_SWEEPS, QUIET_SWEEPS = 30, 5
"""How long a connection that is closed before its request's end is still read from, at most and without an octet: a
close with octets unread would reset it, and the client might lose the answer (RFC 9112, 9.6)."""
LAST_REQUEST_S = 0.3
"""How long a connection without a request is kept when the server stops: a close while a request is on its way would
reset it, and a client that has just connected has sent one."""
FIRST_LOOK_S = 0.02
"""When it is looked for the first time whether a client that sends no more has left; a host nearby has said by then."""
FILLED_BYTES = 16 << 10
"""Of a body from which reading it straight to its place pays."""
START_BYTES = 8 << 10
"""What is read at once where a long body may begin."""
SCRATCH_BYTES = 256 << 10
"""Memory in which what is read waits to be parsed."""
