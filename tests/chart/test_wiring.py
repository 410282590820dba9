"""Environment, secrets, mounts and rollout of each pod (sections 4, 6, 7, 8)."""

import base64
import json
from typing import Any

import pytest
import yaml

from chart.engine import Rendering, merged, pod_spec, render, sets
from chart.profiles import EVERYTHING, EXTERNAL, JOB, MYSQL, SQLITE, profiles


def ref(name: str, key: str) -> dict[str, Any]:
    return {"secretKeyRef": {"name": name, "key": key}}


def volumes(rendering: Rendering, name: str = "llm-proxy", kind: str = "Deployment") -> dict[str, Any]:
    spec = pod_spec(rendering.one(kind, name))
    assert spec
    return {v["name"]: {k: x for k, x in v.items() if k != "name"} for v in spec["volumes"]}


def mounts(rendering: Rendering, container: str = "llm-proxy") -> dict[str, str]:
    return {m["mountPath"]: m["name"] for m in rendering.container(container)["volumeMounts"]}


def test_an_existing_secret_wins_over_the_charts_and_brings_its_key() -> None:
    """With secrets.create, a custom key of an existing Secret is honoured, and the unused value is not stored."""
    rendering = render(
        sets(
            "secrets.create=true",
            "secrets.data.managementToken=unused",
            "secrets.managementToken.existingSecret.name=mine",
            "secrets.managementToken.existingSecret.key=TOKEN",
        )
    )
    assert rendering.env()["MANAGEMENT_TOKEN"] == ref("mine", "TOKEN")
    assert not rendering.of("Secret")


def test_generated_secrets_are_kept_and_long_enough() -> None:
    """Token and key are 32 bytes in base64, and stay when the release goes."""
    secret = render(sets("secrets.create=true", "secrets.generate=true")).one("Secret")
    assert secret["metadata"]["annotations"] == {"helm.sh/resource-policy": "keep"}
    for name in ("MANAGEMENT_TOKEN", "ENCRYPTION_KEY"):
        assert len(base64.b64decode(base64.b64decode(secret["data"][name]), validate=True)) == 32
    again = render(sets("secrets.create=true", "secrets.generate=true")).one("Secret")
    assert again["data"]["ENCRYPTION_KEY"] != secret["data"]["ENCRYPTION_KEY"]


def test_the_migrate_container_has_what_it_needs_and_no_more() -> None:
    """Database, keys and Redis, but neither the management token nor anything of a serving proxy (4.1)."""
    rendering = render(EVERYTHING)
    serving, migrating = rendering.env(), rendering.env("migrate")
    assert serving.keys() - migrating.keys() == {
        "MANAGEMENT_TOKEN",
        "MANAGEMENT_TOKEN_PREVIOUS",
        "LISTEN_ADDR",
        "AUTO_MIGRATE",
        "EVENT_SPOOL_DIR",
        "LEDGER_DIR",
        "DRAIN_TIMEOUT",
        "MAX_HELD_BODIES",
    }
    assert migrating.items() <= serving.items()
    assert rendering.container("migrate")["args"] == ["migrate", "up"]


def test_computed_variables_win_over_the_map_and_extra_ones_over_both() -> None:
    """Each name comes once, wherever it is given."""
    env = render(
        sets(
            "env.REDIS_ADDR=wrong:1",
            "redis.external.addr=right:6379",
            "env.AUTO_MIGRATE=true",
            "env.EVENT_SPOOL_DIR=/app/data/other",
            "extraEnv[0].name=LOG_LEVEL",
            "extraEnv[0].value=debug",
        )
    ).env()
    assert (env["REDIS_ADDR"], env["AUTO_MIGRATE"], env["LOG_LEVEL"]) == ("right:6379", "false", "debug")
    assert env["EVENT_SPOOL_DIR"] == "/app/data/other"
    assert (render().env()["MAX_HELD_BODIES"], render(sets("env.MAX_HELD_BODIES=1GB")).env()["MAX_HELD_BODIES"]) == (
        "256MB",
        "1GB",
    )


def test_the_maps_variables_come_sorted_and_first() -> None:
    """The order is the same in every rendering: `env` by name, then what is computed."""
    names = [e["name"] for e in render().container()["env"]]
    given = [
        n
        for n in names
        if n not in ("LISTEN_ADDR", "AUTO_MIGRATE", "EVENT_SPOOL_DIR", "LEDGER_DIR", "DRAIN_TIMEOUT", "MAX_HELD_BODIES")
    ]
    assert names[: len(given)] == sorted(given)


