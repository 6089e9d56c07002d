# SPDX-License-Identifier: Apache-2.0
"""Runs the functions of a script whose names begin with ``case_``; a line of JSON says how each of them ended."""

from __future__ import annotations

import asyncio
import inspect
import json
import os
import sys
import traceback
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Address:
    """Where the server is."""

    grpc: str
    rest: str


def run(module_name: str) -> None:
    """Run all cases of a module; each is given the :class:`Address`."""
    # Not from the command line, which some libraries read when they are imported.
    address = Address(os.environ["GRPC_ADDRESS"], os.environ["REST_ADDRESS"])
    for name, function in vars(sys.modules[module_name]).items():
        if not name.startswith("case_"):
            continue
        failure = ""
        try:
            result: Any = function(address)
            if inspect.isawaitable(result):
                asyncio.run(_awaited(result))
        except Exception:
            failure = traceback.format_exc()
        sys.stdout.write(json.dumps({"case": name.removeprefix("case_"), "failure": failure}) + "\n")
        sys.stdout.flush()


async def _awaited(awaitable: Any) -> None:
    await asyncio.wait_for(awaitable, 60)
