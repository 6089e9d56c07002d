# SPDX-License-Identifier: Apache-2.0
"""Whose request this is, as workers take flows in turn: who asks for much must not be ahead of everybody else."""

from __future__ import annotations

import itertools
from contextvars import ContextVar

current_flow: ContextVar[int] = ContextVar("current_flow", default=0)
"""The connection's number, set before a request's task begins; 0 where a connection has one request at once anyway."""

new_flow = itertools.count(1).__next__
"""A number that no connection of this process had before."""