def test_the_listen_address_follows_the_target_port() -> None:
    """service.targetPort moves the container's port, the probes and what the proxy listens on together."""
    rendering = render(sets("service.port=80", "service.targetPort=9000", "metrics.enabled=true"))
    assert rendering.env()["LISTEN_ADDR"] == ":9000"
    assert rendering.container()["ports"] == [{"name": "http", "containerPort": 9000, "protocol": "TCP"}]
    annotations = rendering.one("Service")["metadata"]["annotations"]
    assert annotations["prometheus.io/port"] == "9000"
    assert rendering.one("Service")["spec"]["ports"][0]["port"] == 80


def test_scrape_annotations_follow_unless_given_others() -> None:
    """metrics.path moves the annotation, a port of one's own stays, and service.annotations are merged in."""
    annotations = render(
        sets(
            "metrics.enabled=true",
            "env.METRICS_PATH=/m",
            "metrics.path=/m/prometheus",
            r"metrics.annotations.prometheus\.io/port=9999",
            r"service.annotations.prometheus\.io/scrape=no",
            "service.annotations.mine=x",
        )
    ).one("Service")["metadata"]["annotations"]
    assert annotations == {
        "mine": "x",
        "prometheus.io/scrape": "true",
        "prometheus.io/path": "/m/prometheus",
        "prometheus.io/port": "9999",
    }


@pytest.mark.parametrize(
    ("assignments", "wanted"),
    [
        ([], None),
        (["ingress.enabled=true"], "10.0.0.0/8,172.16.0.0/12,192.168.0.0/16,100.64.0.0/10,fc00::/7"),
        (["ingress.enabled=true", "trustedProxies={192.0.2.0/24,2001:db8::/32}"], "192.0.2.0/24,2001:db8::/32"),
        (["ingress.enabled=true", "env.TRUSTED_PROXIES=192.0.2.1"], "192.0.2.1"),
    ],
    ids=["no ingress", "ingress", "given", "given as a variable"],
)
def test_the_proxies_that_are_believed(assignments: list[str], wanted: str | None) -> None:
    """No peer without an ingress; the private ranges with one; what is given wins."""
    assert render(sets(*assignments)).env().get("TRUSTED_PROXIES") == wanted


def test_the_in_cluster_urls_hold_no_password_and_name_the_service() -> None:
    """User and database are percent-encoded, the host is the Service, the password is its own variable."""
    values = sets(
        "env.DB_DRIVER=postgres",
        "postgresql.enabled=true",
        "postgresql.auth.existingSecret=pg",
        "postgresql.auth.secretKeys.userPasswordKey=pw",
        "postgresql.auth.username=a b@c",
        "postgresql.auth.database=d/e",
    )
    rendering = render(values, name="prod")
    env = rendering.env()
    assert env["DATABASE_URL"] == "postgres://a%20b%40c@prod-llm-proxy-postgresql:5432/d%2Fe?sslmode=require"
    assert env["DATABASE_PASSWORD"] == ref("pg", "pw")
    assert rendering.one("Service", "prod-llm-proxy-postgresql")
    assert not [s for s in rendering.of("Secret") if s["type"] == "Opaque"]


def test_verifying_modes_mount_the_ca() -> None:
    """verify-full reads ca.crt of the TLS Secret; MySQL's tls=true does so through DATABASE_TLS_CA."""
    postgres, mysql = render(EVERYTHING), render(MYSQL)
    assert postgres.env()["DATABASE_URL"].endswith("?sslmode=verify-full&sslrootcert=/app/certs/database/ca.crt")
    assert mysql.env()["DATABASE_URL"].endswith("?parseTime=true&tls=true")
    assert mysql.env()["DATABASE_TLS_CA"] == "/app/certs/database/ca.crt"
    for rendering in (postgres, mysql):
        assert mounts(rendering)["/app/certs/database"] == "database-ca"
        assert mounts(rendering, "migrate")["/app/certs/database"] == "database-ca"
    skip = render(merged([MYSQL, sets("mysql.tls.skipVerify=true")]))
    assert skip.env()["DATABASE_URL"].endswith("&tls=skip-verify")


