"""The chart's pods as they are rendered, run by the image: environment, arguments, probes, `helm test`.

A pod's network has nothing but loopback, and the Services' names mean loopback in it, so that every address and port is
the one that the manifests state.
"""

import base64
import subprocess
from collections.abc import Callable
from typing import Any

from chart.engine import Object, Rendering, Values, merged, render, sets
from image import containers, databases

PASSWORD = "q/1+Z=9w@x:y?#%&$'\"`\\ z=="
TOKEN = "a-management-token-of-some-length"
KEY = base64.b64encode(b"k" * 32).decode()
SECRETS = {"llm-proxy-secrets": {"MANAGEMENT_TOKEN": TOKEN, "ENCRYPTION_KEY": KEY}}
NAMED = sets(
    "secrets.managementToken.existingSecret.name=llm-proxy-secrets",
    "secrets.encryptionKey.existingSecret.name=llm-proxy-secrets",
    "secrets.encryptionKey.required=true",
)


def environment(rendering: Rendering, container: Object) -> dict[str, str]:
    """What the kubelet would make of a container's `env`."""
    found = {}
    for entry in container["env"]:
        if "value" in entry:
            found[entry["name"]] = entry["value"]
        elif "fieldRef" in entry["valueFrom"]:
            found[entry["name"]] = "the-pods-name"
        else:
            ref = entry["valueFrom"]["secretKeyRef"]
            found[entry["name"]] = secret(rendering, ref["name"], ref["key"])
    return found


def secret(rendering: Rendering, name: str, key: str) -> str:
    if name in SECRETS:
        return SECRETS[name][key]
    return base64.b64decode(rendering.one("Secret", name)["data"][key]).decode()


def start(pod: containers.Pod, rendering: Rendering, name: str) -> containers.Container:
    """A container of the rendering, as the user of its pod."""
    container = rendering.container(name)
    return pod.start(*container["args"], env=environment(rendering, container))


def serve(pod: containers.Pod, rendering: Rendering) -> containers.Container:
    """The proxy's pod: the init container to its end, then the proxy until it is ready."""
    migrate = start(pod, rendering, "migrate")
    assert migrate.process.wait(90) == 0, migrate.printed()
    server = start(pod, rendering, "llm-proxy")
    pod.wait(probe(rendering, "llm-proxy", "readinessProbe"), server, 90)
    assert pod.request(probe(rendering, "llm-proxy", "livenessProbe"))[0] == 200
    return server


def probe(rendering: Rendering, name: str, kind: str) -> str:
    """The URL that a probe asks."""
    container = rendering.container(name)
    asked = container[kind]["httpGet"]
    port = next(p["containerPort"] for p in container["ports"] if p["name"] == asked["port"])
    return f"http://127.0.0.1:{port}{asked['path']}"


def helm_test(pod: containers.Pod, rendering: Rendering) -> None:
    """The test pod's container ends well."""
    args = rendering.container("test")["args"]
    done = pod.start(*args)
    assert done.process.wait(60) == 0, done.printed()


def works(pod: containers.Pod, port: int = 8080) -> None:
    """A project can be made and is found again: the database is really there."""
    headers = {"Authorization": f"Bearer {TOKEN}", "Content-Type": "application/json"}
    url = f"http://127.0.0.1:{port}/manage/projects"
    status, text = pod.request(url, "POST", headers, '{"name": "first", "api_key": "sk-of-the-provider"}')
    assert status in (200, 201), text
    status, text = pod.request(url, headers=headers)
    assert status == 200
    assert '"first"' in text


def postgresql(pod: containers.Pod, rendering: Rendering) -> None:
    container = rendering.container("postgresql")
    name = "llm-proxy-postgresql"
    pair = {k: base64.b64decode(v) for k, v in rendering.one("Secret", f"{name}-tls")["data"].items()}
    password = secret(rendering, name, "password")
    server = databases.postgresql(pod, container["args"], password, pair["tls.crt"], pair["tls.key"])
    words = container["readinessProbe"]["exec"]["command"]
    databases.until(pod, [str(databases.binary(words[0])), *words[1:]], server)


def missing(tell: Callable[[str], object], *programs: str) -> bool:
    """Whether a program is not here, noted for the end of the run."""
    lacking = [name for name in programs if databases.binary(name) is None]
    if lacking:
        tell(f"the chart's pods with a database or Redis: {', '.join(lacking)} missing")
    return bool(lacking)


