# SPDX-License-Identifier: Apache-2.0
"""What KServe's calls about the server's state refuse, in the words that clients match."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from ovms_mp import errors
from tests.conformance.case import Case, KServe, Refusal, Rest

if TYPE_CHECKING:
    from collections.abc import Iterator

LOAD, UNLOAD, LOG, TRACE = "RepositoryModelLoad", "RepositoryModelUnload", "LogSettings", "TraceSetting"
NOT_CONFIGURED = Refusal(errors.ModelNotFound, ("failed to load 'nobody', model is not configured",))
NOT_THERE = Refusal(errors.ModelNotFound, ("failed to unload 'nobody', model is not configured",))
OVERRIDE = Refusal(
    errors.UnsupportedOperation, ("failed to load 'tiny', ", "in the request is not supported")
)
REPOSITORY = Refusal(errors.UnsupportedOperation, ("'repository_name' specification is not supported",))
NO_TRACES = Refusal(errors.UnsupportedOperation, ("trace setting 'trace_level'", "accepted: ['OFF']"))
NO_SETTING = Refusal(errors.MalformedPayload, ("log setting 'log_colour' is unknown; accepted: log_info",))
NO_FILE = Refusal(errors.UnsupportedOperation, ("log file location can not be updated",))
NO_JSON = Refusal(errors.MalformedPayload, ("failed to parse the request JSON buffer",))
UNKNOWN = Refusal(errors.ModelNotFound, ("no model has this name",))
OTHER_SITE = Refusal(None, ("a page of another site may not change this server",), status=403)


def over_grpc(name: str, method: str, message: dict[str, Any], refusal: Refusal) -> Case:
    return Case(f"{name} over gRPC", KServe(method=method, message=message), refusal)


def over_rest(name: str, path: str, body: object, refusal: Refusal, **headers: str) -> Case:
    text = body if isinstance(body, str) else json.dumps(body)
    return Case(f"{name} over REST", Rest(path=path, body=text, headers=headers), refusal)


def _cases() -> Iterator[Case]:
    models = "/v2/repository/models"
    yield over_grpc("load of nobody", LOAD, {"modelName": "nobody"}, NOT_CONFIGURED)
    yield over_rest("load of nobody", f"{models}/nobody/load", {}, NOT_CONFIGURED)
    yield over_grpc("unload of nobody", UNLOAD, {"modelName": "nobody"}, NOT_THERE)
    yield over_rest("unload of nobody", f"{models}/nobody/unload", {}, NOT_THERE)
    config = {"modelName": "tiny", "parameters": {"config": {"stringParam": "{}"}}}
    yield over_grpc("load with a configuration", LOAD, config, OVERRIDE)
    files = {"modelName": "tiny", "parameters": {"file:1/model.xml": {"bytesParam": "eA=="}}}
    yield over_grpc("load with files", LOAD, files, OVERRIDE)
    given = {"parameters": {"config": "{}"}}
    yield over_rest("load with a configuration", f"{models}/tiny/load", given, OVERRIDE)
    yield over_grpc("index of a repository", "RepositoryIndex", {"repositoryName": "r"}, REPOSITORY)
    yield over_rest("index with no JSON", "/v2/repository/index", "{", NO_JSON)
    yield over_rest("load of another site's page", f"{models}/tiny/load", {}, OTHER_SITE, Origin="http://x")
    levels = {"settings": {"trace_level": {"value": ["TIMESTAMPS"]}}}
    yield over_grpc("traces", TRACE, levels, NO_TRACES)
    yield over_rest("traces", "/v2/trace/setting", {"trace_level": ["TIMESTAMPS"]}, NO_TRACES)
    yield over_rest("traces of tiny", "/v2/models/tiny/trace/setting", {"trace_level": "MAX"}, NO_TRACES)
    yield over_grpc("traces of nobody", TRACE, {"modelName": "nobody"}, UNKNOWN)
    yield over_rest("traces of nobody", "/v2/models/nobody/trace/setting", {}, UNKNOWN)
    yield over_grpc("log setting", LOG, {"settings": {"log_colour": {"boolParam": True}}}, NO_SETTING)
    yield over_rest("log setting", "/v2/logging", {"log_colour": True}, NO_SETTING)
    yield over_grpc("log file", LOG, {"settings": {"log_file": {"stringParam": "x"}}}, NO_FILE)
    yield over_rest("log file", "/v2/logging", {"log_file": "x"}, NO_FILE)


STATE = tuple(_cases())
