"""A real API server takes every profile and every upgrade, and the chart finds again what it has kept there."""

import base64
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import helm_python as helm
import pytest

from chart import apiserver
from chart.engine import CHART, Values, merged, render, sets
from chart.profiles import EVERYTHING, EXTERNAL, profiles

_IN_CLUSTER = sets("env.DB_DRIVER=postgres", "postgresql.enabled=true", "postgresql.auth.password=first")
_GENERATED = sets("secrets.create=true", "secrets.generate=true")


@pytest.fixture(scope="module")
def server(
    tmp_path_factory: pytest.TempPathFactory, tell: Callable[[str], object]
) -> Iterator[apiserver.ApiServer | None]:
    """The API server with the custom resources; None, and a line of what is missing, where it cannot run."""
    if lacking := apiserver.missing():
        tell(f"a live API server: {' and '.join(lacking)} missing (tests/chart/build-apiserver; Debian's etcd-server)")
        yield None
        return
    with apiserver.api_server(tmp_path_factory.mktemp("live")) as running:
        for definition in apiserver.CUSTOM_RESOURCES:
            path = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions"
            assert running.request("POST", path, json=definition).status_code == 201
        deadline = time.monotonic() + 30
        while not (
            running.serves("/apis/monitoring.coreos.com/v1", 3)
            and running.serves("/apis/gateway.networking.k8s.io/v1", 1)
        ):
            assert time.monotonic() < deadline
            time.sleep(0.2)
        yield running


def namespace(server: apiserver.ApiServer, name: str) -> str:
    """A namespace that warns of every pod below the restricted level."""
    level = {"pod-security.kubernetes.io/warn": "restricted", "pod-security.kubernetes.io/enforce": "restricted"}
    body = {"metadata": {"name": name, "labels": level}}
    assert server.request("POST", "/api/v1/namespaces", json=body).status_code == 201
    return name


def apply(server: apiserver.ApiServer, values: Values, into: str, *, dry_run: bool) -> None:
    rendering = render(values, namespace=into)
    for obj in rendering.objects:
        response = server.apply(obj, into, dry_run=dry_run)
        assert response.status_code in (200, 201), f"{obj['kind']} {obj['metadata']['name']}: {response.text}"
        assert "Warning" not in response.headers, f"{obj['kind']}: {response.headers['Warning']}"


def test_the_server_takes_every_profile(server: apiserver.ApiServer | None) -> None:
    """Server-side apply, unknown fields refused, no warning: neither deprecation nor below the restricted level."""
    if server is None:
        return
    for name, values in profiles().items():
        apply(server, values, namespace(server, f"p-{name}"), dry_run=True)


@pytest.mark.parametrize("name", ["everything", "mysql", "external", "default"])
def test_the_server_takes_an_upgrade_in_place(server: apiserver.ApiServer | None, name: str) -> None:
    """Images, labels, resources, replicas and environment change over a living release; nothing immutable does."""
    if server is None:
        return
    values = {"external": EXTERNAL}.get(name) or profiles()[name]
    space = namespace(server, f"u-{name}")
    apply(server, values, space, dry_run=False)
    changed = sets("image.tag=v2", "podLabels.a=b", "commonLabels.team=x", "resources.limits.cpu=2", "env.MORE=1")
    if name in ("everything", "external"):
        changed = merged([changed, sets("replicaCount=5", "service.type=NodePort")])
    apply(server, merged([values, changed]), space, dry_run=False)


def secret(server: apiserver.ApiServer, space: str, name: str, key: str) -> str:
    data = server.get(f"/api/v1/namespaces/{space}/secrets/{name}")["data"]
    return base64.b64decode(data[key]).decode()


def test_made_up_and_first_secrets_are_kept_by_upgrades(server: apiserver.ApiServer | None) -> None:
    """Token, key and certificate stay what they were, and a changed database password changes nothing."""
    if server is None:
        return
    space = namespace(server, "kept")
    values = merged([_GENERATED, _IN_CLUSTER])
    with helm.Config(kubeconfig_path=str(server.kubeconfig), namespace=space) as config:
        config.install(helm.Chart.load(str(CHART)), "llm-proxy", values, namespace=space)
        names = [
            ("llm-proxy", "MANAGEMENT_TOKEN"),
            ("llm-proxy", "ENCRYPTION_KEY"),
            ("llm-proxy-postgresql", "password"),
        ]
        names.append(("llm-proxy-postgresql-tls", "tls.key"))
        before = [secret(server, space, *name) for name in names]
        other = merged([values, sets("postgresql.auth.password=second", "image.tag=v2")])
        config.upgrade(helm.Chart.load(str(CHART)), "llm-proxy", other, namespace=space)
        assert [secret(server, space, *name) for name in names] == before
        assert before[2] == "first"
        config.uninstall("llm-proxy")
        assert secret(server, space, *names[1]) == before[1]


def test_a_dry_run_on_the_server_installs_everything(server: apiserver.ApiServer | None, tmp_path: Path) -> None:
    """`helm install --dry-run=server` finds nothing to object to."""
    if server is None:
        return
    space = namespace(server, "dry")
    with helm.Config(kubeconfig_path=str(server.kubeconfig), namespace=space) as config:
        done = config.install(helm.Chart.load(str(CHART)), "llm-proxy", EVERYTHING, namespace=space, dry_run="server")
    assert "kind: Deployment" in done["manifest"]