def test_the_default_pod_migrates_serves_and_drains(pod: containers.Pod | None) -> None:
    """SQLite, on its own port: init container, probes, preStop, `helm test`, SIGTERM."""
    if pod is None:
        return
    rendering = render(merged([NAMED, sets("service.port=8080", "service.targetPort=9000")]))
    server = serve(pod, rendering)
    works(pod, 9000)
    same = render(NAMED)
    assert rendering.container("test")["args"] == same.container("test")["args"]
    stop = rendering.container()["lifecycle"]["preStop"]["exec"]["command"]
    assert pod.run(stop[0], "0").returncode == 0
    assert pod.run("python", "/app/healthcheck.py", env={"LISTEN_ADDR": ":9000"}).returncode == 0
    assert server.stop() == 0, server.printed()


def test_helm_test_passes(pod: containers.Pod | None) -> None:
    """The test pod's own command, against the default installation; it fails where nothing serves."""
    if pod is None:
        return
    rendering = render(NAMED)
    nobody = pod.start(*rendering.container("test")["args"])
    assert nobody.process.wait(60) != 0
    server = serve(pod, rendering)
    helm_test(pod, rendering)
    assert server.stop() == 0, server.printed()


def test_the_admin_uis_pod_becomes_ready(pod: containers.Pod | None) -> None:
    """Both probes of the admin UI get 200, before the proxy is there as well: a pod without it is no dead pod."""
    if pod is None:
        return
    rendering = render(merged([NAMED, sets("admin.enabled=true")]))
    admin = start(pod, rendering, "admin")
    for kind in ("livenessProbe", "readinessProbe"):
        pod.wait(probe(rendering, "admin", kind), admin)
    assert pod.run("python", "/app/healthcheck.py").returncode == 0
    admin.stop()
    assert TOKEN not in admin.printed()


def test_postgresql_with_tls_and_a_hostile_password(pod: containers.Pod | None, tell: Callable[[str], object]) -> None:
    """sslmode=require connects to the chart's own certificate; any password works; events go to Redis, dispatched."""
    if pod is None or missing(tell, "initdb", "redis-server"):
        return
    values = _in_cluster("postgresql", "postgres")
    rendering = render(values)
    postgresql(pod, rendering)
    databases.redis(pod)
    server = serve(pod, rendering)
    works(pod)
    dispatcher = start(pod, rendering, "dispatcher")
    pod.wait(probe(rendering, "dispatcher", "readinessProbe"), dispatcher)
    assert pod.request(probe(rendering, "dispatcher", "livenessProbe"))[0] == 200
    helm_test(pod, rendering)
    assert pod.run("python", "/app/healthcheck.py").returncode == 0  # the dispatcher started last: its own beat
    assert dispatcher.stop() == 0, dispatcher.printed()
    assert server.stop() == 0, server.printed()
    assert PASSWORD not in server.printed() + dispatcher.printed()


def test_mysql_with_a_hostile_password(pod: containers.Pod | None, tell: Callable[[str], object]) -> None:
    """The DSN without a password and DATABASE_PASSWORD beside it connect; the pod's own probe gets in as well."""
    if pod is None or missing(tell, "mysqladmin", "mariadbd"):
        return
    rendering = render(_in_cluster("mysql", "mysql", dispatcher=False))
    container = rendering.container("mysql")
    password = secret(rendering, "llm-proxy-mysql", "mysql-password")
    args = [a for a in container["args"] if not a.startswith("--ssl")]
    database = databases.mysql(pod, args, password)
    file = pod.folders[-1] / "password"
    file.write_text(password)
    script = container["readinessProbe"]["exec"]["command"][-1].replace("/etc/mysql/auth/password", str(file))
    databases.until(pod, ["env", "-i", "PATH=/usr/bin:/bin", "MYSQL_USER=llmproxy", "bash", "-ec", script], database)
    wrong = ["env", "-i", "PATH=/usr/bin:/bin", "MYSQL_USER=llmproxy", "bash", "-ec", script.replace("ping", "status")]
    assert subprocess.run(pod.inside(wrong), capture_output=True).returncode == 0
    server = serve(pod, rendering)
    works(pod)
    assert server.stop() == 0, server.printed()
    assert PASSWORD not in server.printed()


def _in_cluster(name: str, driver: str, *, dispatcher: bool = True) -> Values:
    more: list[Any] = [
        NAMED,
        sets(f"env.DB_DRIVER={driver}", f"{name}.enabled=true"),
        {name: {"auth": {"password": PASSWORD}}},
    ]
    if name == "mysql":
        more.append({"mysql": {"auth": {"rootPassword": PASSWORD}}})
    if dispatcher:
        more.append(
            sets(
                "env.LLM_PROXY_EVENT_BUS=redis-streams",
                "redis.external.addr=redis:6379",
                "dispatcher.enabled=true",
                "metrics.enabled=true",
            )
        )
    return merged(more)
