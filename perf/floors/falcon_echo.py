# SPDX-License-Identifier: Apache-2.0
"""Floor of the REST front: gunicorn, one uvicorn worker (uvloop, httptools), a falcon ASGI app.

It receives the whole body, parses none of it, and answers every POST with the same JSON.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import sys
from collections.abc import Mapping
from typing import Any

import falcon.asgi
import orjson

from perf.floors import READY_TEXTS


class _Startup:
    """Middleware that says "ready" once the worker's loop runs (ASGI lifespan)."""

    async def process_startup(self, scope: Mapping[str, Any], event: Mapping[str, Any]) -> None:
        """Called by falcon before the first request."""
        del scope, event
        sys.stdout.write(READY_TEXTS["falcon_echo"] + "\n")
        sys.stdout.flush()


class _ConstantAnswer:
    """One route's resource."""

    def __init__(self, answer: bytes) -> None:
        self._answer = answer

    async def on_post(self, request: falcon.asgi.Request, response: falcon.asgi.Response, name: str) -> None:
        """Receive the body, then answer."""
        del name
        await request.stream.read()
        response.data = self._answer


def create_app(response_bytes: int) -> falcon.asgi.App:  # type: ignore[type-arg]  # falcon's own defaults
    """The ASGI app; gunicorn calls this in its worker.

    Args:
        response_bytes: Size of the answer's JSON text, at least that of an empty one.
    """
    empty = orjson.dumps({"predictions": ""})
    padding = "0" * max(response_bytes - len(empty), 0)
    app = falcon.asgi.App()
    app.add_middleware(_Startup())
    app.add_route("/v1/models/{name}", _ConstantAnswer(orjson.dumps({"predictions": padding})))
    return app


def main() -> None:
    """Become gunicorn."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--response-bytes", type=int, default=100)
    arguments = parser.parse_args()
    # The worker's "auto" takes uvloop and httptools when they are there; a floor without them would be
    # another floor.
    for needed in ("uvloop", "httptools"):
        if importlib.util.find_spec(needed) is None:
            raise SystemExit(f"falcon_echo: {needed} is not installed")
    argv = [
        sys.executable,
        "-m",
        "gunicorn",
        f"perf.floors.falcon_echo:create_app({arguments.response_bytes})",
    ]
    argv += ["--worker-class", "uvicorn_worker.UvicornWorker", "--workers", "1", "--no-control-socket"]
    argv += ["--bind", f"127.0.0.1:{arguments.port}", "--log-level", "warning"]
    os.execv(sys.executable, argv)


if __name__ == "__main__":
    main()
