"""What can be set for every workload alike, how the proxy is published, and what NOTES lead to."""

from typing import Any

import pytest

from chart.engine import Object, Rendering, Values, containers, merged, pod_spec, render, sets
from chart.profiles import EVERYTHING, JOB, MYSQL, ROUTES

ALL = merged([EVERYTHING, sets("migrations.mode=init")])
# Workload of the values → its object; the migration has a separate pod only as a Job.
WORKLOADS: dict[str, tuple[Values, str, str]] = {
    "dispatcher": (ALL, "Deployment", "llm-proxy-dispatcher"),
    "admin": (ALL, "Deployment", "llm-proxy-admin"),
    "tests": (ALL, "Pod", "llm-proxy-test"),
    "postgresql": (ALL, "StatefulSet", "llm-proxy-postgresql"),
    "mysql": (MYSQL, "StatefulSet", "llm-proxy-mysql"),
    "migrations": (JOB, "Job", "llm-proxy-migrate"),
}
PLACED = sets(
    "nodeSelector.pool=llm",
    "tolerations[0].key=llm",
    "affinity.nodeAffinity.x=y",
    "podAnnotations.note=proxys",
    "podLabels.team=proxys",
)


def found(rendering: Rendering, kind: str, name: str) -> tuple[Object, Object]:
    """(metadata, spec) of the pod that an object makes."""
    obj = rendering.one(kind, name)
    spec = pod_spec(obj)
    assert spec
    return (obj if kind == "Pod" else obj["spec"]["template"])["metadata"], spec


@pytest.mark.parametrize("workload", WORKLOADS)
def test_what_a_workload_does_not_set_is_the_proxys(workload: str) -> None:
    """Node selection, tolerations, affinity, annotations and labels reach Jobs, tests and databases."""
    values, kind, name = WORKLOADS[workload]
    metadata, spec = found(render(merged([values, PLACED])), kind, name)
    assert spec["nodeSelector"] == {"pool": "llm"}
    assert spec["tolerations"] == [{"key": "llm"}]
    assert spec["affinity"] == {"nodeAffinity": {"x": "y"}}
    assert metadata["annotations"]["note"] == "proxys"
    assert metadata["labels"]["team"] == "proxys"


@pytest.mark.parametrize("workload", WORKLOADS)
def test_what_a_workload_sets_replaces_the_proxys(workload: str) -> None:
    """A mesh's annotation for the Job alone, its own pool for the dispatcher."""
    values, kind, name = WORKLOADS[workload]
    own = {
        workload: {
            "nodeSelector": {"pool": "own"},
            "tolerations": [{"key": "own"}],
            "affinity": {"podAffinity": {}},
            "podAnnotations": {"sidecar.istio.io/inject": "false"},
            "podLabels": {"team": "own"},
        }
    }
    metadata, spec = found(render(merged([values, PLACED, own])), kind, name)
    assert (spec["nodeSelector"], spec["tolerations"]) == ({"pool": "own"}, [{"key": "own"}])
    assert spec["affinity"] == {"podAffinity": {}}
    assert metadata["annotations"]["sidecar.istio.io/inject"] == "false"
    assert "note" not in metadata["annotations"]
    assert metadata["labels"]["team"] == "own"


