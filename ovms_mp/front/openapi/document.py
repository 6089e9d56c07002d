# SPDX-License-Identifier: Apache-2.0
"""The OpenAPI document: which calls there are says the list of routes, what they mean their protocols.

https://spec.openapis.org/oas/v3.1.1.html
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import orjson

from ovms_mp import __version__
from ovms_mp.front.endpoints import TIMEOUT_HEADER, Answer, Endpoint, FixedRoute
from ovms_mp.front.openapi.description import JSON, STRING, record, ref

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from ovms_mp.front.call_context import CallContext
    from ovms_mp.front.endpoints import RestRequest, Route
    from ovms_mp.front.openapi.description import Description, Operation, Schema

PATH = "/openapi.json"
_NAME = "GetOpenApi"
_PROTOCOL = "server"
_PARAMETER = re.compile(r"{(\w+)}")

_ANY = {
    400: "The request is malformed, or not what the model takes.",
    405: "The path has no such HTTP method; `Allow` names those that it has.",
    408: "The request's head did not arrive in time.",
    414: "The URL is too long.",
    431: "The header fields are too many or too long.",
    500: "A failure of the engine or a defect of the server; its log has the details.",
    503: "Not ready, stopping or too many connections: try again, at another server perhaps.",
}
_NAMED = {404: "There is no such model, version, region or path."}
_GUARDED = {
    401: "Who asks has not sent a key, or none that the server knows (`--api_key_file`).",
    403: "Who asks may not ask for this.",
    429: "As many requests are under way or wait as may be: try again after `Retry-After`.",
}
_WITH_BODY = {
    413: "The body, its tensors or the answer are longer than the server takes.",
    415: "`Content-Encoding` is neither gzip nor deflate.",
    501: "The protocol has it, this server does not.",
    504: "The answer did not come within `--request_timeout_s`, or within the request's own time.",
}
_CHANGING = {409: "Another change is in its way.", 504: "The change did not end within its time."}
_PATIENCE = {TIMEOUT_HEADER: "Seconds that the client waits for the answer, e.g. 0.5."}
_RETRIED = (429, 503)
_ERROR: Schema = record({"error": STRING})


def description_route(
    routes: Sequence[Route], descriptions: Callable[[], Mapping[str, Description]]
) -> Route:
    """The path of the document about these routes and about itself.

    Args:
        routes: All others.
        descriptions: Gives what protocols say, by their names.
    """
    text = b""

    async def answer(request: RestRequest, context: CallContext) -> Answer:
        nonlocal text
        if not text:  # Few ask for it, so it is made for the first who does.
            text = orjson.dumps(document([*routes, own], descriptions()))
        return Answer(text)

    own = FixedRoute(PATH, {"GET": Endpoint(answer, _PROTOCOL, _NAME, compresses=True)})
    return own


def document(routes: Sequence[Route], descriptions: Mapping[str, Description]) -> dict[str, Any]:
    """The document.

    Args:
        routes: What is described.
        descriptions: What protocols say, by their names.
    """
    paths: dict[str, dict[str, Any]] = {}
    for route in routes:
        for verb, path, endpoint in route.operations():
            described = descriptions[endpoint.protocol].operations.get((verb, endpoint.name))
            if described is not None:
                path = path.rstrip("/") or "/"  # "/v2/" is "/v2".
                paths.setdefault(path, {})[verb.lower()] = _operation(verb, path, endpoint, described)
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "ovms_mp",
            "version": __version__,
            "description": "Multi-process model server for OpenVINO. The same calls are there over gRPC.",
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
        },
        # As seen from where this document is, so also behind a prefix.
        "servers": [{"url": "."}],
        "tags": [{"name": name, "description": described.title} for name, described in descriptions.items()],
        "paths": paths,
        "components": {
            "schemas": {
                "Error": _ERROR,
                **{
                    name: schema
                    for described in descriptions.values()
                    for name, schema in described.schemas.items()
                },
            },
            "securitySchemes": {"key": {"type": "http", "scheme": "bearer"}},
        },
    }


def _operation(verb: str, path: str, endpoint: Endpoint, described: Operation) -> dict[str, Any]:
    names = _PARAMETER.findall(path)
    found: dict[str, Any] = {
        "operationId": re.sub(r"\W+", "_", verb.lower() + path.replace("}", "")),
        "summary": described.summary,
        "tags": [endpoint.protocol],
        "responses": _responses(endpoint, described, has_names=bool(names)),
    }
    headers = {**described.headers, **(_PATIENCE if endpoint.takes_body else {})}
    if names or headers:
        found["parameters"] = [
            *[_parameter(name, "path", "", {"type": "string", "minLength": 1}) for name in names],
            *[_parameter(name, "header", text, STRING) for name, text in headers.items()],
        ]
    if described.body:
        found["requestBody"] = {"content": _content(described.body), "required": described.needs_body}
    if not endpoint.is_open:
        # Whether keys are asked for is a setting.
        found["security"] = [{}, {"key": []}]
    return found


def _parameter(name: str, place: str, text: str, schema: Schema) -> dict[str, Any]:
    described = {"description": text} if text else {}
    return {"name": name, "in": place, "required": place == "path", "schema": schema, **described}


def _content(schemas: Mapping[str, Schema]) -> dict[str, Any]:
    return {kind: {"schema": schema} for kind, schema in schemas.items()}


def _responses(endpoint: Endpoint, described: Operation, *, has_names: bool) -> dict[str, Any]:
    good: dict[str, Any] = {"description": "As asked."}
    if described.answers:
        good["content"] = _content(described.answers)
    failures = {
        **_ANY,
        **(_NAMED if has_names else {}),
        **({} if endpoint.is_open else _GUARDED),
        **(_WITH_BODY if endpoint.takes_body else {}),
        **(_CHANGING if endpoint.changes_server else {}),
        **{status: text for status, text in described.statuses.items() if status >= 400},
    }
    responses = {"200": good}
    for status, text in described.statuses.items():
        if status < 400:
            responses[str(status)] = {**good, "description": text}
    for status, text in sorted(failures.items()):
        failed: dict[str, Any] = {"description": text, "content": _content({JSON: ref("Error")})}
        if status in _RETRIED:
            failed["headers"] = {"Retry-After": {"schema": {"type": "string"}}}
        if status == 405:
            failed["headers"] = {"Allow": {"schema": {"type": "string"}}}
        responses[str(status)] = failed
    return responses
