"""What holds for every rendering, whatever the values. A check raises AssertionError."""

import json
import re
from functools import cache
from importlib import resources
from typing import Any

import kubernetes_validate
from jsonschema import Draft202012Validator
from referencing import Registry, Resource

from chart.engine import Object, Rendering, Values, containers, pod_spec

VERSIONS = ("1.25.0", "1.31.0", str(kubernetes_validate.latest_version()))
OWN_KINDS = {  # custom resources: no schema in the package
    "ServiceMonitor": "monitoring.coreos.com/v1",
    "PodMonitor": "monitoring.coreos.com/v1",
    "PrometheusRule": "monitoring.coreos.com/v1",
    "HTTPRoute": "gateway.networking.k8s.io/v1",
}
_LABEL_VALUE = re.compile(r"([A-Za-z0-9]([-A-Za-z0-9_.]*[A-Za-z0-9])?)?")
_LABEL_KEY = re.compile(r"([a-z0-9]([-a-z0-9.]*[a-z0-9])?/)?[A-Za-z0-9]([-A-Za-z0-9_.]*[A-Za-z0-9])?")
_DNS_1035 = re.compile(r"[a-z]([-a-z0-9]{0,61}[a-z0-9])?")
_DNS_1123 = re.compile(r"[a-z0-9]([-a-z0-9.]*[a-z0-9])?")


def check(
    rendering: Rendering, values: Values, *, secrets: tuple[str, ...] = (), versions: tuple[str, ...] = VERSIONS
) -> None:
    """All of them. `secrets` are values that must not be readable anywhere but in Secrets."""
    check_schemas(rendering, versions)
    check_selectors(rendering)
    check_ports(rendering)
    check_routes(rendering)
    check_mounts_and_environment(rendering, values)
    check_security(rendering)
    check_names(rendering)
    check_secrets_hidden(rendering, secrets)


def check_schemas(rendering: Rendering, versions: tuple[str, ...]) -> None:
    """Kubernetes' own schemas take each object, unknown fields refused."""
    for obj in rendering.objects:
        if obj["kind"] in OWN_KINDS:
            assert obj["apiVersion"] == OWN_KINDS[obj["kind"]], label(obj)
            assert obj["spec"], label(obj)
            continue
        for version in versions:
            _validator(obj["kind"], obj["apiVersion"], version).validate(obj)


@cache
def _validator(kind: str, api_version: str, version: str) -> Draft202012Validator:
    """As kubernetes_validate.validate(strict=True), which reads megabytes of schemas again for each object."""
    group = re.sub(r"^([^./]*)(?:\.[^/]*)?/", r"\1-", api_version)
    return Draft202012Validator(_schema(version, f"{kind.lower()}-{group}"), registry=_definitions(version))


def _schema(version: str, name: str) -> Any:
    folder = resources.files(kubernetes_validate) / "kubernetes-json-schema" / f"v{version}-local-strict"
    return json.loads((folder / f"{name}.json").read_text())


@cache
def _definitions(version: str) -> Registry[Any]:
    return Resource.from_contents(_schema(version, "_definitions")) @ Registry()


def label(obj: Object) -> str:
    return f"{obj['kind']} {obj['metadata']['name']}"


def pods(rendering: Rendering) -> list[tuple[str, dict[str, str], Object]]:
    """(owner, labels, spec) of every pod that the rendering can make."""
    found = []
    for obj in rendering.objects:
        if spec := pod_spec(obj):
            metadata = obj["metadata"] if obj["kind"] == "Pod" else obj["spec"]["template"]["metadata"]
            found.append((label(obj), metadata["labels"], spec))
    return found


def selector(obj: Object) -> dict[str, str] | None:
    """The labels by which an object selects pods; None where it selects none."""
    match obj["kind"]:
        case "Service":
            return dict(obj["spec"]["selector"])
        case "Deployment" | "StatefulSet" | "PodDisruptionBudget":
            return dict(obj["spec"]["selector"]["matchLabels"])
        case "NetworkPolicy":
            return dict(obj["spec"]["podSelector"]["matchLabels"])
    return None


