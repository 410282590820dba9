"""Upgrades touch nothing that Kubernetes forbids to change, and old values still render."""

from itertools import zip_longest
from pathlib import Path
from typing import Any

import helm_python as helm
import pytest
import yaml

from chart.engine import CHART, Object, Rendering, Values, chart, merged, render, sets
from chart.profiles import EVERYTHING, EXTERNAL, SQLITE, profiles, stable
from llm_proxy import __version__

IMMUTABLE = yaml.safe_load((Path(__file__).parent / "immutable.yaml").read_text())


def immutable(obj: Object) -> dict[str, Any] | None:
    """The fields of an object that cannot be changed in place; None where there are none."""
    spec = obj.get("spec", {})
    match obj["kind"]:
        case "Deployment":
            return {"selector": spec["selector"]["matchLabels"]}
        case "StatefulSet":
            return {
                "selector": spec["selector"]["matchLabels"],
                "serviceName": spec["serviceName"],
                "volumeClaimTemplates": spec.get("volumeClaimTemplates"),
            }
        case "Service":
            return {"clusterIP": spec.get("clusterIP")}
        case "PersistentVolumeClaim":
            return dict(spec)
    return None


def frozen(rendering: Rendering) -> dict[str, Any]:
    found = {f"{o['kind']}/{o['metadata']['name']}": immutable(o) for o in rendering.objects}
    return {key: value for key, value in found.items() if value is not None}


@pytest.mark.parametrize("name", IMMUTABLE)
def test_the_immutable_fields_are_as_released(name: str) -> None:
    """Selectors, claim templates, service names, clusterIP and claims are the released ones."""
    assert IMMUTABLE[name].items() <= frozen(render(profiles()[name])).items()


def test_a_new_version_with_other_labels_and_images_upgrades_in_place(tmp_path: Path) -> None:
    """Chart version, app version and everything of the pods may change; what is frozen does not."""
    import shutil

    old = shutil.copytree(CHART, tmp_path / "llm-proxy")
    text = (old / "Chart.yaml").read_text().replace("version: 1.0.0", "version: 0.9.0")
    (old / "Chart.yaml").write_text(text.replace(f'appVersion: "{__version__}"', 'appVersion: "0.9.0"'))
    for values in (EVERYTHING, SQLITE, profiles()["mysql"]):
        changed = merged(
            [values, sets("image.tag=v2", "podLabels.a=b", "commonLabels.team=x", "resources.limits.cpu=2")]
        )
        assert frozen(render(values, path=old)) == frozen(render(changed, is_upgrade=True, revision=2))


def test_two_renderings_of_one_release_differ_in_nothing() -> None:
    """Revision and upgrade leave no trace: GitOps sees no change where there is none."""
    for values in (EVERYTHING, SQLITE, EXTERNAL):
        first = chart().render(values, name="x", namespace="n", revision=1, is_install=True)
        second = chart().render(values, name="x", namespace="n", revision=2, is_install=False, is_upgrade=True)
        assert first == second


def _paths(values: Values, path: tuple[str, ...] = ()) -> list[tuple[str, ...]]:
    found = []
    for name, value in values.items():
        found.append((*path, name))
        if isinstance(value, dict):
            found += _paths(value, (*path, name))
    return found


def _batches(paths: list[tuple[str, ...]]) -> list[list[tuple[str, ...]]]:
    """The paths in few groups, none with two below one top-level name: what is taken out together is independent."""
    tops: dict[str, list[tuple[str, ...]]] = {}
    for path in paths:
        tops.setdefault(path[0], []).append(path)
    return [list(filter(None, batch)) for batch in zip_longest(*tops.values())]


def test_every_value_may_be_missing() -> None:
    """`--reuse-values` from an older chart, or a null: each value taken out renders, or is asked for in words."""
    for batch in _batches(_paths(yaml.safe_load((CHART / "values.yaml").read_text()))):
        try:
            render(merged([EVERYTHING, *map(_without, batch)]), name="x", namespace="n")
        except helm.HelmError:
            for path in batch:
                _renders_without(path)


def _without(path: tuple[str, ...]) -> Values:
    gone: Any = None
    for name in reversed(path):
        gone = {name: gone}
    return dict(gone)


def _renders_without(path: tuple[str, ...]) -> None:
    fault = "Configuration error"
    try:
        render(merged([EVERYTHING, _without(path)]), name="x", namespace="n")
    except helm.HelmError as error:
        fault = str(error)
    assert "Configuration error" in fault, f"{path}: {fault}"


def test_values_of_the_ordering_documents_time_still_render() -> None:
    """A release that knows none of the additive names renders like one that has them at their defaults."""
    names = """
        persistence migrations config extraEnv extraEnvFrom initContainers sidecars topologySpreadConstraints lifecycle
        terminationGracePeriodSeconds serviceAccount networkPolicy podDisruptionBudget trustedProxies tests commonLabels
        commonAnnotations strategy revisionHistoryLimit deploymentAnnotations kubeVersionOverride global
        priorityClassName httpRoute caBundle extraVolumes extraVolumeMounts extraObjects hostAliases dnsPolicy dnsConfig
        runtimeClassName schedulerName
    """
    old: Values = dict.fromkeys(names.split())
    assert stable(render(old)) == stable(render())


def _name(file: Any) -> str:
    """The path of a packed file, which the SDK gives as text or as a mapping."""
    return str(file["name"] if isinstance(file, dict) else file)


def test_the_chart_packages_with_all_its_parts(tmp_path: Path) -> None:
    """README, EXAMPLES, schema, dashboards and examples are in the package, tests are not; it renders as the folder."""
    archive = helm.package(str(CHART), destination=str(tmp_path))
    assert Path(archive).name == f"llm-proxy-{chart().metadata['version']}.tgz"
    packed = helm.Chart.load(archive)
    files = set(map(_name, packed.files))
    wanted = {"README.md", "EXAMPLES.md", "dashboards/llm-proxy.json", "dashboards/README.md"}
    assert wanted | {f"examples/{p.name}" for p in (CHART / "examples").iterdir()} <= files
    assert not [f for f in files if f.startswith(("tests/", "ci/"))]
    assert packed.render(EVERYTHING, name="x", namespace="n") == chart().render(EVERYTHING, name="x", namespace="n")
    assert not helm.dependency_list(str(CHART))


def test_updating_the_dependencies_changes_nothing(tmp_path: Path) -> None:
    """A step that guides may still name is a no-op: there is nothing to download."""
    import shutil

    copy = shutil.copytree(CHART, tmp_path / "llm-proxy")
    helm.dependency_update(str(copy))
    assert {p.relative_to(copy) for p in copy.rglob("*")} == {p.relative_to(CHART) for p in CHART.rglob("*")}


def test_the_chart_states_the_release_of_the_application() -> None:
    """appVersion is the package's version, in the images annotation as well."""
    metadata = yaml.safe_load((CHART / "Chart.yaml").read_text())
    assert metadata["appVersion"] == __version__
    assert f"llm-proxy:{__version__}" in metadata["annotations"]["artifacthub.io/images"]
    assert "dependencies" not in metadata
    for name in ("license", "links", "changes", "images", "category"):
        assert metadata["annotations"][f"artifacthub.io/{name}"]