def test_the_dispatcher_reads_the_stream_that_the_proxy_writes() -> None:
    """Stream, group, list and log settings of `env` reach it; no secret of the proxy does."""
    rendering = render(
        merged(
            [
                EVERYTHING,
                sets(
                    "env.REDIS_STREAM_KEY=my-events",
                    "env.REDIS_STREAM_MAX_LEN=5",
                    "env.REDIS_CONSUMER_GROUP=g",
                    "env.REDIS_LIST_KEY=l",
                    "env.LOG_LEVEL=debug",
                    "env.LLM_PROXY_DISPATCHER_VERBOSE=1",
                    "env.HTTP_CACHE_BACKEND=redis",
                    "dispatcher.env.LOG_LEVEL=warn",
                ),
            ]
        )
    )
    env = rendering.env("dispatcher")
    assert env == {
        "LLM_PROXY_EVENT_BUS": "redis-streams",
        "REDIS_STREAM_KEY": "my-events",
        "REDIS_STREAM_MAX_LEN": "5",
        "REDIS_CONSUMER_GROUP": "g",
        "REDIS_LIST_KEY": "l",
        "LOG_FORMAT": "json",
        "LOG_LEVEL": "warn",
        "LLM_PROXY_DISPATCHER_VERBOSE": "1",
        "REDIS_ADDR": "redis.example.com:6379",
        "REDIS_DB": "0",
        "REDIS_USERNAME": "proxy",
        "REDIS_PASSWORD": ref("redis-password", "REDIS_PASSWORD"),
        "REDIS_TLS": "true",
        "REDIS_TLS_CA": "/app/certs/redis/ca.crt",
        "LLM_PROXY_API_KEY": ref("dispatcher-secrets", "DISPATCHER_API_KEY"),
        "REDIS_CONSUMER_NAME": {"fieldRef": {"fieldPath": "metadata.name"}},
        "DISPATCHER_HEALTH_ADDR": ":9090",
    }


@pytest.mark.parametrize(
    ("service", "endpoint"),
    [
        ("file", "/app/data/events.jsonl"),
        ("lunary", "https://api.lunary.ai/v1/runs/ingest"),
        ("helicone", "https://api.worker.helicone.ai/custom/v1/log"),
    ],
)
def test_the_dispatchers_arguments(service: str, endpoint: str) -> None:
    """Each back end has its own default endpoint; buffer and batch come from the values."""
    values = merged([EVERYTHING, sets(f"dispatcher.service={service}", "dispatcher.config.batchSize=7")])
    args = render(values).container("dispatcher")["args"]
    assert args == ["dispatcher", "--service", service, "--endpoint", endpoint, "--buffer", "1000", "--batch-size", "7"]


def test_the_dispatchers_claim_is_for_the_file_back_end_alone() -> None:
    """Persistence makes a claim only for files; without it the data folder is an emptyDir all the same."""
    file = render(EVERYTHING)
    assert volumes(file, "llm-proxy-dispatcher")["data"] == {
        "persistentVolumeClaim": {"claimName": "llm-proxy-dispatcher"}
    }
    assert file.one("Deployment", "llm-proxy-dispatcher")["spec"]["strategy"] == {"type": "Recreate"}
    for more in ("dispatcher.service=lunary", "dispatcher.persistence.enabled=false"):
        other = render(merged([EVERYTHING, sets(more)]))
        assert "emptyDir" in volumes(other, "llm-proxy-dispatcher")["data"]
        assert not other.of("PersistentVolumeClaim")


def test_the_admin_ui_gets_the_token_and_logs_but_no_other_secret() -> None:
    """It talks to the proxy's API: neither the database nor the encryption key is its business."""
    values = merged([EVERYTHING, sets("env.AUDIT_LOG_FILE=/app/logs/audit.log", "env.ADMIN_UI_COOKIE_SECURE=true")])
    rendering = render(values)
    env = rendering.env("admin")
    assert env.keys() == {
        "LOG_LEVEL",
        "LOG_FORMAT",
        "LOG_FILE",
        "AUDIT_LOG_FILE",
        "ADMIN_UI_COOKIE_SECURE",
        "MANAGEMENT_TOKEN",
    }
    assert rendering.container("admin")["args"] == [
        "admin",
        "--listen",
        ":8081",
        "--api-base-url",
        "http://llm-proxy:8080",
    ]
    assert rendering.one("Deployment", "llm-proxy-admin")["spec"]["strategy"] == {"type": "Recreate"}