@pytest.mark.parametrize(
    "names", [("volumes", "volumeMounts"), ("extraVolumes", "extraVolumeMounts")], ids=lambda n: n[0]
)
@pytest.mark.parametrize("workload", ["", *WORKLOADS])
def test_variables_and_volumes_of_each_workload(workload: str, names: tuple[str, str]) -> None:
    """Variables, sources and volumes, by either name, reach the first container and its pod, and no other workload."""
    values, kind, name = WORKLOADS[workload] if workload else (ALL, "Deployment", "llm-proxy")
    own: dict[str, Any] = {
        "extraEnv": [{"name": "OTEL_EXPORTER_OTLP_HEADERS", "valueFrom": {"secretKeyRef": {"name": "s", "key": "k"}}}],
        "extraEnvFrom": [{"secretRef": {"name": "more"}}],
        names[0]: [{"name": "more", "emptyDir": {}}],
        names[1]: [{"name": "more", "mountPath": "/more"}],
    }
    rendering = render(merged([values, {workload: own} if workload else own]))
    _, spec = found(rendering, kind, name)
    container = spec["containers"][0]
    assert own["extraEnv"][0] in container["env"]
    assert container["envFrom"] == own["extraEnvFrom"]
    assert own[names[1]][0] in container["volumeMounts"]
    assert own[names[0]][0] in spec["volumes"]
    others = [c for o in rendering.objects for c in containers(o) if c["name"] not in (container["name"], "migrate")]
    assert not [c["name"] for c in others if {"name": "more", "mountPath": "/more"} in c.get("volumeMounts", [])]


def test_the_migration_before_a_pod_has_volumes_of_its_own() -> None:
    """An init container's volume is the pod's, mounted in it alone."""
    own = sets("migrations.volumes[0].name=own", "migrations.volumeMounts[0].name=own")
    own["migrations"]["volumeMounts"][0]["mountPath"] = "/own"
    rendering = render(merged([ALL, own]))
    assert "/own" in [m["mountPath"] for m in rendering.container("migrate")["volumeMounts"]]
    assert "/own" not in [m["mountPath"] for m in rendering.container()["volumeMounts"]]
    _, spec = found(rendering, "Deployment", "llm-proxy")
    assert [v["name"] for v in spec["volumes"]].count("own") == 1


@pytest.mark.parametrize(
    ("assignment", "source"),
    [
        ("caBundle.existingConfigMap=company-ca", {"configMap": {"name": "company-ca"}}),
        ("caBundle.existingSecret=company-ca", {"secret": {"secretName": "company-ca"}}),
    ],
    ids=["ConfigMap", "Secret"],
)
def test_one_value_brings_a_private_ca_to_every_pod(assignment: str, source: Values) -> None:
    """Proxy, migration, dispatcher, admin UI and test mount it and are told of it; in-cluster databases need none."""
    source_kind = next(iter(source))
    source = {source_kind: source[source_kind] | {"items": [{"key": "ca.pem", "path": "ca.crt"}]}}
    rendering = render(merged([ALL, sets(assignment, "caBundle.key=ca.pem")]))
    reached = set()
    for obj in rendering.objects:
        for container in containers(obj):
            env = {e["name"]: e.get("value") for e in container.get("env", [])}
            if "EXTRA_CA_CERTS" not in env:
                continue
            reached.add(container["name"])
            assert env["EXTRA_CA_CERTS"] == "/app/certs/extra/ca.crt"
            assert env["REQUESTS_CA_BUNDLE"] == env["SSL_CERT_FILE"] == "/tmp/llm-proxy.ca.pem"
            assert {"name": "ca-bundle", "mountPath": "/app/certs/extra", "readOnly": True} in container["volumeMounts"]
            assert {"name": "ca-bundle"} | source in (pod_spec(obj) or {})["volumes"]
    assert reached == {"llm-proxy", "migrate", "dispatcher", "admin", "test"}


def test_settings_of_all_pods() -> None:
    """Hosts, DNS, classes and pull secrets are on every pod; pull secrets are names or objects, from two places."""
    more = {
        "hostAliases": [{"ip": "192.0.2.1", "hostnames": ["a"]}],
        "dnsPolicy": "None",
        "dnsConfig": {"nameservers": ["192.0.2.53"]},
        "runtimeClassName": "gvisor",
        "schedulerName": "mine",
        "priorityClassName": "high",
        "imagePullSecrets": ["one", {"name": "two"}],
        "global": {"imagePullSecrets": ["zero", "one"]},
    }
    for values in (ALL, JOB):
        for obj in render(merged([values, more])).objects:
            if spec := pod_spec(obj):
                assert spec["imagePullSecrets"] == [{"name": "zero"}, {"name": "one"}, {"name": "two"}]
                wanted = {k: v for k, v in more.items() if k not in ("imagePullSecrets", "global")}
                assert wanted.items() <= spec.items(), obj["metadata"]["name"]


