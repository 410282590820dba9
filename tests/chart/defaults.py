"""Writes templates/_defaults.tpl: what a template may count on although a values file left it out.

`--reuse-values` from an older chart brings values without this version's new names, and `--set x=null` takes any name
out. What stays out of the table may be taken out for good: probes, targets, resources, security contexts.
"""

from typing import Any

import yaml

REMOVABLE = {
    "env",
    "startupProbe",
    "livenessProbe",
    "readinessProbe",
    "resources",
    "podSecurityContext",
    "securityContext",
    "annotations",
    "labels",
    "targetCPUUtilizationPercentage",
    "targetMemoryUtilizationPercentage",
    "honorLabels",
    "relabelings",
    "metricRelabelings",
}

_HEAD = """\
{{/* Written by `bin/validate-chart --update` from values.yaml: what is filled in where a value is absent. */}}
{{- define "llm-proxy.defaults" -}}
"""


def template(values: dict[str, Any]) -> str:
    """The text of _defaults.tpl for these values."""
    body = yaml.safe_dump(_kept(values), sort_keys=False, width=120)
    return f"{_HEAD}{body}{{{{- end -}}}}\n"


def _kept(values: dict[str, Any]) -> dict[str, Any]:
    kept: dict[str, Any] = {}
    for name, value in values.items():
        if name in REMOVABLE:
            if isinstance(value, dict):
                kept[name] = {}
        elif isinstance(value, dict):
            kept[name] = _kept(value)
        else:
            kept[name] = value
    return kept
