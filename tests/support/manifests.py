# SPDX-License-Identifier: Apache-2.0
"""The manifests below ``deploy/kubernetes``: read, held against their schemas and each other, and what they run."""

from __future__ import annotations

import functools
import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jsonpatch
import yaml

from tests.support.kserve_schema import SCHEMAS

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

ROOT = Path(__file__).parents[2] / "deploy" / "kubernetes"
KUBERNETES = "1.37"
PROBES = ("startupProbe", "readinessProbe", "livenessProbe")
_MODE = "serving.kserve.io/deploymentMode"
_DEFAULT_GRACE_S = 30
_STOP_GRACE_S = 30
Document = dict[str, Any]


def read_all() -> dict[str, str]:
    """The text of every manifest by its path below the directory."""
    return {str(path.relative_to(ROOT)): path.read_text() for path in sorted(ROOT.rglob("*.yaml"))}


def documents(texts: Mapping[str, str]) -> list[Document]:
    """All documents of these manifests."""
    return [document for text in texts.values() for document in yaml.safe_load_all(text)]


def problems(texts: Mapping[str, str]) -> list[str]:
    """What is wrong with a set of manifests; empty where nothing is."""
    found: list[str] = []
    every = documents(texts)
    for document in every:
        found += _problems_of_one(document)
    if not found:  # What is to fit together has its form.
        patched = secured(every)
        for document in patched:
            found += _problems_of_one(document)
        for pod in [*_pods(every), _one(patched, "Deployment")["spec"]["template"]["spec"]]:
            found += _problems_of_pod(pod)
        found += _unknown_names(every, texts)
    return found


def _problems_of_one(document: Document) -> list[str]:
    where = f"{document.get('kind')} {document.get('metadata', {}).get('name', '')}".strip()
    return [f"{where}: {problem}" for problem in mistakes_in(document)]


def mistakes_in(document: Document) -> Iterator[str]:
    """What is wrong with one document by itself."""
    schema = SCHEMAS.get(document.get("kind", ""))
    if schema is None:
        yield from _problems_by_kubernetes(json.dumps(document))
        return
    import jsonschema  # Takes a second, which no other test is to wait for.

    validator = jsonschema.Draft202012Validator(schema)
    for error in validator.iter_errors(document):
        yield f"{error.json_path}: {error.message}"
    if document["kind"] == "ClusterServingRuntime":
        spec = {key: document["spec"].get(key, []) for key in ("containers", "volumes")}
        pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "runtime"}, "spec": spec}
        yield from _problems_by_kubernetes(json.dumps(pod))


@functools.lru_cache
def _problems_by_kubernetes(text: str) -> tuple[str, ...]:
    """Problems of a document of Kubernetes' own."""
    import kubernetes_validate  # As jsonschema, which it needs.

    try:
        kubernetes_validate.validate(json.loads(text), KUBERNETES, strict=True)
    except kubernetes_validate.ValidationError as error:
        return (str(error).splitlines()[0],)
    return ()


def _one(every: Sequence[Document], kind: str) -> Document:
    (found,) = [document for document in every if document["kind"] == kind]
    return found


def _overlays(every: Sequence[Document]) -> list[Document]:
    """Kustomizations of what another one makes."""
    return [document for document in every if document["kind"] == "Kustomization" and "patches" in document]


def secured(every: Sequence[Document]) -> list[Document]:
    """What ``secure/`` makes of what it patches."""
    (overlay,) = _overlays(every)
    found = []
    for patch in overlay["patches"]:
        target = _one(every, patch["target"]["kind"])
        assert target["metadata"]["name"] == patch["target"]["name"]
        found.append(jsonpatch.apply_patch(target, yaml.safe_load(patch["patch"])))
    return found


def _runtimes(every: Sequence[Document]) -> dict[str, Document]:
    """Specifications of KServe's runtimes by their names."""
    return {
        document["metadata"]["name"]: document["spec"]
        for document in every
        if document["kind"] == "ClusterServingRuntime"
    }


def _pods(every: Sequence[Document]) -> list[Document]:
    """Specifications of pods with one container."""
    return [_one(every, "Deployment")["spec"]["template"]["spec"], *_runtimes(every).values()]


