"""Writes values.schema.json (draft-07: Helm before 3.18 knows nothing newer) from values.yaml and the rules below.

Every level that the chart owns refuses names that values.yaml does not have. `null` is allowed wherever Helm uses it to
delete a default. Maps that belong to Kubernetes or to the user (FREE) are open.
"""

import json
from typing import Any

PORT = {"type": "integer", "minimum": 1, "maximum": 65535}
COUNT = {"type": "integer", "minimum": 0}
TEXT = {"type": "string"}
QUANTITY = {"type": "string", "pattern": r"^([+-]?[0-9.]+)([eEinumkKMGTP]*[-+]?[0-9]*)$"}
SERVICE_TYPE = {"type": "string", "enum": ["ClusterIP", "NodePort", "LoadBalancer"]}
PULL_POLICY = {"type": "string", "enum": ["Always", "IfNotPresent", "Never"]}
ACCESS_MODE = {
    "type": "string",
    "enum": ["ReadWriteOnce", "ReadOnlyMany", "ReadWriteMany", "ReadWriteOncePod"],
}
DURATION = {"type": "string", "pattern": r"^([0-9]+(ms|s|m|h|d))+$"}
PERCENT = {"type": "integer", "minimum": 1, "maximum": 1000}
NAME = {"type": "string", "pattern": r"^$|^[a-z0-9]([-a-z0-9]*[a-z0-9])?$", "maxLength": 63}
OBJECT_NAME = {"type": "string", "pattern": r"^$|^[a-z0-9]([-a-z0-9.]*[a-z0-9])?$", "maxLength": 253}
SECRET_KEY = {"type": "string", "pattern": r"^$|^[-._a-zA-Z0-9]+$", "maxLength": 253}
LABELS = {"type": "object", "additionalProperties": {"type": ["string", "number", "boolean", "null"]}}
MAP = {"type": "object"}
LIST = {"type": "array"}
OBJECTS = {"type": "array", "items": {"type": "object"}}
ENTRIES = {"type": "array", "items": {"type": "object", "required": ["name"]}}
MOUNTS = {"type": "array", "items": {"type": "object", "required": ["name", "mountPath"]}}
PULL_SECRETS = {"type": "array", "items": {"type": ["object", "string"], "required": ["name"], "minLength": 1}}
TRAFFIC_POLICY = {"type": "string", "enum": ["", "Cluster", "Local"]}
AMOUNTS = {
    "type": ["object", "null"],
    "additionalProperties": {"type": ["string", "number", "null"], "pattern": QUANTITY["pattern"]},
}
RESOURCES = {
    "type": "object",
    "additionalProperties": False,
    "properties": {
        "limits": AMOUNTS,
        "requests": AMOUNTS,
        "claims": {"type": ["array", "null"]},
    },
}
HOSTS = {
    "type": "array",
    "items": {
        "type": "object",
        "additionalProperties": False,
        "properties": {
            "host": {"type": ["string", "null"]},
            "paths": {
                "type": ["array", "null"],
                "items": {
                    "type": "object",
                    "additionalProperties": False,
                    "properties": {
                        "path": {"type": ["string", "null"], "pattern": "^/"},
                        "pathType": {
                            "type": ["string", "null"],
                            "enum": ["Prefix", "Exact", "ImplementationSpecific", None],
                        },
                    },
                },
            },
        },
    },
}
TLS = {
    "type": "array",
    "items": {
        "type": "object",
        "additionalProperties": False,
        "properties": {
            "secretName": {"type": ["string", "null"]},
            "hosts": {"type": ["array", "null"], "items": {"type": "string"}},
        },
    },
}
_BYTE = "(25[0-5]|2[0-4][0-9]|1?[0-9]?[0-9])"
_V4 = rf"{_BYTE}(\.{_BYTE}){{3}}(/(3[0-2]|[12]?[0-9]))?"
_V6 = r"[0-9a-fA-F]*:[0-9a-fA-F:.]*(/(12[0-8]|1[01][0-9]|[1-9]?[0-9]))?"
NETWORKS = {"type": "array", "items": {"type": "string", "pattern": f"^({_V4}|{_V6})$"}}
ENV = {
    "type": "object",
    "patternProperties": {"^[-._a-zA-Z][-._a-zA-Z0-9]*$": {"type": ["string", "number", "boolean", "null"]}},
    "additionalProperties": False,
}


def _one_of(*words: str) -> dict[str, Any]:
    """These words, in the cases in which people write them; the proxy itself takes any."""
    enum = [case for word in words for case in (word, word.upper(), word.capitalize())]
    return {"type": ["string", "null"], "enum": [*enum, "", None]}


PROXY_ENV = ENV | {
    "properties": {
        "DB_DRIVER": {
            "type": ["string", "null"],
            "enum": ["sqlite", "postgres", "mysql", "postgresql", "mariadb", None],
        },
        "LLM_PROXY_EVENT_BUS": {
            "type": ["string", "null"],
            "enum": ["in-memory", "memory", "redis-streams", "redis", None],
        },
        "LOG_LEVEL": _one_of("debug", "info", "warn", "warning", "error"),
        "LOG_FORMAT": _one_of("json", "text"),
        "WEB_CONCURRENCY": {
            "type": ["string", "integer", "null"],
            "pattern": "^$|^([1-9]|[1-5][0-9]|6[0-4])$",
            "minimum": 1,
            "maximum": 64,
        },
    }
}

