"""Values of the main ways to run the chart: each example, and what no example shows."""

from typing import Any

import yaml

from chart.engine import CHART, Rendering, Values, merged, render, sets

_PASSWORDS = sets("mysql.auth.rootPassword=root-pw", "mysql.auth.password=user-pw")

# Everything that can be on at once, for the tests that turn one value at a time.
EVERYTHING = sets(
    "env.DB_DRIVER=postgres",
    "postgresql.enabled=true",
    "postgresql.auth.password=user-pw",
    "postgresql.tls.existingSecret=postgresql-tls",
    "postgresql.sslMode=verify-full",
    "postgresql.primary.persistence.storageClass=fast",
    "env.LLM_PROXY_EVENT_BUS=redis-streams",
    "redis.external.addr=redis.example.com:6379",
    "redis.external.username=proxy",
    "redis.external.password.existingSecret.name=redis-password",
    "redis.external.tls.enabled=true",
    "redis.external.tls.caSecret=redis-ca",
    "dispatcher.enabled=true",
    "dispatcher.apiKey.existingSecret.name=dispatcher-secrets",
    "admin.enabled=true",
    "admin.ingress.enabled=true",
    "ingress.enabled=true",
    "autoscaling.enabled=true",
    "autoscaling.minReplicas=2",
    "metrics.enabled=true",
    "metrics.serviceMonitor.enabled=true",
    "metrics.prometheusRule.enabled=true",
    "metrics.grafanaDashboard.enabled=true",
    "metrics.redisDashboard.enabled=true",
    "networkPolicy.enabled=true",
    "secrets.managementToken.existingSecret.name=llm-proxy-secrets",
    "secrets.managementTokenPrevious.existingSecret.name=llm-proxy-secrets",
    "secrets.encryptionKey.existingSecret.name=llm-proxy-encryption",
    "secrets.encryptionKeyPrevious.existingSecret.name=llm-proxy-encryption",
)

SQLITE = sets("secrets.managementToken.existingSecret.name=llm-proxy-secrets")
CHART_SECRET = sets("secrets.create=true", "secrets.data.managementToken=the-token")
MYSQL = merged(
    [
        sets("env.DB_DRIVER=mysql", "mysql.enabled=true", "mysql.tls.enabled=true", "mysql.tls.existingSecret=t"),
        _PASSWORDS,
    ]
)
EXTERNAL = sets("env.DB_DRIVER=postgres", "secrets.databaseUrl.existingSecret.name=llm-proxy-db", "replicaCount=3")
JOB = merged([EXTERNAL, sets("migrations.mode=job")])

# What cannot be on beside EVERYTHING: a load balancer, routes of a Gateway, PodMonitors, a CA bundle.
ROUTES = sets(
    "secrets.managementToken.existingSecret.name=llm-proxy-secrets",
    "secrets.adminOidcClientSecret.existingSecret.name=oidc",
    "caBundle.existingConfigMap=company-ca",
    "service.type=LoadBalancer",
    "service.loadBalancerClass=internal",
    "service.ipFamilyPolicy=PreferDualStack",
    "admin.enabled=true",
    "admin.service.type=LoadBalancer",
    "httpRoute.enabled=true",
    "httpRoute.parentRefs[0].name=gateway",
    "httpRoute.hostnames={api.example.com}",
    "admin.httpRoute.enabled=true",
    "admin.httpRoute.parentRefs[0].name=gateway",
    "env.LLM_PROXY_EVENT_BUS=redis-streams",
    "redis.external.addr=redis.example.com:6379",
    "dispatcher.enabled=true",
    "dispatcher.service=otlp",
    "dispatcher.endpoint=http://collector:4318/v1/traces",
    "metrics.enabled=true",
    "metrics.podMonitor.enabled=true",
)


def examples() -> dict[str, Values]:
    """Each file of examples/, with what its head says is given on the command line."""
    found: dict[str, Values] = {}
    for path in sorted((CHART / "examples").glob("*.yaml")):
        values = yaml.safe_load(path.read_text())
        found[path.stem.removeprefix("values-")] = merged([values, _PASSWORDS]) if "mysql" in path.stem else values
    return found


def profiles() -> dict[str, Values]:
    """All of them by name."""
    own = {"default": {}, "everything": EVERYTHING, "postgresql": _POSTGRESQL, "job": JOB, "chart-secret": CHART_SECRET}
    own["routes"] = ROUTES
    return own | examples()


_POSTGRESQL = sets("env.DB_DRIVER=postgres", "postgresql.enabled=true", "postgresql.auth.password=user-pw")


def stable(rendering: Rendering) -> dict[str, Any]:
    """Objects and notes, with what each rendering makes up again (certificates, generated secrets) masked."""
    objects: dict[str, Any] = {}
    for obj in rendering.objects:
        is_generated = obj["kind"] == "Secret" and (
            obj["type"] == "kubernetes.io/tls" or "helm.sh/resource-policy" in obj["metadata"].get("annotations", {})
        )
        kept = obj | {"data": dict.fromkeys(obj["data"], "(made up)")} if is_generated else obj
        objects[f"{obj['kind']}/{obj['metadata']['name']}"] = kept
    return objects | {"NOTES": rendering.notes}


def stable_of(values: Values) -> dict[str, Any]:
    return stable(render(values))
