"""Renders the chart as Helm does: by `helm-python-sdk` always, and by the `helm` binary where there is one."""

import shutil
import subprocess
from collections.abc import Iterable, Mapping
from copy import deepcopy
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any, cast

import helm_python as helm
import yaml

CHART = Path(__file__).resolve().parents[2] / "charts" / "llm-proxy"

Values = dict[str, Any]
Object = dict[str, Any]


class DuplicateKey(Exception):
    """A mapping in a manifest has one key twice: a YAML parser keeps one of them, silently."""


class _Loader(yaml.CSafeLoader):
    """Refuses duplicate keys."""


def _mapping(loader: _Loader, node: yaml.MappingNode) -> dict[Any, Any]:
    keys = [loader.construct_object(key, deep=True) for key, _ in node.value]
    if len(keys) != len(set(keys)):
        raise DuplicateKey(f"{sorted(map(str, keys))} {node.start_mark}")
    return loader.construct_mapping(node, deep=True)


_Loader.add_constructor(yaml.resolver.BaseResolver.DEFAULT_MAPPING_TAG, _mapping)


@dataclass
class Rendering:
    """What one rendering gave: text by template, the objects in it, the notes."""

    files: dict[str, str]
    name: str = "llm-proxy"
    objects: list[Object] = field(init=False)

    def __post_init__(self) -> None:
        texts = [text for path, text in self.files.items() if path.endswith(".yaml")]
        self.objects = [o for text in texts for o in yaml.load_all(text, _Loader) if o]

    @property
    def notes(self) -> str:
        return next(text for path, text in self.files.items() if path.endswith("NOTES.txt"))

    @property
    def text(self) -> str:
        """Everything but the notes, in one text."""
        return "\n".join(self.files[path] for path in sorted(self.files) if path.endswith(".yaml"))

    def of(self, kind: str) -> list[Object]:
        return [o for o in self.objects if o["kind"] == kind]

    def one(self, kind: str, name: str | None = None) -> Object:
        """The only object of a kind (and name); fails the test when there are others or none."""
        found = [o for o in self.of(kind) if name is None or o["metadata"]["name"] == name]
        assert len(found) == 1, f"{kind} {name}: {[o['metadata']['name'] for o in self.of(kind)]}"
        return found[0]

    def container(self, name: str = "llm-proxy") -> Object:
        """The container of that name in any pod, init containers included."""
        found = [c for o in self.objects for c in containers(o) if c["name"] == name]
        assert len(found) == 1, f"{name}: {found}"
        return found[0]

    def env(self, name: str = "llm-proxy") -> dict[str, Any]:
        """Variable → value, or the reference that it comes from."""
        return {e["name"]: e.get("value", e.get("valueFrom")) for e in self.container(name).get("env", [])}


def pod_spec(obj: Object) -> Object | None:
    """The pod spec inside an object; None where it makes no pod."""
    if obj["kind"] == "Pod":
        return cast(Object, obj["spec"])
    if obj["kind"] in ("Deployment", "StatefulSet", "Job"):
        return cast(Object, obj["spec"]["template"]["spec"])
    return None


def containers(obj: Object) -> list[Object]:
    """All containers of an object's pod, init containers first."""
    spec = pod_spec(obj) or {}
    return [*spec.get("initContainers", []), *spec.get("containers", [])]


@cache
def chart(path: Path = CHART) -> helm.Chart:
    """The chart, loaded once."""
    return helm.Chart.load(str(path))


def merged(parts: Iterable[Values]) -> Values:
    """Values laid over each other as Helm does with several flags."""
    result: Values = {}
    for part in parts:
        _merge(result, part)
    return result


def _merge(into: Values, part: Mapping[str, Any]) -> None:
    for key, value in part.items():
        if isinstance(value, Mapping) and isinstance(into.get(key), dict):
            _merge(into[key], value)
        else:
            into[key] = deepcopy(value)


def flags(words: list[str], root: Path = CHART.parent.parent) -> Values:
    """The values that the flags of a `helm install` line give: files, then --set, then --set-string, as Helm does.

    Flags of one kind are read together: `hosts[0].host=…` and `hosts[0].paths[0].path=…` are one host.
    """
    given: dict[str, list[str]] = {"-f": [], "--set": [], "--set-string": []}
    for flag, value in zip(words[::2], words[1::2], strict=True):
        given[{"--values": "-f"}.get(flag, flag)].append(value)
    parts: list[Values] = [yaml.safe_load((root / file).read_text()) for file in given["-f"]]
    if given["--set"]:
        parts.append(helm.parse_set_string(",".join(given["--set"])))
    if given["--set-string"]:
        parts.append(helm.parse_set_string_values(",".join(given["--set-string"])))
    return merged(parts)


def sets(*assignments: str) -> Values:
    """The values of `--set` flags."""
    return helm.parse_set_string(",".join(assignments)) if assignments else {}


def render(
    values: Values | None = None,
    *,
    name: str = "llm-proxy",
    namespace: str = "default",
    path: Path = CHART,
    **more: Any,
) -> Rendering:
    """Render with the schema checked. Raises helm_python.HelmError for what the chart refuses."""
    return Rendering(chart(path).render(values or {}, name=name, namespace=namespace, **more), name)


def refusal(values: Values, **more: Any) -> str:
    """The message with which the chart refuses these values; fails the test when it takes them."""
    try:
        render(values, **more)
    except helm.HelmError as error:
        return str(error)
    raise AssertionError(f"rendered: {values}")


def helm_binary() -> str | None:
    """The `helm` command, where there is one."""
    return shutil.which("helm")


def helm_template(values_file: Path, *, name: str = "llm-proxy") -> str:
    """Manifests by the command `helm template`. Raises CalledProcessError with what it printed."""
    command = [
        str(helm_binary()),
        "template",
        name,
        str(CHART),
        "-f",
        str(values_file),
        "--namespace",
        "default",
        "--kube-version",
        "1.36.0",
    ]
    return subprocess.run(command, check=True, capture_output=True, text=True, timeout=60).stdout
