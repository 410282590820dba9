"""Writes templates/_defaults.tpl: what a template may count on although a values file left it out.

`--reuse-values` from an older chart brings values without this version's new names, and `--set x=null` takes any name
out. What stays out of the table may be taken out for good: probes, targets, resources, security contexts.
"""

import json
from collections.abc import Iterator
from typing import Any

REMOVABLE = {
    "env",
    "hosts",
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
    "timeouts",
}

_HEAD = """\
{{/* Written by `bin/validate-chart --update` from values.yaml: what is filled in where a value is absent. Each entry is
[the maps that it is in, its name, its value], a map before what is in it. */}}
{{- define "llm-proxy.defaults" -}}
entries:
"""


def template(values: dict[str, Any]) -> str:
    """The text of _defaults.tpl for these values."""
    lines = [f"- {json.dumps(entry, ensure_ascii=False)}\n" for entry in _entries(values, [])]
    return f"{_HEAD}{''.join(lines)}{{{{- end -}}}}\n"


def _entries(values: dict[str, Any], parents: list[str]) -> Iterator[list[Any]]:
    for name, value in values.items():
        if isinstance(value, dict):
            yield [parents, name, {}]
            if name not in REMOVABLE:
                yield from _entries(value, [*parents, name])
        elif name not in REMOVABLE and value is not None:
            yield [parents, name, value]