@pytest.mark.parametrize(
    ("repository", "wanted"),
    [
        ("llm-proxy", "mirror.example.com/llm-proxy:1.10"),
        ("ghcr.io/sofatutor/llm-proxy", "mirror.example.com/sofatutor/llm-proxy:1.10"),
        ("localhost:5000/llm-proxy", "mirror.example.com/llm-proxy:1.10"),
        ("acme/llm-proxy", "mirror.example.com/acme/llm-proxy:1.10"),
    ],
)
def test_one_registry_for_all_images(repository: str, wanted: str) -> None:
    """global.imageRegistry replaces the registry of a repository, and is put in front of one that has none."""
    tag = {"image": {"repository": repository, "tag": "1.10"}, "global": {"imageRegistry": "mirror.example.com/"}}
    rendering = render(merged([ALL, tag]))
    images = {c["name"]: c["image"] for o in rendering.objects for c in containers(o)}
    assert images.pop("postgresql") == "mirror.example.com/postgres:17.6"
    assert set(images.values()) == {wanted}


def test_a_back_end_of_ones_own_needs_no_change_of_the_chart() -> None:
    """Any name of an entry point is handed on; without an endpoint the back end's own default counts."""
    base = merged([EVERYTHING, sets("dispatcher.apiKey.existingSecret.name=")])
    args = render(merged([base, sets("dispatcher.service=loki")])).container("dispatcher")["args"]
    assert args == ["dispatcher", "--service", "loki", "--buffer", "1000", "--batch-size", "100"]
    rendering = render(merged([base, sets("dispatcher.service=otlp", "dispatcher.replicaCount=2")]))
    assert "--endpoint" not in rendering.container("dispatcher")["args"]
    assert rendering.one("Deployment", "llm-proxy-dispatcher")["spec"]["strategy"]["type"] == "RollingUpdate"
    assert "http://localhost:4318/v1/traces" in rendering.notes
    told = render(merged([base, sets("dispatcher.service=otlp", "dispatcher.endpoint=http://c:4318/v1/traces")]))
    assert "http://c:4318/v1/traces" in told.container("dispatcher")["args"]
    assert "localhost:4318" not in told.notes


def test_the_secret_of_sign_in_by_openid_comes_from_a_secret() -> None:
    """Proxy and admin UI get it and the settings beside it; the migration does not."""
    rendering = render(merged([ROUTES, sets("env.ADMIN_OIDC_ISSUER=https://id.example.com")]))
    wanted = {"secretKeyRef": {"name": "oidc", "key": "ADMIN_OIDC_CLIENT_SECRET"}}
    for name in ("llm-proxy", "admin"):
        assert rendering.env(name)["ADMIN_OIDC_CLIENT_SECRET"] == wanted
        assert rendering.env(name)["ADMIN_OIDC_ISSUER"] == "https://id.example.com"
    assert "ADMIN_OIDC_CLIENT_SECRET" not in rendering.env("migrate")


def test_the_admin_ui_has_variables_beside_the_proxys() -> None:
    """A workload's `env` map replaces what the common one hands on, and reaches no other; `extraEnv` replaces both."""
    first = [
        "env.ADMIN_OIDC_CLIENT_ID=proxy",
        "admin.env.ADMIN_OIDC_CLIENT_ID=alone",
        "admin.env.HTTPS_PROXY=http://p:1",
    ]
    rendering = render(merged([ALL, sets(*first)]))
    assert rendering.env("admin")["ADMIN_OIDC_CLIENT_ID"] == "alone"
    assert rendering.env("admin")["HTTPS_PROXY"] == "http://p:1"
    assert rendering.env("llm-proxy")["ADMIN_OIDC_CLIENT_ID"] == "proxy"
    assert "HTTPS_PROXY" not in rendering.env("llm-proxy")
    more = ["admin.extraEnv[0].name=HTTPS_PROXY", "admin.extraEnv[0].value=http://q:1"]
    assert render(merged([ALL, sets(*first, *more)])).env("admin")["HTTPS_PROXY"] == "http://q:1"


