"""No value is dead: each leaf of values.yaml, changed, changes what is rendered or is refused by name."""

from typing import Any

import pytest
import yaml

from chart import comments
from chart.engine import CHART, Values, chart, merged, refusal, sets
from chart.profiles import CHART_SECRET, EVERYTHING, EXTERNAL, JOB, MYSQL, ROUTES, SQLITE

VALUES: Values = yaml.safe_load((CHART / "values.yaml").read_text())
# What a leaf is set to where "another of its type" would be refused or mean the same.
INSTEAD: dict[tuple[str, ...], Any] = {
    ("image", "digest"): "sha256:" + "0" * 64,
    ("image", "pullPolicy"): "Always",
    ("postgresql", "image", "pullPolicy"): "Always",
    ("mysql", "image", "pullPolicy"): "Always",
    ("kubeVersionOverride",): "1.20.0",
    ("service", "type"): "NodePort",
    ("admin", "service", "type"): "NodePort",
    ("admin", "listenAddr"): ":9999",
    ("admin", "apiBaseUrl"): "http://elsewhere",
    ("env", "ENABLE_METRICS"): "false",
    ("env", "METRICS_PATH"): "/m",
    ("env", "DB_DRIVER"): "mysql",
    ("env", "LLM_PROXY_EVENT_BUS"): "redis",
    ("secrets", "data", "encryptionKey"): "QUFBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQUE=",
    ("persistence", "accessMode"): "ReadWriteMany",
    ("persistence", "size"): "2Gi",
    ("dispatcher", "persistence", "accessMode"): "ReadWriteMany",
    ("dispatcher", "persistence", "size"): "2Gi",
    ("dispatcher", "service"): "lunary",
    ("dispatcher", "endpoint"): "/app/data/other.jsonl",
    ("postgresql", "primary", "persistence", "accessMode"): "ReadWriteMany",
    ("postgresql", "primary", "persistence", "size"): "2Gi",
    ("mysql", "persistence", "accessMode"): "ReadWriteMany",
    ("mysql", "persistence", "size"): "2Gi",
    ("postgresql", "sslMode"): "disable",
    ("migrations", "mode"): "server",
    ("metrics", "path"): "/m/prometheus",
    ("metrics", "serviceMonitor", "interval"): "45s",
    ("metrics", "serviceMonitor", "scrapeTimeout"): "5s",
    ("metrics", "serviceMonitor", "honorLabels"): True,
    ("metrics", "serviceMonitor", "relabelings"): [{"action": "labelmap", "regex": "x"}],
    ("metrics", "serviceMonitor", "metricRelabelings"): [{"action": "drop", "regex": "x"}],
    ("autoscaling", "targetMemoryUtilizationPercentage"): 70,
    ("autoscaling", "behavior"): {"scaleDown": {"stabilizationWindowSeconds": 1}},
    ("redis", "external", "addr"): "other:6379",
    ("trustedProxies",): ["192.0.2.0/24"],
    ("ingress", "hosts"): [{"host": "other.example.com"}],
    ("admin", "ingress", "hosts"): [{"host": "other.example.com"}],
    ("ingress", "tls"): [{"secretName": "tls", "hosts": ["a.example.com"]}],
    ("admin", "ingress", "tls"): [{"secretName": "tls", "hosts": ["a.example.com"]}],
    ("strategy",): {"type": "Recreate"},
    ("migrations", "resources"): {"limits": {"cpu": "1"}},
    ("admin", "resources"): {"limits": {"cpu": "1"}},
    ("tests", "resources"): {"limits": {"cpu": "1"}},
    ("dispatcher", "env"): {"MORE": "x"},
    ("admin", "env"): {"MORE": "x"},
    ("config", "apiProviders"): "apis: {}",
}
MOUNT = {"name": "tmp", "mountPath": "/more"}
BY_NAME: dict[str, Any] = {
    "extraEnv": [{"name": "MORE", "value": "x"}],
    "extraEnvFrom": [{"secretRef": {"name": "more"}}],
    "imagePullSecrets": ["registry"],
    "initContainers": [{"name": "before", "image": "x"}],
    "sidecars": [{"name": "beside", "image": "x"}],
    "volumes": [{"name": "more", "emptyDir": {}}],
    "extraVolumes": [{"name": "more", "emptyDir": {}}],
    "volumeMounts": [MOUNT],
    "extraVolumeMounts": [MOUNT],
    "nodePort": 30080,
    "externalTrafficPolicy": "Local",
    "internalTrafficPolicy": "Local",
    "ipFamilyPolicy": "PreferDualStack",
    "ipFamilies": ["IPv6"],
    "sessionAffinity": "ClientIP",
    "loadBalancerSourceRanges": ["192.0.2.0/24"],
    "parentRefs": [{"name": "other"}],
    "hostnames": ["other.example.com"],
    "matches": [{"path": {"type": "PathPrefix", "value": "/other"}}],
    "filters": [{"type": "RequestHeaderModifier"}],
    "timeouts": {"request": "1s"},
    "additionalRules": [{"name": "more"}],
    "extraObjects": [{"kind": "ConfigMap", "apiVersion": "v1", "metadata": {"name": "more"}}],
    "hostAliases": [{"ip": "192.0.2.1", "hostnames": ["a"]}],
    "dnsPolicy": "Default",
    "scheme": "https",
    "targetLabels": ["team"],
    "minAvailable": "50%",
}
PROFILES: dict[str, Values] = {
    "everything": EVERYTHING,
    "sqlite": SQLITE,
    "mysql": MYSQL,
    "external": EXTERNAL,
    "job": JOB,
    "routes": ROUTES,
    "everything, its own networks": merged([EVERYTHING, sets("secrets.encryptionKey.existingSecret.name=")]),
    "chart-secret": CHART_SECRET,
}