def test_sqlite_is_one_pod_that_is_recreated_on_a_kept_claim() -> None:
    """Two writers are never there, and the data outlives pod and release."""
    rendering = render(SQLITE)
    assert rendering.one("Deployment")["spec"]["strategy"] == {"type": "Recreate"}
    claim = rendering.one("PersistentVolumeClaim")
    assert claim["metadata"]["annotations"] == {"helm.sh/resource-policy": "keep"}
    assert volumes(rendering)["data"] == {"persistentVolumeClaim": {"claimName": "llm-proxy-data"}}
    own = render(sets("persistence.existingClaim=mine"))
    assert volumes(own)["data"] == {"persistentVolumeClaim": {"claimName": "mine"}}
    assert not own.of("PersistentVolumeClaim")
    assert not render(EXTERNAL).of("PersistentVolumeClaim")


@pytest.mark.parametrize(
    ("value", "wanted"), [("", {}), ("-", {"storageClassName": ""}), ("fast", {"storageClassName": "fast"})]
)
def test_a_dash_is_the_empty_storage_class(value: str, wanted: dict[str, str]) -> None:
    """Left out: the cluster's default; `-`: none, as claims on prepared volumes need."""
    spec = render(sets(f"persistence.storageClass={value}")).one("PersistentVolumeClaim")["spec"]
    assert {k: v for k, v in spec.items() if k == "storageClassName"} == wanted


def test_the_data_folder_has_room_for_the_spool() -> None:
    """An emptyDir's limit is the spool's bound and 256Mi."""
    assert volumes(render(EXTERNAL))["data"] == {"emptyDir": {"sizeLimit": "512Mi"}}
    more = render(merged([EXTERNAL, sets("env.EVENT_SPOOL_MAX_BYTES=1GB")]))
    assert volumes(more)["data"] == {"emptyDir": {"sizeLimit": "1280Mi"}}


def test_volumes_of_ones_own_are_added_or_replace_the_built_in_ones() -> None:
    """A list copied from another chart (all five folders as emptyDirs) still gives a valid pod."""
    copied = yaml.safe_load(
        """
        volumes: [{name: tmp, emptyDir: {}}, {name: data, emptyDir: {}}, {name: logs, emptyDir: {}},
                  {name: config, emptyDir: {}}, {name: certs, emptyDir: {}}]
        volumeMounts: [{name: tmp, mountPath: /tmp}, {name: data, mountPath: /app/data},
                       {name: logs, mountPath: /app/logs}, {name: config, mountPath: /app/config},
                       {name: certs, mountPath: /app/certs}]
        """
    )
    rendering = render(copied)
    assert volumes(rendering) == {name: {"emptyDir": {}} for name in ("tmp", "data", "logs", "config", "certs")}
    assert not rendering.of("PersistentVolumeClaim")
    moved = render(sets("volumes[0].name=disk", "volumeMounts[0].name=disk", "volumeMounts[0].mountPath=/app/data/"))
    assert mounts(moved)["/app/data/"] == "disk"
    assert "data" not in volumes(moved)


def test_the_provider_file_is_mounted_only_when_it_is_given() -> None:
    """Else nothing lies over /app/config, where the packaged file is."""
    assert "/app/config" not in mounts(render())
    rendering = render({"config": {"apiProviders": "default_api: x\napis:\n  x: {}\n"}})
    assert mounts(rendering)["/app/config"] == "provider-file"
    assert rendering.env()["API_CONFIG_PATH"] == "/app/config/api_providers.yaml"
    text = rendering.one("ConfigMap", "llm-proxy-config")["data"]["api_providers.yaml"]
    assert yaml.safe_load(text) == {"default_api": "x", "apis": {"x": {}}}
    pod = rendering.one("Deployment")["spec"]["template"]["metadata"]
    assert set(pod["annotations"]) == {"checksum/config"}
    other = render(sets("config.existingConfigMap=mine"))
    assert volumes(other)["provider-file"] == {"configMap": {"name": "mine"}}