def _problems_of_pod(pod: Document) -> Iterator[str]:
    (container,) = pod["containers"]
    name = container["name"]
    ports = {value for port in container["ports"] for value in (port["name"], port["containerPort"])}
    volumes = {volume["name"] for volume in pod["volumes"]}
    for kind in PROBES:
        if kind in container and (port := container[kind]["httpGet"]["port"]) not in ports:
            yield f"{name}: {kind} asks the port {port}, which is none of {ports}"
    for mount in container["volumeMounts"]:
        if mount["name"] not in volumes:
            yield f"{name}: the volume {mount['name']} is none of {volumes}"
    security = {**pod.get("securityContext", {}), **container["securityContext"]}
    expected = {
        "runAsNonRoot": True,
        "runAsUser": 5000,
        "readOnlyRootFilesystem": True,
        "allowPrivilegeEscalation": False,
        "capabilities": {"drop": ["ALL"]},
    }
    if wrong := {key: security.get(key) for key, value in expected.items() if security.get(key) != value}:
        yield f"{name}: securityContext has {wrong}"
    if "lifecycle" not in container:
        yield from _problems_with_knative(container)
        return
    pause_s = int(container["lifecycle"]["preStop"]["exec"]["command"][1])
    flags = dict(argument.partition("=")[::2] for argument in container["args"])
    needed_s = pause_s + int(flags.get("--stop_grace_s", _STOP_GRACE_S))
    if needed_s >= pod.get("terminationGracePeriodSeconds", _DEFAULT_GRACE_S):
        yield f"{name}: its stop may take {needed_s} s, more than the pod's grace period"


def _problems_with_knative(container: Document) -> Iterator[str]:
    """What Knative refuses in a container besides ``lifecycle``, or answers otherwise than one would think."""
    name = container["name"]
    if len(container["ports"]) != 1:
        yield f"{name}: Knative allows one port"
    if "startupProbe" in container or not container["readinessProbe"]["httpGet"]["path"].startswith(
        "/v2/models/"
    ):
        yield f"{name}: Knative sends requests when the readiness probe is answered, so it must ask for the model"


def _unknown_names(every: Sequence[Document], texts: Mapping[str, str]) -> Iterator[str]:
    """Names that mean nothing."""
    deployment = _one(every, "Deployment")
    (kustomization,) = [
        document for document in every if document["kind"] == "Kustomization" and "patches" not in document
    ]
    labels = deployment["spec"]["template"]["metadata"]["labels"]
    ports = {port["name"] for port in deployment["spec"]["template"]["spec"]["containers"][0]["ports"]}
    selectors = [
        deployment["spec"]["selector"]["matchLabels"],
        _one(every, "Service")["spec"]["selector"],
        _one(every, "PodDisruptionBudget")["spec"]["selector"]["matchLabels"],
    ]
    yield from (f"nothing has the labels {selector}" for selector in selectors if selector != labels)
    template, monitor = deployment["spec"]["template"], _one(every, "ServiceMonitor")["spec"]
    if monitor["selector"]["matchLabels"] != _one(every, "Service")["metadata"]["labels"]:
        yield "the ServiceMonitor selects no Service"
    offered = {port["name"] for port in _one(every, "Service")["spec"]["ports"]}
    yield from (
        f"the ServiceMonitor names a port {each['port']}"
        for each in monitor["endpoints"]
        if each["port"] not in offered
    )
    scraped = int(template["metadata"]["annotations"]["prometheus.io/port"])
    if scraped not in {port["containerPort"] for port in template["spec"]["containers"][0]["ports"]}:
        yield f"prometheus.io/port is {scraped}"
    targets = {port["targetPort"] for port in _one(every, "Service")["spec"]["ports"]}
    yield from (f"the Service names a port {port}" for port in targets - ports)
    scaled = _one(every, "HorizontalPodAutoscaler")["spec"]["scaleTargetRef"]["name"]
    if scaled != deployment["metadata"]["name"]:
        yield f"the HorizontalPodAutoscaler scales {scaled}"
    listed = {f"base/{name}" for name in kustomization["resources"]} | {"base/kustomization.yaml"}
    if listed != (here := {name for name in texts if name.startswith("base/")}):
        yield f"kustomization.yaml lists other files than there are: {listed ^ here}"
    (generated,) = kustomization["configMapGenerator"]
    volumes = deployment["spec"]["template"]["spec"]["volumes"]
    if {"name": generated["name"]} not in [volume.get("configMap") for volume in volumes]:
        yield f"no volume has the ConfigMap {generated['name']}"
    yield from (
        f"{name} does not exist" for name in generated["files"] if not (ROOT / "base" / name).exists()
    )
    accounts = {document["metadata"]["name"] for document in every if document["kind"] == "ServiceAccount"}
    yield from _unknown_names_of_services(every, accounts)


