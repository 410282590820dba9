"""The install commands that users were promised, one by one."""

import json
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from chart import invariants
from chart.engine import CHART, Rendering, Values, flags, helm_binary, helm_template, render

PASSWORD = "q/1+Z=9w@x:y?#%&$'\"`\\ z=="
_FILE = yaml.safe_load((Path(__file__).parent / "orders.yaml").read_text())
ORDERS: list[dict[str, Any]] = _FILE["orders"]


def words(order: dict[str, Any]) -> list[str]:
    """The flags of an order. A comma and a backslash mean something to --set-string."""
    password = PASSWORD.replace("\\", "\\\\").replace(",", "\\,")
    all_words = [*_FILE["image"], *order.get("token", _FILE["token"]), *order["flags"]]
    return [word.replace("PASSWORD", password) if "assword=" in word else word for word in all_words]


def rendered(order_id: str) -> tuple[Rendering, Values]:
    values = flags(words(next(o for o in ORDERS if o["id"] == order_id)))
    return render(values), values


@pytest.mark.parametrize("order", ORDERS, ids=[o["id"] for o in ORDERS])
def test_each_promised_command_renders_valid_manifests(order: dict[str, Any]) -> None:
    """The command's objects are there, valid for the oldest and newest Kubernetes, and no password is in the clear."""
    values = flags(words(order))
    rendering = render(values)
    invariants.check(rendering, values, secrets=(PASSWORD, "your-token"))
    assert rendering.container()["image"] == "ghcr.io/sofatutor/llm-proxy:latest"
    kinds = {f"{o['kind']}/{o['metadata']['name']}" for o in rendering.objects}
    assert {"Deployment/llm-proxy", "Service/llm-proxy", *order.get("has", [])} <= kinds
    env = rendering.env()
    assert order.get("env", {}).items() <= env.items()
    wanted = {"MANAGEMENT_TOKEN": "llm-proxy-secrets/MANAGEMENT_TOKEN"} if "token" not in order else {}
    for variable, reference in (wanted | order.get("refers", {})).items():
        name, key = reference.split("/")
        assert env[variable] == {"secretKeyRef": {"name": name, "key": key}}


def test_the_hostile_password_reaches_the_secret_unchanged() -> None:
    """What --set-string gave is what the database and the proxy read."""
    import base64

    for order_id, secret, key in (
        ("order-14", "llm-proxy-postgresql", "password"),
        ("order-21", "llm-proxy-mysql", "mysql-password"),
    ):
        rendering, _ = rendered(order_id)
        assert base64.b64decode(rendering.one("Secret", secret)["data"][key]).decode() == PASSWORD


def test_autoscaling_leaves_the_number_of_replicas_to_the_autoscaler() -> None:
    """With an HPA the Deployment states no replicas, and the HPA has the numbers of the command."""
    rendering, _ = rendered("order-27")
    assert "replicas" not in rendering.one("Deployment")["spec"]
    spec = rendering.one("HorizontalPodAutoscaler")["spec"]
    assert (spec["minReplicas"], spec["maxReplicas"]) == (2, 20)
    assert [m["resource"]["target"]["averageUtilization"] for m in spec["metrics"]] == [75]


def test_the_ingress_has_class_annotation_host_and_tls() -> None:
    """The dotted annotation key stays one key."""
    rendering, _ = rendered("order-26")
    ingress = rendering.one("Ingress")
    assert ingress["metadata"]["annotations"] == {"cert-manager.io/cluster-issuer": "letsencrypt-prod"}
    assert ingress["spec"]["ingressClassName"] == "nginx"
    assert ingress["spec"]["tls"] == [{"secretName": "llm-proxy-tls", "hosts": ["api.example.com"]}]
    assert [r["host"] for r in ingress["spec"]["rules"]] == ["api.example.com"]


def test_metrics_annotate_the_service() -> None:
    """A Prometheus without operator finds the proxy by three annotations; without metrics there are none."""
    rendering, _ = rendered("order-29")
    assert rendering.one("Service")["metadata"]["annotations"] == {
        "prometheus.io/scrape": "true",
        "prometheus.io/path": "/metrics/prometheus",
        "prometheus.io/port": "8080",
    }
    assert "annotations" not in rendered("order-11")[0].one("Service")["metadata"]


def test_the_service_monitor_and_the_dashboard_carry_their_labels() -> None:
    """What an operator's selector and Grafana's sidecar look for is on the objects."""
    monitor = rendered("order-30")[0].one("ServiceMonitor")
    assert monitor["metadata"]["labels"]["prometheus"] == "kube-prometheus"
    assert monitor["spec"]["endpoints"] == [
        {"port": "http", "path": "/metrics/prometheus", "interval": "30s", "scrapeTimeout": "10s"}
    ]
    board = rendered("order-28")[0].one("ConfigMap")
    assert board["metadata"]["labels"]["grafana_dashboard"] == "1"
    assert json.loads(board["data"]["llm-proxy.json"])["uid"] == "llm-proxy-dashboard"


def test_the_helm_command_renders_the_same(tmp_path: Path, tell: Callable[[str], object]) -> None:
    """Where there is a helm binary, it agrees with the SDK for every command that makes nothing up."""
    if helm_binary() is None:
        tell("the helm command: rendered by helm-python-sdk alone")
        return
    lint = subprocess.run([str(helm_binary()), "lint", "--strict", str(CHART)], capture_output=True, text=True)
    assert lint.returncode == 0, lint.stdout + lint.stderr
    for order in ORDERS:
        if order["id"] in (
            "order-14",
            "order-19",
            "order-22",
        ):  # made-up certificates and keys differ with every rendering
            continue
        file = tmp_path / f"{order['id']}.yaml"
        values = flags(words(order))
        file.write_text(yaml.safe_dump(values))
        wanted = {(o["kind"], o["metadata"]["name"]): o for o in render(values).objects}
        found = {(o["kind"], o["metadata"]["name"]): o for o in yaml.safe_load_all(helm_template(file)) if o}
        assert found == wanted, order["id"]