def leaves(values: Values, path: tuple[str, ...] = ()) -> list[tuple[str, ...]]:
    found: list[tuple[str, ...]] = []
    for name, value in values.items():
        found += leaves(value, (*path, name)) if isinstance(value, dict) and value else [(*path, name)]
    return found


def at(path: tuple[str, ...], value: Any) -> Values:
    for name in reversed(path):
        value = {name: value}
    return dict(value)


def current(values: Values, path: tuple[str, ...]) -> Any:
    for name in path:
        values = values.get(name, {}) if isinstance(values, dict) else {}
    return values


def another(path: tuple[str, ...], value: Any) -> Any:
    if path in INSTEAD:
        return INSTEAD[path]
    if path[-1] in BY_NAME:
        return BY_NAME[path[-1]]
    if isinstance(value, bool):
        return not value
    if isinstance(value, int):
        return value + 1
    if isinstance(value, list):
        return [*value, {"key": "example.com/other", "operator": "Exists"}]
    if isinstance(value, dict):
        return {"example.com/other": "x"}
    return f"{value}x" if value else "other"


def rendered(values: Values) -> dict[str, str]:
    """Text by template; none of the profiles makes anything up."""
    texts: dict[str, str] = chart().render(values, name="llm-proxy", namespace="default")
    return texts


BASES = {name: (values, rendered(values)) for name, values in PROFILES.items()}


LIKELY = {"mysql": "mysql", "migrations": "job", "caBundle": "routes"}


def _profiles(path: tuple[str, ...]) -> list[str]:
    """Names of the profiles, the one first in which a value most likely shows: most tests then render once."""
    likely = "routes" if {"httpRoute", "service", "podMonitor"} & {*path} else LIKELY.get(path[0], "everything")
    return sorted(BASES, key=lambda name: name != likely)


@pytest.mark.parametrize("path", leaves(VALUES), ids=".".join)
def test_a_changed_value_changes_the_rendering(path: tuple[str, ...]) -> None:
    """In some profile at least one byte differs, or the chart refuses the change and names the value."""
    for name in _profiles(path):
        values, before = BASES[name]
        old = current(merged([VALUES, values]), path)
        mutated = merged([values, at(path, another(path, old))])
        try:
            after = rendered(mutated)
        except Exception:
            if path[-1] in refusal(mutated):
                return
            continue
        if after != before:
            return
    raise AssertionError(f"{'.'.join(path)} changes nothing")


def test_every_leaf_has_a_description() -> None:
    """Each value, or the map that it is in, has a line in the README's tables."""
    source = (CHART / "values.yaml").read_text()
    described = {row.path for row in comments.read(source)}
    for path in leaves(VALUES):
        assert any(".".join(path[: n + 1]) in described for n in range(len(path))), path