RULES: dict[str, dict[str, Any]] = {
    "image.digest": {"type": "string", "pattern": r"^$|^sha256:[0-9a-f]{64}$"},
    "image.repository": {"type": "string", "minLength": 1},
    "nameOverride": NAME,
    "fullnameOverride": NAME,
    "kubeVersionOverride": {"type": "string", "pattern": r"^$|^v?[0-9]+\.[0-9]+(\.[0-9]+)?"},
    "service.port": PORT,
    "service.targetPort": PORT,
    "admin.service.port": PORT,
    "admin.listenAddr": {"type": "string", "pattern": r":[0-9]{1,5}$"},
    "admin.apiBaseUrl": {"type": "string", "pattern": "^$|^https?://"},
    "dispatcher.health.port": PORT,
    "service.type": SERVICE_TYPE,
    "admin.service.type": SERVICE_TYPE,
    "ingress.hosts": HOSTS,
    "admin.ingress.hosts": HOSTS,
    "ingress.tls": TLS,
    "admin.ingress.tls": TLS,
    "trustedProxies": NETWORKS,
    "autoscaling.minReplicas": {"type": "integer", "minimum": 1},
    "autoscaling.maxReplicas": {"type": "integer", "minimum": 1},
    "autoscaling.targetCPUUtilizationPercentage": PERCENT,
    "autoscaling.targetMemoryUtilizationPercentage": PERCENT,
    "podDisruptionBudget.maxUnavailable": {"type": ["integer", "string"], "pattern": "^[0-9]+%?$", "minimum": 0},
    "env": PROXY_ENV,
    "dispatcher.env": ENV,
    "admin.env": ENV,
    "imagePullSecrets": PULL_SECRETS,
    "global": {
        "type": "object",
        "properties": {"imageRegistry": {"type": ["string", "null"]}, "imagePullSecrets": PULL_SECRETS},
    },
    "autoscaling.annotations": LABELS,
    "podDisruptionBudget.minAvailable": {"type": ["integer", "string"], "pattern": "^[0-9]+%?$", "minimum": 0},
    "metrics.serviceMonitor.jobLabel": TEXT,
    "metrics.serviceMonitor.targetLabels": {"type": "array", "items": TEXT},
    "metrics.serviceMonitor.scheme": {"type": "string", "enum": ["", "http", "https"]},
    "metrics.prometheusRule.additionalRules": OBJECTS,
    "extraObjects": {"type": "array", "items": {"type": ["object", "string"]}},
    "dnsPolicy": {"type": "string", "enum": ["", "ClusterFirst", "ClusterFirstWithHostNet", "Default", "None"]},
    "hostAliases": {"type": "array", "items": {"type": "object", "required": ["ip", "hostnames"]}},
    "migrations.mode": {"type": "string", "enum": ["init", "job", "server"]},
    "postgresql.sslMode": {
        "type": "string",
        "enum": ["disable", "allow", "prefer", "require", "verify-ca", "verify-full"],
    },
    "postgresql.auth.username": {"type": "string", "minLength": 1},
    "postgresql.auth.database": {"type": "string", "minLength": 1},
    "mysql.auth.username": {"type": "string", "minLength": 1},
    "mysql.auth.database": {"type": "string", "minLength": 1},
    "mysql.extraConfig.maxConnections": {"type": "integer", "minimum": 1, "maximum": 100000},
    "mysql.extraConfig.characterSet": {"type": "string", "pattern": "^[a-z0-9]+$"},
    "mysql.extraConfig.collation": {"type": "string", "pattern": "^[a-z0-9_]+$"},
    "redis.external.addr": {"type": "string", "pattern": r"^$|^rediss?://|^[^\s/]+:[0-9]{1,5}$"},
    "redis.external.db": {"type": "integer", "minimum": 0},
    "dispatcher.service": {"type": "string", "pattern": "^[A-Za-z0-9][-._A-Za-z0-9]*$"},
    "dispatcher.endpoint": {"type": "string", "pattern": "^$|^https?://|^\\.{0,2}/"},
    "dispatcher.config.bufferSize": {"type": "integer", "minimum": 1},
    "dispatcher.config.batchSize": {"type": "integer", "minimum": 1},
    "metrics.path": {"type": "string", "pattern": "^/"},
    "metrics.serviceMonitor.interval": DURATION,
    "metrics.serviceMonitor.scrapeTimeout": DURATION,
    "metrics.serviceMonitor.honorLabels": {"type": "boolean"},
    "metrics.serviceMonitor.relabelings": LIST,
    "metrics.serviceMonitor.metricRelabelings": LIST,
    "metrics.prometheusRule.thresholds.errorPercent": {"type": "number", "exclusiveMinimum": 0, "maximum": 100},
    "strategy": {
        "type": "object",
        "additionalProperties": False,
        "properties": {
            "type": {"type": ["string", "null"], "enum": ["Recreate", "RollingUpdate", None]},
            "rollingUpdate": {"type": ["object", "null"]},
        },
    },
}