def _unknown_names_of_services(every: Sequence[Document], accounts: set[str]) -> Iterator[str]:
    runtimes = _runtimes(every)
    for service in inference_services(every):
        name = service["metadata"]["name"]
        is_knative = service["metadata"].get("annotations", {}).get(_MODE) == "Knative"
        if service["spec"]["predictor"].get("serviceAccountName", None) not in {None, *accounts}:
            yield f"{name}: there is no service account {service['spec']['predictor']['serviceAccountName']}"
        for model in _models(service):
            runtime = runtimes.get(model["runtime"])
            if runtime is None:
                yield f"{name}: there is no runtime {model['runtime']}"
                continue
            if model["modelFormat"]["name"] not in {
                each["name"] for each in runtime["supportedModelFormats"]
            }:
                yield f"{name}: the runtime has no format {model['modelFormat']['name']}"
            if is_knative == ("lifecycle" in runtime["containers"][0]):
                yield f"{name}: the runtime {model['runtime']} is of another mode"
        yield from (f"{name}: {problem}" for problem in _problems_of_mode(service["spec"], is_knative))


def _problems_of_mode(spec: Document, is_knative: bool) -> Iterator[str]:
    """What one of KServe's two modes ignores or refuses."""
    predictor = spec["predictor"]
    if is_knative and "canary" in spec:
        yield "Knative has canaryTrafficPercent instead of a canary"
    if not is_knative and (
        "canaryTrafficPercent" in predictor
        or predictor.get("minReplicas") == 0
        or predictor.get("scaleMetric") in ("concurrency", "rps")
    ):
        yield "needs the mode Knative"
    if sum(canary["trafficPercent"] for canary in spec.get("canary", [])) > 100:
        yield "canaries have more than all requests"


def _models(service: Document) -> list[Document]:
    spec = service["spec"]
    predictors = [spec["predictor"], *(canary["predictor"] for canary in spec.get("canary", []))]
    return [predictor["model"] for predictor in predictors]


def inference_services(every: Sequence[Document]) -> list[Document]:
    """The examples for KServe."""
    return [document for document in every if document["kind"] == "InferenceService"]


@dataclass(frozen=True)
class Run:
    """What a cluster makes of a manifest.

    Attributes:
        name: Of the model.
        args: What follows the image's entry point.
        ports: Numbers by the names that probes may use, and by themselves.
        probes: (port, path) of each kind that there is.
    """

    name: str
    args: tuple[str, ...]
    ports: Mapping[str | int, int]
    probes: Mapping[str, tuple[int, str]]


def runs(every: Sequence[Document]) -> dict[str, Run]:
    """One for the Deployment, and one for each InferenceService, by their names."""
    deployed = _one(every, "Deployment")
    found = {
        deployed["metadata"]["name"]: _run("digits", deployed["spec"]["template"]["spec"]["containers"][0])
    }
    runtimes = _runtimes(every)
    for service in inference_services(every):
        name = service["metadata"]["name"]
        model = service["spec"]["predictor"]["model"]
        (runtime,) = runtimes[model["runtime"]]["containers"]
        found[name] = _run(name, {**runtime, "args": [*runtime["args"], *model.get("args", [])]})
    return found


def secure_run(every: Sequence[Document]) -> Run:
    """Of ``secure/``."""
    (container,) = _one(secured(every), "Deployment")["spec"]["template"]["spec"]["containers"]
    assert {container[kind]["httpGet"]["scheme"] for kind in PROBES} == {"HTTPS"}
    return _run("digits", container)


def _run(name: str, container: Document) -> Run:
    # As KServe does it, in the whole container.
    expanded = yaml.safe_load(re.sub(r"\{\{ *\.Name *\}\}", name, yaml.safe_dump(container)))
    ports: dict[str | int, int] = {}
    for port in expanded["ports"]:
        ports[port["name"]] = ports[port["containerPort"]] = port["containerPort"]
    asked = {kind: expanded[kind]["httpGet"] for kind in PROBES if kind in expanded}
    probes = {kind: (ports[probe["port"]], str(probe["path"])) for kind, probe in asked.items()}
    return Run(name, tuple(expanded["args"]), ports, probes)
