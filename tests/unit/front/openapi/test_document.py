# SPDX-License-Identifier: Apache-2.0
"""The OpenAPI document says all that can be called and nothing else, in OpenAPI's words."""

from __future__ import annotations

import re
from types import SimpleNamespace
from typing import Any, cast

import pytest

from ovms_mp.front.openapi.document import PATH, document
from ovms_mp.front.protocols import all_routes, descriptions

ROUTES = all_routes(cast(Any, SimpleNamespace()))
DOCUMENT = document(ROUTES, descriptions())
CALLS = [
    (verb, path, endpoint)
    for route in ROUTES
    for verb, path, endpoint in route.operations()
    if path != "/v2/"  # The same as without the slash.
]
OPERATIONS = [operation for path in DOCUMENT["paths"].values() for operation in path.values()]
NAMES = {"model": "org%2Fmodel", "version": "3", "region": "r", "topic": "settings"}


def test_it_is_openapi() -> None:
    validator = pytest.importorskip("openapi_spec_validator")
    validator.OpenAPIV31SpecValidator(DOCUMENT).validate()


def test_every_call_is_described() -> None:
    missing = [(verb, path) for verb, path, _ in CALLS if verb.lower() not in DOCUMENT["paths"].get(path, {})]

    assert missing == [], "say what they mean in the protocol's openapi.py"
    assert len(CALLS) == len(OPERATIONS) > 40
    assert len({operation["operationId"] for operation in OPERATIONS}) == len(OPERATIONS)


def test_every_path_leads_to_what_is_described() -> None:
    for verb, path, endpoint in CALLS:
        raw_path = re.sub(r"{(\w+)}", lambda name: NAMES[name[1]], path).encode()
        found = [
            route.find(verb, raw_path)
            for route in ROUTES
            if raw_path.decode().startswith(route.template.replace("{path:path}", "", 1))
            and ("{" in route.template or route.template == path)
        ]
        assert endpoint in found, (verb, path)


def test_nothing_is_described_that_is_not_there() -> None:
    names = {(endpoint.protocol, verb, endpoint.name) for verb, _, endpoint in CALLS}
    for protocol, description in descriptions().items():
        assert [key for key in description.operations if (protocol, *key) not in names] == []


@pytest.mark.parametrize("status", ["401", "403", "429"])
def test_only_probes_are_answered_whoever_asks(status: str) -> None:
    for verb, path, endpoint in CALLS:
        responses = DOCUMENT["paths"][path][verb.lower()]["responses"]
        assert (status in responses) is not endpoint.is_open, path


def test_names_and_bodies_have_their_statuses() -> None:
    for verb, path, endpoint in CALLS:
        operation = DOCUMENT["paths"][path][verb.lower()]
        statuses = set(operation["responses"])
        assert statuses >= {"200", "400", "405", "503"}
        assert ("404" in statuses) is ("{" in path), path
        assert endpoint.takes_body is ("requestBody" in operation) is ("413" in statuses), path


def test_schemas_that_are_referred_to_are_there() -> None:
    references = set(re.findall(r"#/components/schemas/(\w+)", str(DOCUMENT)))

    assert references == set(DOCUMENT["components"]["schemas"])


def test_schemas_are_schemas() -> None:
    jsonschema = pytest.importorskip("jsonschema")
    for schema in DOCUMENT["components"]["schemas"].values():
        jsonschema.Draft202012Validator.check_schema(schema)


def test_it_describes_itself() -> None:
    assert list(DOCUMENT["paths"][PATH]) == ["get"]