BY_NAME: dict[str, dict[str, Any]] = {
    "extraEnv": ENTRIES,
    "extraEnvFrom": OBJECTS,
    "initContainers": ENTRIES,
    "sidecars": ENTRIES,
    "volumes": ENTRIES,
    "extraVolumes": ENTRIES,
    "volumeMounts": MOUNTS,
    "extraVolumeMounts": MOUNTS,
    "tolerations": OBJECTS,
    "topologySpreadConstraints": OBJECTS,
    "serviceAccountName": OBJECT_NAME,
    "runtimeClassName": OBJECT_NAME,
    "volumeName": OBJECT_NAME,
    "dnsConfig": MAP,
    "tlsConfig": MAP,
    "nodePort": PORT,
    "loadBalancerSourceRanges": NETWORKS,
    "externalTrafficPolicy": TRAFFIC_POLICY,
    "internalTrafficPolicy": TRAFFIC_POLICY,
    "ipFamilyPolicy": {"type": "string", "enum": ["", "SingleStack", "PreferDualStack", "RequireDualStack"]},
    "ipFamilies": {"type": "array", "items": {"type": "string", "enum": ["IPv4", "IPv6"]}},
    "sessionAffinity": {"type": "string", "enum": ["", "None", "ClientIP"]},
    "parentRefs": ENTRIES,
    "hostnames": {"type": "array", "items": TEXT},
    "matches": OBJECTS,
    "filters": OBJECTS,
    "timeouts": {"type": "object", "additionalProperties": TEXT},
    "additionalRules": OBJECTS,
    "pullPolicy": PULL_POLICY,
    "accessMode": ACCESS_MODE,
    "size": QUANTITY,
    "resources": RESOURCES,
    "annotations": LABELS,
    "labels": LABELS,
    "commonLabels": LABELS,
    "commonAnnotations": LABELS,
    "podAnnotations": LABELS,
    "podLabels": LABELS,
    "deploymentAnnotations": LABELS,
    "nodeSelector": LABELS,
    "podSecurityContext": MAP,
    "securityContext": MAP,
    "affinity": MAP,
    "behavior": MAP,
    "startupProbe": MAP,
    "livenessProbe": MAP,
    "readinessProbe": MAP,
    "existingSecret": OBJECT_NAME,
    "existingClaim": OBJECT_NAME,
    "existingConfigMap": OBJECT_NAME,
    "caSecret": OBJECT_NAME,
    "key": SECRET_KEY,
    "adminPasswordKey": SECRET_KEY,
    "userPasswordKey": SECRET_KEY,
    "rootPasswordKey": SECRET_KEY,
    "namespace": NAME,
    "name": OBJECT_NAME,
    "priorityClassName": OBJECT_NAME,
    "storageClass": {"type": "string", "pattern": r"^-?$|^[a-z0-9]([-a-z0-9.]*[a-z0-9])?$"},
    "className": OBJECT_NAME,
}


def schema(values: dict[str, Any], descriptions: dict[str, str]) -> dict[str, Any]:
    """The schema of a values file; `descriptions` are its comments by path."""
    root = _object(values, "", descriptions)
    return {"$schema": "http://json-schema.org/draft-07/schema#", "title": "Values of the llm-proxy chart"} | root


def text(values: dict[str, Any], descriptions: dict[str, str]) -> str:
    """The content of values.schema.json."""
    return json.dumps(schema(values, descriptions), indent=2, ensure_ascii=False) + "\n"


def _object(values: dict[str, Any], path: str, descriptions: dict[str, str]) -> dict[str, Any]:
    properties = {}
    for name, value in values.items():
        below = f"{path}.{name}".lstrip(".")
        fragment = _or_null(_fragment(name, value, below, descriptions))
        if below in descriptions:
            fragment = {"description": descriptions[below]} | fragment
        properties[name] = fragment
    return {"type": "object", "additionalProperties": False, "properties": properties}


def _fragment(name: str, value: Any, path: str, descriptions: dict[str, str]) -> dict[str, Any]:
    if path in RULES:
        return RULES[path]
    if name in BY_NAME and not (name == "existingSecret" and isinstance(value, dict)):
        return BY_NAME[name]
    if isinstance(value, dict):
        return _object(value, path, descriptions)
    if isinstance(value, bool):
        return {"type": "boolean"}
    if isinstance(value, int):
        return COUNT
    if isinstance(value, list):
        return LIST
    if isinstance(value, str):
        return TEXT
    raise TypeError(f"{path}: no rule for {value!r}")


def _or_null(fragment: dict[str, Any]) -> dict[str, Any]:
    wanted = fragment["type"] if isinstance(fragment["type"], list) else [fragment["type"]]
    widened = fragment | {"type": [*dict.fromkeys([*wanted, "null"])]}
    if "enum" in fragment and None not in fragment["enum"]:
        widened["enum"] = [*fragment["enum"], None]
    return widened