def test_the_admin_ui_believes_the_proxies_that_are_named() -> None:
    """Its Ingress is the same controller: cookies are Secure and paths right behind it."""
    rendering = render(merged([ALL, sets("trustedProxies={192.0.2.0/24}")]))
    assert rendering.env("admin")["TRUSTED_PROXIES"] == "192.0.2.0/24"
    assert render(merged([ALL, sets("env.TRUSTED_PROXIES=192.0.2.1")])).env("admin")["TRUSTED_PROXIES"] == "192.0.2.1"


def test_a_service_has_the_fields_of_its_type() -> None:
    """Node port, load balancer, traffic policies, families and labels are passed on, for the admin UI alike."""
    fields: Values = {
        "type": "LoadBalancer",
        "nodePort": 30080,
        "loadBalancerIP": "192.0.2.1",
        "loadBalancerClass": "internal",
        "loadBalancerSourceRanges": ["192.0.2.0/24"],
        "externalTrafficPolicy": "Local",
        "internalTrafficPolicy": "Local",
        "ipFamilyPolicy": "RequireDualStack",
        "ipFamilies": ["IPv6", "IPv4"],
        "sessionAffinity": "ClientIP",
        "labels": {"team": "x"},
    }
    rendering = render(merged([ALL, {"service": fields, "admin": {"service": fields}}]))
    for name in ("llm-proxy", "llm-proxy-admin"):
        service = rendering.one("Service", name)
        wanted = {k: v for k, v in fields.items() if k not in ("nodePort", "labels")}
        assert wanted.items() <= service["spec"].items()
        assert service["spec"]["ports"][0]["nodePort"] == 30080
        assert service["metadata"]["labels"]["team"] == "x"


def test_a_route_publishes_the_api_alone_and_does_not_cut_streams() -> None:
    """The default rule is /v1 without a time limit; the private ranges are believed as with an Ingress."""
    rendering = render(ROUTES)
    route = rendering.one("HTTPRoute", "llm-proxy")["spec"]
    assert route == {
        "parentRefs": [{"name": "gateway"}],
        "hostnames": ["api.example.com"],
        "rules": [
            {
                "matches": [{"path": {"type": "PathPrefix", "value": "/v1"}}],
                "timeouts": {"request": "0s"},
                "backendRefs": [{"name": "llm-proxy", "port": 8080}],
            }
        ],
    }
    assert "10.0.0.0/8" in rendering.env()["TRUSTED_PROXIES"]
    assert "forwards every path" not in rendering.notes
    assert "curl https://api.example.com/v1/models" in rendering.notes
    open_route = render(merged([ROUTES, {"httpRoute": {"matches": [{"path": {"value": "/"}}], "timeouts": None}}]))
    assert "The HTTPRoute forwards every path" in open_route.notes
    assert "timeouts" not in open_route.one("HTTPRoute", "llm-proxy")["spec"]["rules"][0]


def test_a_wildcard_listen_address_is_kept() -> None:
    """`[::]:8080` says what `:8080` does, so that nothing replaces it in silence."""
    assert render(sets("env.LISTEN_ADDR=[::]:8080")).env()["LISTEN_ADDR"] == "[::]:8080"


def test_another_autoscaler_finds_no_replicas_stated() -> None:
    """KEDA makes its own HorizontalPodAutoscaler; the limits still count for SQLite, budget and spread."""
    values = merged([JOB, sets("autoscaling.external=true", "autoscaling.minReplicas=2")])
    rendering = render(values)
    assert "replicas" not in rendering.one("Deployment")["spec"]
    assert not rendering.of("HorizontalPodAutoscaler")
    assert rendering.of("PodDisruptionBudget")