def check_selectors(rendering: Rendering) -> None:
    """Every selector finds exactly the pods of one workload, a workload's its own."""
    for obj in rendering.objects:
        wanted = selector(obj)
        if wanted is None:
            continue
        found = [owner for owner, labels, _ in pods(rendering) if wanted.items() <= labels.items()]
        assert len(found) == 1, f"{label(obj)} selects {found}"
        if obj["kind"] in ("Deployment", "StatefulSet"):
            assert found == [label(obj)]
    for obj in rendering.of("HorizontalPodAutoscaler"):
        target = obj["spec"]["scaleTargetRef"]
        rendering.one(target["kind"], target["name"])
    for obj in rendering.of("StatefulSet"):
        rendering.one("Service", obj["spec"]["serviceName"])
    for obj in rendering.of("ServiceMonitor"):
        wanted = obj["spec"]["selector"]["matchLabels"]
        services = [s for s in rendering.of("Service") if wanted.items() <= s["metadata"]["labels"].items()]
        assert len(services) == 1, f"{label(obj)} finds {[label(s) for s in services]}"
        names = {port["name"] for port in services[0]["spec"]["ports"]}
        assert {e["port"] for e in obj["spec"]["endpoints"]} <= names, label(obj)


def check_routes(rendering: Rendering) -> None:
    """An HTTPRoute leads to a Service of the release by a port that it has, a PodMonitor to a port of one workload."""
    for route in rendering.of("HTTPRoute"):
        assert route["spec"]["parentRefs"], label(route)
        for backend in route["spec"]["rules"][0]["backendRefs"]:
            service = rendering.one("Service", backend["name"])
            assert backend["port"] in {p["port"] for p in service["spec"]["ports"]}, label(route)
    for monitor in rendering.of("PodMonitor"):
        wanted = monitor["spec"]["selector"]["matchLabels"]
        found = [spec for _, labels, spec in pods(rendering) if wanted.items() <= labels.items()]
        assert len(found) == 1, label(monitor)
        names = {port["name"] for c in found[0]["containers"] for port in c.get("ports", [])}
        assert {e["port"] for e in monitor["spec"]["podMetricsEndpoints"]} <= names, label(monitor)


def check_ports(rendering: Rendering) -> None:
    """Services and probes name ports that the containers have."""
    for owner, labels, spec in pods(rendering):
        ports = {port["name"] for c in spec["containers"] for port in c.get("ports", [])}
        for service in rendering.of("Service"):
            if service["spec"]["selector"].items() <= labels.items():
                assert {p["targetPort"] for p in service["spec"]["ports"]} <= ports, f"{label(service)} → {owner}"
        for c in spec["containers"]:
            own = {port["name"] for port in c.get("ports", [])}
            for probe in ("startupProbe", "livenessProbe", "readinessProbe"):
                port = c.get(probe, {}).get("httpGet", {}).get("port")
                assert port is None or port in own, f"{owner} {probe}: {port}"
        assert not [p for p in ports if len(p) > 15], owner
    for ingress in rendering.of("Ingress"):
        for rule in ingress["spec"]["rules"]:
            assert rule["http"]["paths"], label(ingress)
            for path in rule["http"]["paths"]:
                target = path["backend"]["service"]
                service = rendering.one("Service", target["name"])
                assert target["port"]["name"] in {p["name"] for p in service["spec"]["ports"]}, label(ingress)


def check_mounts_and_environment(rendering: Rendering, values: Values) -> None:
    """Mounts have volumes, paths and variables come once, referenced Secrets exist or were named."""
    secrets = {s["metadata"]["name"]: s.get("data", {}) for s in rendering.of("Secret")}
    named = json.dumps(values)
    for obj in rendering.objects:
        spec = pod_spec(obj)
        if spec is None:
            continue
        volumes = [v["name"] for v in spec.get("volumes", [])]
        claims = [c["metadata"]["name"] for c in obj["spec"].get("volumeClaimTemplates", [])]
        assert len(volumes + claims) == len({*volumes, *claims}), f"{label(obj)}: {volumes} {claims}"
        for volume in spec.get("volumes", []):
            _check_source(rendering, volume, secrets, named, label(obj))
        for c in containers(obj):
            mounts = c.get("volumeMounts", [])
            paths = [m["mountPath"].rstrip("/") for m in mounts]
            assert len(paths) == len(set(paths)), f"{label(obj)} {c['name']}: {paths}"
            assert {m["name"] for m in mounts} <= {*volumes, *claims}, f"{label(obj)} {c['name']}"
            variables = [e["name"] for e in c.get("env", [])]
            assert len(variables) == len(set(variables)), f"{label(obj)} {c['name']}: {variables}"
            for entry in c.get("env", []):
                ref = entry.get("valueFrom", {}).get("secretKeyRef")
                if ref and ref["name"] in secrets:
                    assert ref["key"] in secrets[ref["name"]], f"{label(obj)} {entry['name']}: {ref}"
                elif ref:
                    assert f'"{ref["name"]}"' in named, f"{label(obj)} {entry['name']}: {ref}"