def test_checksums_restart_pods_for_what_the_chart_holds() -> None:
    """A changed token or database user changes the pod; a rendering of the same values does not."""

    def annotations(*assignments: str) -> Any:
        rendering = render(sets(*assignments))
        return rendering.one("Deployment")["spec"]["template"]["metadata"].get("annotations", {})

    one = annotations("secrets.create=true", "secrets.data.managementToken=a")
    assert one.keys() == {"checksum/secret"}
    assert one == annotations("secrets.create=true", "secrets.data.managementToken=a")
    assert one != annotations("secrets.create=true", "secrets.data.managementToken=b")
    generated = annotations("secrets.create=true", "secrets.generate=true")
    assert generated == annotations("secrets.create=true", "secrets.generate=true")
    base = ("env.DB_DRIVER=postgres", "postgresql.enabled=true")
    assert annotations(*base, "postgresql.auth.password=a").keys() == {"checksum/db-secret"}
    assert annotations(*base, "postgresql.auth.password=a") == annotations(*base, "postgresql.auth.password=b")
    other = annotations(*base, "postgresql.auth.password=a", "postgresql.auth.username=other")
    assert other != annotations(*base, "postgresql.auth.password=a")
    assert not annotations(*base, "postgresql.auth.existingSecret=a")


def test_the_migration_job_is_a_hook_that_needs_nothing_of_the_release() -> None:
    """It runs before install and upgrade: no service account, no ConfigMap of the release, no init container beside."""
    values = merged([JOB, sets("config.apiProviders=apis: {}")])
    rendering = render(values)
    job = rendering.one("Job")
    assert job["metadata"]["annotations"] == {
        "helm.sh/hook": "pre-install,pre-upgrade",
        "helm.sh/hook-weight": "-5",
        "helm.sh/hook-delete-policy": "before-hook-creation,hook-succeeded",
    }
    assert job["spec"]["backoffLimit"] == 3
    spec = job["spec"]["template"]["spec"]
    assert "serviceAccountName" not in spec
    assert "provider-file" not in json.dumps(spec)
    assert "initContainers" not in rendering.one("Deployment")["spec"]["template"]["spec"]
    assert rendering.env()["AUTO_MIGRATE"] == "false"
    assert "AUTO_MIGRATE" not in render(sets("migrations.mode=server")).env()


def test_pods_spread_softly_where_there_are_several() -> None:
    """Over hosts and zones, unless the user says otherwise."""
    spec = render(EXTERNAL).one("Deployment")["spec"]["template"]["spec"]
    assert [c["topologyKey"] for c in spec["topologySpreadConstraints"]] == [
        "kubernetes.io/hostname",
        "topology.kubernetes.io/zone",
    ]
    assert {c["whenUnsatisfiable"] for c in spec["topologySpreadConstraints"]} == {"ScheduleAnyway"}
    assert "topologySpreadConstraints" not in render().one("Deployment")["spec"]["template"]["spec"]


def test_probes_and_shutdown_are_as_promised() -> None:
    """Liveness and readiness with their timings, a start-up of two minutes, a preStop that keeps the pod serving."""
    container = render().container()
    assert container["livenessProbe"] == {
        "httpGet": {"path": "/live", "port": "http"},
        "initialDelaySeconds": 10,
        "periodSeconds": 30,
        "timeoutSeconds": 5,
        "failureThreshold": 3,
    }
    assert container["readinessProbe"]["httpGet"] == {"path": "/ready", "port": "http"}
    assert container["readinessProbe"]["initialDelaySeconds"] == 5
    assert container["startupProbe"]["periodSeconds"] * container["startupProbe"]["failureThreshold"] == 120
    assert container["lifecycle"] == {"preStop": {"exec": {"command": ["sleep", "5"]}}}
    assert "lifecycle" not in render(sets("lifecycle.preStopSleepSeconds=0")).container()
    replaced = render(sets("livenessProbe.httpGet=null", "livenessProbe.tcpSocket.port=http")).container()
    assert replaced["livenessProbe"]["tcpSocket"] == {"port": "http"}
    assert "startupProbe" not in render({"startupProbe": None}).container()


def test_the_databases_are_single_pods_that_keep_their_data() -> None:
    """One replica whatever is asked, a claim of the promised size, probes by TCP, passwords from files."""
    for name, size, values in (("postgresql", "8Gi", profiles()["postgresql"]), ("mysql", "10Gi", MYSQL)):
        rendering = render(values)
        stateful = rendering.one("StatefulSet", f"llm-proxy-{name}")
        assert stateful["spec"]["replicas"] == 1
        claim = stateful["spec"]["volumeClaimTemplates"][0]
        assert claim["spec"]["resources"]["requests"]["storage"] == size
        container = rendering.container(name)
        variables = {e["name"] for e in container["env"]}
        assert not [v for v in variables if v.endswith("PASSWORD")]
        probe = container["startupProbe"]
        assert probe["periodSeconds"] * probe["failureThreshold"] == 600
        assert "127.0.0.1" in json.dumps(probe["exec"])