def test_a_budget_states_one_of_its_two_numbers() -> None:
    """minAvailable takes the place of maxUnavailable."""
    for more, wanted in (
        (sets(), {"maxUnavailable": 1}),
        ({"podDisruptionBudget": {"minAvailable": "50%"}}, {"minAvailable": "50%"}),
    ):
        spec = render(merged([JOB, more])).one("PodDisruptionBudget")["spec"]
        assert {k: v for k, v in spec.items() if k != "selector"} == wanted


def test_objects_of_ones_own_may_use_templates() -> None:
    """A map and a text, both with the release's name in them."""
    text = 'apiVersion: v1\nkind: ConfigMap\nmetadata: {name: {{ include "llm-proxy.fullname" . }}-text, labels: {}}\n'
    made = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "{{ .Release.Name }}-map"}}
    names = {o["metadata"]["name"] for o in render({"extraObjects": [made, text]}, name="prod").of("ConfigMap")}
    assert names == {"prod-map", "prod-llm-proxy-text"}


def test_pod_monitors_take_the_place_of_service_monitors() -> None:
    """Proxy and dispatcher are scraped once, with the settings of the ServiceMonitor."""
    rendering = render(
        merged([ROUTES, sets("metrics.serviceMonitor.enabled=true", "metrics.serviceMonitor.interval=15s")])
    )
    assert not rendering.of("ServiceMonitor")
    endpoints = [m["spec"]["podMetricsEndpoints"][0] for m in rendering.of("PodMonitor")]
    assert [(e["port"], e["interval"]) for e in endpoints] == [("http", "15s"), ("health", "15s")]


def test_checksums_cost_a_guess_more_than_a_hash() -> None:
    """A reader of pods cannot try weak tokens by SHA-256, and other releases have other checksums."""
    import hashlib
    import json

    values = sets("secrets.create=true", "secrets.data.managementToken=weak")
    data = {"managementToken": "weak", "databaseUrl": "", "encryptionKey": ""}
    annotations = [
        render(values, name=name).one("Deployment")["spec"]["template"]["metadata"]["annotations"]
        for name in ("a", "b")
    ]
    assert annotations[0] != annotations[1]
    for form in (json.dumps(data, sort_keys=True, separators=(",", ":")), json.dumps(data, separators=(",", ":"))):
        assert hashlib.sha256(form.encode()).hexdigest() not in annotations[0]["checksum/secret"]


@pytest.mark.parametrize(
    ("assignments", "says", "silent"),
    [
        ([], "has no registry", False),
        (["image.repository=ghcr.io/sofatutor/llm-proxy"], "has no registry", True),
        (["global.imageRegistry=mirror.example.com"], "has no registry", True),
        (["ingress.enabled=true"], "chart-example.local is the sample's host", False),
        (["ingress.enabled=true", "ingress.hosts[0].host=a.example.com"], "sample's host", True),
        (["admin.enabled=true", "admin.ingress.enabled=true"], "admin.chart-example.local is the sample's host", False),
        ([], "manage project create --name first", False),
        ([], "curl http://127.0.0.1:8080/v1/models", False),
        (["service.type=LoadBalancer"], "ingress[0].ip}{.status.loadBalancer.ingress[0].hostname}", False),
        (["service.type=LoadBalancer", "service.port=80"], "curl http://$SERVICE_IP:80/v1/models", False),
        (["service.type=NodePort"], "curl http://$NODE_IP:$NODE_PORT/v1/models", False),
    ],
)
def test_the_notes_lead_to_a_first_request(assignments: list[str], says: str, *, silent: bool) -> None:
    """Project, token and request for each way in, and warnings of what would not work."""
    assert (says in render(sets(*assignments)).notes) is not silent