def _check_source(
    rendering: Rendering, volume: dict[str, Any], secrets: dict[str, Any], named: str, owner: str
) -> None:
    if "secret" in volume:
        name = volume["secret"]["secretName"]
        assert name in secrets or f'"{name}"' in named, f"{owner}: {volume}"
        for item in volume["secret"].get("items", []) if name in secrets else []:
            assert item["key"] in secrets[name], f"{owner}: {volume}"
    if "configMap" in volume:
        name = volume["configMap"]["name"]
        assert f'"{name}"' in named or rendering.one("ConfigMap", name), f"{owner}: {volume}"
    if "persistentVolumeClaim" in volume:
        name = volume["persistentVolumeClaim"]["claimName"]
        assert f'"{name}"' in named or rendering.one("PersistentVolumeClaim", name), f"{owner}: {volume}"


def check_security(rendering: Rendering) -> None:
    """The restricted Pod Security level and more: no token, no service links, a read-only root, resources."""
    for obj in rendering.objects:
        spec = pod_spec(obj)
        if spec is None:
            continue
        pod = spec["securityContext"]
        assert pod["runAsNonRoot"] is True, label(obj)
        assert pod.get("runAsUser", 1) > 0, label(obj)  # absent: the image's user, or the one that OpenShift gives
        assert pod["seccompProfile"] == {"type": "RuntimeDefault"}, label(obj)
        assert spec["automountServiceAccountToken"] is False, label(obj)
        assert spec["enableServiceLinks"] is False, label(obj)
        for c in containers(obj):
            context = c["securityContext"]
            assert context["readOnlyRootFilesystem"] is True, f"{label(obj)} {c['name']}"
            assert context["allowPrivilegeEscalation"] is False, f"{label(obj)} {c['name']}"
            assert context["capabilities"] == {"drop": ["ALL"]}, f"{label(obj)} {c['name']}"
            assert c["resources"]["limits"], f"{label(obj)} {c['name']}"
            assert c["resources"]["requests"], f"{label(obj)} {c['name']}"
            assert "command" not in c, f"{label(obj)} {c['name']}: the image's entrypoint is passed by"


def check_names(rendering: Rendering) -> None:
    """Names and labels are what the API server takes; all objects are the release's."""
    seen: set[tuple[str, str]] = set()
    for obj in rendering.objects:
        name = obj["metadata"]["name"]
        key = (obj["kind"], name)
        assert key not in seen, f"{label(obj)} twice"
        seen.add(key)
        limit = {"StatefulSet": 52, "Service": 63}.get(obj["kind"], 63)
        assert len(name) <= limit, label(obj)
        assert _DNS_1123.fullmatch(name), label(obj)
        if obj["kind"] == "Service":
            assert _DNS_1035.fullmatch(name), label(obj)
        labels = dict(obj["metadata"]["labels"])
        if obj["kind"] in ("Deployment", "StatefulSet", "Job"):
            labels |= obj["spec"]["template"]["metadata"]["labels"]
        for k, v in labels.items():
            assert _LABEL_KEY.fullmatch(k), f"{label(obj)}: {k}"
            assert isinstance(v, str), f"{label(obj)}: {k}={v}"
            assert len(v) <= 63, f"{label(obj)}: {k}={v}"
            assert _LABEL_VALUE.fullmatch(v), f"{label(obj)}: {k}={v}"
        for k, v in obj["metadata"].get("annotations", {}).items():
            assert isinstance(v, str), f"{label(obj)}: {k}"


def check_secrets_hidden(rendering: Rendering, secrets: tuple[str, ...]) -> None:
    """No secret's value outside of Secrets, nor in the notes."""
    for obj in rendering.objects:
        if obj["kind"] != "Secret":
            for secret in secrets:
                assert secret not in json.dumps(obj, ensure_ascii=False), label(obj)
                assert json.dumps(secret)[1:-1] not in json.dumps(obj), label(obj)
    for secret in secrets:
        assert secret not in rendering.notes, "the notes"