def test_the_network_policies_open_what_is_needed() -> None:
    """The database is reached by the proxy alone, the dispatcher's health port by anyone, 443 only where allowed."""
    rendering = render(EVERYTHING)
    names = {p["metadata"]["name"] for p in rendering.of("NetworkPolicy")}
    assert names == {"llm-proxy", "llm-proxy-dispatcher", "llm-proxy-admin", "llm-proxy-postgresql"}
    database = rendering.one("NetworkPolicy", "llm-proxy-postgresql")["spec"]
    assert database["egress"] == []
    assert database["ingress"][0]["from"][0]["podSelector"]["matchLabels"]["app.kubernetes.io/name"] == "llm-proxy"
    ports = [p["port"] for r in rendering.one("NetworkPolicy", "llm-proxy")["spec"]["egress"] for p in r["ports"]]
    assert ports == [53, 53, 6379, 443, 5432]
    closed = render(merged([EVERYTHING, sets("networkPolicy.allowExternalEgress=false")]))
    ports = [p["port"] for r in closed.one("NetworkPolicy", "llm-proxy")["spec"]["egress"] for p in r["ports"]]
    assert 443 not in ports


@pytest.mark.parametrize(
    ("assignments", "says"),
    [
        ([], ["no management token", "secrets.managementToken.existingSecret.name", "secrets.create=true"]),
        ([], ["no encryption key", "stored in clear"]),
        (["secrets.create=true", "secrets.data.managementToken=x"], ["release's history"]),
        (["secrets.create=true", "secrets.generate=true"], ["Not for GitOps", "kubectl get secret llm-proxy "]),
        (
            ["env.DB_DRIVER=mysql", "secrets.databaseUrl.existingSecret.name=d", "replicaCount=2"],
            ["in-memory event bus"],
        ),
        (["persistence.enabled=false"], ["every restart of the pod loses"]),
        (["secrets.databaseUrl.existingSecret.name=d"], ["secrets.databaseUrl is given but env.DB_DRIVER is sqlite"]),
        (["redis.enabled=true"], ["redis.enabled is reserved and deploys nothing"]),
        (["ingress.enabled=true"], ["/manage and /metrics included", "100.64/10"]),
        (["env.EVENT_SPOOL_MAX_BYTES=2GB"], ["EVENT_SPOOL_MAX_BYTES is 2048MiB"]),
        (["metrics.serviceMonitor.enabled=true"], ["only rendered with metrics.enabled=true"]),
        (["service.type=NodePort"], ["nodePort}"]),
        (["service.type=LoadBalancer"], ["loadBalancer.ingress[0].ip"]),
        (["ingress.enabled=true", "ingress.hosts[0].host=a.example.com"], ["http://a.example.com/"]),
        (["admin.enabled=true"], ["Admin UI", "service/llm-proxy-admin 8081:8081"]),
        ([], ["/health", "claim llm-proxy-data", "Migrations: init"]),
    ],
)
def test_the_notes_say_what_is_seldom_meant(assignments: list[str], says: list[str]) -> None:
    """Each warning of the chart, by what causes it."""
    notes = render(sets(*assignments)).notes
    for words in says:
        assert words in notes


def test_the_notes_of_an_in_cluster_database_and_a_dispatcher() -> None:
    """Host, port, database, user, that it is for development; service, endpoint, bus and the commands to look."""
    notes = render(EVERYTHING).notes
    for words in ("host llm-proxy-postgresql, port 5432, database llmproxy, user llmproxy", "for development only"):
        assert words in notes
    for words in ("Dispatcher: file → /app/data/events.jsonl", "replicas 1, bus redis-streams", "kubectl logs"):
        assert words in notes


def test_a_quiet_installation_has_no_warnings() -> None:
    """What is set up as recommended is not nagged about."""
    assert "WARNINGS" not in render(profiles()["gitops"] | {"env": {"DB_DRIVER": "postgres"}, "replicaCount": 1}).notes
