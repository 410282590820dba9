"""Every pair of the chart's main choices renders what Kubernetes takes and what the invariants ask."""

import pytest

from chart import invariants, pairwise
from chart.engine import Values, merged, render, sets
from chart.profiles import profiles

LONG = "a-release-whose-name-is-as-long-as-helm-allows-it-53x"
FACTORS: dict[str, dict[str, list[str]]] = {
    "driver": {"sqlite": [], "postgres": ["env.DB_DRIVER=postgres"], "mysql": ["env.DB_DRIVER=mysql"]},
    "place": {
        "none": [],
        "external": ["secrets.databaseUrl.existingSecret.name=llm-proxy-db"],
        "in-cluster": [],
        "in-cluster without claim": [
            "postgresql.primary.persistence.enabled=false",
            "postgresql.tls.enabled=false",
            "postgresql.sslMode=prefer",
            "mysql.persistence.enabled=false",
            "mysql.tls.enabled=true",
            "mysql.tls.existingSecret=mysql-tls",
        ],
    },
    "bus": {
        "in-memory": [],
        "redis": ["env.LLM_PROXY_EVENT_BUS=redis", "redis.external.addr=redis:6380"],
        "redis-streams": [
            "env.LLM_PROXY_EVENT_BUS=redis-streams",
            "redis.external.addr=redis:6379",
            "redis.external.tls.enabled=true",
            "redis.external.tls.caSecret=redis-ca",
            "redis.external.password.existingSecret.name=redis-password",
        ],
    },
    "dispatcher": {
        "off": [],
        "file": ["dispatcher.enabled=true"],
        "file without claim": ["dispatcher.enabled=true", "dispatcher.persistence.enabled=false"],
        "lunary": [
            "dispatcher.enabled=true",
            "dispatcher.service=lunary",
            "dispatcher.apiKey.existingSecret.name=keys",
            "dispatcher.replicaCount=2",
        ],
        "helicone": [
            "dispatcher.enabled=true",
            "dispatcher.service=helicone",
            "dispatcher.apiKey.existingSecret.name=keys",
        ],
    },
    "replicas": {
        "one": [],
        "three": ["replicaCount=3"],
        "hpa": [
            "autoscaling.enabled=true",
            "autoscaling.minReplicas=2",
            "autoscaling.targetMemoryUtilizationPercentage=85",
        ],
    },
    "admin": {"off": [], "on": ["admin.enabled=true"], "ingress": ["admin.enabled=true", "admin.ingress.enabled=true"]},
    "metrics": {
        "off": [],
        "annotations": ["metrics.enabled=true"],
        "operator": [
            "metrics.enabled=true",
            "metrics.serviceMonitor.enabled=true",
            "metrics.prometheusRule.enabled=true",
            "metrics.grafanaDashboard.enabled=true",
            "metrics.redisDashboard.enabled=true",
        ],
    },
    "migrations": {"init": [], "job": ["migrations.mode=job"], "server": ["migrations.mode=server"]},
    "secrets": {
        "none": [],
        "existing": [
            "secrets.managementToken.existingSecret.name=s",
            "secrets.encryptionKey.existingSecret.name=s",
            "secrets.encryptionKey.existingSecret.key=KEY",
        ],
        "chart": ["secrets.create=true", "secrets.data.managementToken=the-token", "secrets.generate=true"],
    },
    "network": {
        "plain": [],
        "policy": ["networkPolicy.enabled=true", "ingress.enabled=true", "service.port=80", "service.targetPort=9000"],
        "load balancer": ["service.type=LoadBalancer", "persistence.enabled=false", "config.apiProviders=apis: {}"],
    },
    "name": {"llm-proxy": [], "prod": [], LONG: [], "1e3": [], "my.release": []},
    "override": {
        "none": [],
        "nameOverride": ["nameOverride=gateway"],
        "fullnameOverride": [f"fullnameOverride={'x' * 63}"],
    },
}


def is_possible(case: pairwise.Case) -> bool:
    """What the chart's own rules allow, as far as the case says."""
    driver, place = case.get("driver"), case.get("place")
    if (driver == "sqlite" and place not in (None, "none")) or (driver in ("postgres", "mysql") and place == "none"):
        return False
    if driver == "sqlite" and case.get("replicas") in ("three", "hpa"):
        return False
    if case.get("bus") == "in-memory" and case.get("dispatcher") not in (None, "off"):
        return False
    if case.get("migrations") == "job":
        return place in (None, "external") and driver != "sqlite" and case.get("secrets") != "chart"
    return True


CASES = pairwise.cases({name: list(levels) for name, levels in FACTORS.items()}, is_possible)


def values_of(case: pairwise.Case) -> Values:
    assignments = [a for name, level in case.items() for a in FACTORS[name][level]]
    if case["place"].startswith("in-cluster") and case["driver"] == "postgres":
        assignments += ["postgresql.enabled=true", "postgresql.auth.password=the-db-password"]
    if case["place"].startswith("in-cluster") and case["driver"] == "mysql":
        passwords = ["mysql.auth.password=the-db-password", "mysql.auth.rootPassword=the-root-password"]
        assignments += ["mysql.enabled=true", *passwords]
    return sets(*assignments)


@pytest.mark.parametrize("case", CASES, ids=[str(n) for n in range(len(CASES))])
def test_every_pair_of_choices_keeps_the_invariants(case: pairwise.Case) -> None:
    """Schemas, selectors, ports, mounts, environment, security, names: all hold in every case."""
    values = values_of(case)
    rendering = render(values, name=case["name"])
    assert rendering.notes.strip()
    invariants.check(rendering, values, secrets=("the-token", "the-db-password", "the-root-password"))


@pytest.mark.parametrize("name", profiles())
def test_every_profile_and_example_keeps_the_invariants(name: str) -> None:
    """What the chart shows as an example is valid, with no secret in the clear."""
    values = profiles()[name]
    invariants.check(render(values), values, secrets=("user-pw", "root-pw", "the-token"))


@pytest.mark.parametrize(
    ("version", "hpa", "pdb"),
    [
        ("1.19.0", "autoscaling/v2beta2", "policy/v1beta1"),
        ("v1.20.15", "autoscaling/v2beta2", "policy/v1beta1"),
        ("1.21.0", "autoscaling/v2beta2", "policy/v1"),
        ("1.22.17-eks-1", "autoscaling/v2beta2", "policy/v1"),
        ("1.23.0", "autoscaling/v2", "policy/v1"),
        ("v1.31.2+k3s1", "autoscaling/v2", "policy/v1"),
    ],
)
def test_old_clusters_get_the_api_versions_that_they_have(version: str, hpa: str, pdb: str) -> None:
    """1.19 to 1.22 know no autoscaling/v2, 1.19 and 1.20 no policy/v1; the fields are the same."""
    values = merged([profiles()["production"], {"kubeVersionOverride": version}])
    old, new = render(values), render(profiles()["production"])
    for kind, wanted in (
        ("HorizontalPodAutoscaler", hpa),
        ("PodDisruptionBudget", pdb),
        ("Ingress", "networking.k8s.io/v1"),
    ):
        assert old.one(kind)["apiVersion"] == wanted
        assert old.one(kind)["spec"] == new.one(kind)["spec"]
