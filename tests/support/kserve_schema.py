# SPDX-License-Identifier: Apache-2.0
"""What our manifests may say in kinds that are not Kubernetes' own, as JSON schemas: KServe's and kustomize's.

A part of what these kinds have, so whatever is new in a manifest is looked up once and added here. Containers and
volumes of a runtime are a pod's, and are held against that.
"""

from __future__ import annotations

from typing import Any

Schema = dict[str, Any]

_TEXT: Schema = {"type": "string", "minLength": 1}
_COUNT: Schema = {"type": "integer", "minimum": 0}
_PERCENT: Schema = {"type": "integer", "minimum": 0, "maximum": 100}
_TEXTS: Schema = {"type": "object", "additionalProperties": {"type": "string"}}


def _object(required: dict[str, Schema], optional: dict[str, Schema] | None = None) -> Schema:
    return {
        "type": "object",
        "properties": {**required, **(optional or {})},
        "required": list(required),
        "additionalProperties": False,
    }


def _list(items: Schema) -> Schema:
    return {"type": "array", "items": items, "minItems": 1}


def _kind(version: str, name: str, *, has_metadata: bool = True, **fields: Schema) -> Schema:
    metadata = _object({"name": _TEXT}, {"annotations": _TEXTS, "labels": _TEXTS})
    head = {"apiVersion": {"const": version}, "kind": {"const": name}}
    return _object({**head, **({"metadata": metadata} if has_metadata else {}), **fields})


_FORMAT = _object({"name": _TEXT}, {"version": _TEXT, "autoSelect": {"type": "boolean"}, "priority": _COUNT})
_RUNTIME = _object(
    {
        "containers": _list({"type": "object"}),
        "supportedModelFormats": _list(_FORMAT),
        "protocolVersions": _list({"enum": ["v1", "v2", "grpc-v1", "grpc-v2"]}),
    },
    {"annotations": _TEXTS, "labels": _TEXTS, "volumes": _list({"type": "object"})},
)
_MODEL = _object(
    {
        "modelFormat": _object({"name": _TEXT}, {"version": _TEXT}),
        "storageUri": {"type": "string", "pattern": "^(s3|gs|pvc|https?|hf|oci)://[^/]+/.+"},
    },
    {
        "runtime": _TEXT,
        "protocolVersion": _TEXT,
        "args": _list(_TEXT),
        "resources": _object({}, {"requests": _TEXTS, "limits": _TEXTS}),
    },
)
_PREDICTOR = _object(
    {"model": _MODEL},
    {
        "serviceAccountName": _TEXT,
        "minReplicas": _COUNT,
        "maxReplicas": _COUNT,
        "scaleTarget": _COUNT,
        "scaleMetric": {"enum": ["cpu", "memory", "concurrency", "rps"]},
        "canaryTrafficPercent": _PERCENT,
        "annotations": _TEXTS,
    },
)
_CANARY = _object(
    {
        "trafficPercent": _PERCENT,
        "predictor": _object({"name": _TEXT, "model": _MODEL}, {"minReplicas": _COUNT}),
    }
)
SCHEMAS: dict[str, Schema] = {
    "ClusterServingRuntime": _kind("serving.kserve.io/v1alpha1", "ClusterServingRuntime", spec=_RUNTIME),
    "InferenceService": _kind(
        "serving.kserve.io/v1beta1",
        "InferenceService",
        spec=_object({"predictor": _PREDICTOR}, {"canary": _list(_CANARY)}),
    ),
    "Kustomization": _object(
        {
            "apiVersion": {"const": "kustomize.config.k8s.io/v1beta1"},
            "kind": {"const": "Kustomization"},
            "resources": _list(_TEXT),
        },
        {
            "configMapGenerator": _list(_object({"name": _TEXT, "files": _list(_TEXT)})),
            "images": _list(_object({"name": _TEXT}, {"newName": _TEXT, "newTag": _TEXT})),
            "patches": _list(_object({"target": _object({"kind": _TEXT, "name": _TEXT}), "patch": _TEXT})),
        },
    ),
    "ServiceMonitor": _kind(
        "monitoring.coreos.com/v1",
        "ServiceMonitor",
        spec=_object(
            {
                "selector": _object({"matchLabels": _TEXTS}),
                "endpoints": _list(
                    _object(
                        {"port": _TEXT},
                        {"path": _TEXT, "interval": _TEXT, "scheme": {"enum": ["http", "https"]}},
                    )
                ),
            }
        ),
    ),
}
