"""What is measured, and what it stands between: each is started once and lives through the whole run."""

import json
import os
import secrets
import shutil
import subprocess
import sys
import urllib.request
from base64 import b64encode
from collections.abc import Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from machine import Process, cpu_s, free_port, is_serving, resident_bytes, tree
from payload import RESPONSE, RESPONSE_FIELDS

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
NGINX = next((path for path in ("/usr/sbin/nginx", "/usr/bin/nginx") if Path(path).exists()), "nginx")


class Contestant:
    """A server on a port, its processes and what they have used.

    Attributes:
        token: What its clients present.
        fields: More fields of each request to it.
        is_counted: Whether the provider must have seen exactly what the load got answered.
    """

    token = "sk-no-token-needed-00000"
    is_counted = True

    @property
    def fields(self) -> Sequence[tuple[str, str]]:
        """None, but for a gateway that is told by them what to do."""
        return ()

    def __init__(self, name: str, process: Process, port: int) -> None:
        self.name, self.process, self.port = name, process, port
        self.stream_port = port

    def cpu_s(self) -> float:
        """CPU time so far, of all its processes."""
        return cpu_s(tree(self.process.pid))

    def worker_bytes(self) -> int:
        """Resident set of its biggest process."""
        return max(resident_bytes(pid) for pid in tree(self.process.pid))

    def stop(self) -> None:
        self.process.stop()


class Direct(Contestant):
    """No contestant at all: load and provider face to face."""

    def __init__(self, upstream: "Upstream") -> None:
        self.name, self.port, self.stream_port = "direct", upstream.port, upstream.direct_stream_port

    def cpu_s(self) -> float:
        return 0.0

    def worker_bytes(self) -> int:
        return 0

    def stop(self) -> None:
        """Nothing was started."""


# -- nginx ------------------------------------------------------------------------------------------------------------


def _nginx_conf(folder: Path, connections: int, http: str) -> str:
    temporary = "\n".join(
        f"    {kind}_temp_path {folder}/{kind};" for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    )
    return f"""
daemon off;
worker_processes 1;
worker_rlimit_nofile {connections * 2 + 64};
pid {folder}/nginx.pid;
error_log {folder}/error.log warn;
events {{ worker_connections {connections * 2}; multi_accept on; }}
http {{
    access_log off;
    default_type application/json;
    keepalive_requests 100000000;
    keepalive_timeout 300s;
    tcp_nodelay on;
{temporary}
{http}
}}
"""


def start_nginx(folder: Path, cores: tuple[int, ...], http: str, connections: int = 2048) -> Process:
    """One worker; it writes everything into `folder`."""
    folder.mkdir()
    folder.chmod(0o777)  # started by root, its worker runs as `nobody`
    (folder / "nginx.conf").write_text(_nginx_conf(folder, connections, http))
    command = [NGINX, "-e", str(folder / "start.log"), "-p", str(folder), "-c", str(folder / "nginx.conf")]
    return Process(command, cores, folder / "output.log", cwd=folder, env=os.environ)


class Upstream:
    """The canned provider (nginx), its own count of what it saw, and the streaming one beside it.

    The direct path has a streaming its own provider on the contestants' core: on the client's core each of the two
    would wait for the other to release it, and no contestant's last step has to.
    """

    def __init__(self, folder: Path, cores: tuple[int, ...], serving: tuple[int, ...]) -> None:
        self.port, self.stream_port, self.direct_stream_port = free_port(), free_port(), free_port()
        fields = "\n".join(f"            add_header {name} '{value}';" for name, value in RESPONSE_FIELDS)
        response = RESPONSE.replace("'", "\\'")
        self.tls_port, self.certificate = free_port(), _certificate(folder)
        tls = ""
        if self.certificate is not None:
            tls = f"""
        listen 127.0.0.1:{self.tls_port} ssl backlog=4096;
        ssl_certificate {self.certificate};
        ssl_certificate_key {self.certificate.with_suffix(".key")};"""
        self._nginx = start_nginx(
            folder / "upstream",
            cores,
            f"""
    server {{
        listen 127.0.0.1:{self.port} backlog=4096;{tls}
        location = /count {{ stub_status; }}
        location / {{
{fields}
            return 200 '{response}';
        }}
    }}""",
        )
        self._streams = [
            self._stream_server(folder, self.stream_port, cores),
            self._stream_server(folder, self.direct_stream_port, serving),
        ]
        self._own_requests = 0
        self._nginx.wait_until(lambda: is_serving(self.port, "/"))
        for process, port in zip(self._streams, (self.stream_port, self.direct_stream_port), strict=True):
            process.wait_until(lambda port=port: is_serving(port, "/"))  # type: ignore[misc]

    @staticmethod
    def _stream_server(folder: Path, port: int, cores: tuple[int, ...]) -> Process:
        command = [sys.executable, str(HERE / "stream_server.py"), str(port)]
        return Process(command, cores, folder / f"streams-{port}.log", cwd=folder, env=os.environ)

    def seen(self) -> int:
        """Return requests seen so far, without the questions about it."""
        with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/count", timeout=5) as response:
            text = response.read().decode()
        self._own_requests += 1
        return int(text.split()[9]) - self._own_requests

    def stop(self) -> None:
        self._nginx.stop()
        for process in self._streams:
            process.stop()


def _certificate(folder: Path) -> Path | None:
    """Make a certificate for localhost with its key beside it; None where openssl is not installed."""
    openssl = shutil.which("openssl")
    if openssl is None:
        return None
    path = folder / "upstream.crt"
    names = ["-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost"]
    usage = ["-addext", "keyUsage=critical,digitalSignature,keyCertSign"]
    command = [openssl, "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", *names, *usage]
    subprocess.run([*command, "-keyout", path.with_suffix(".key"), "-out", path], check=True, capture_output=True)
    path.with_suffix(".key").chmod(0o644)  # nginx's worker is another user
    return path


def nginx_proxy(folder: Path, cores: tuple[int, ...], upstream: Upstream) -> Contestant:
    """nginx as reverse proxy, with connections kept: the physical limit of the machine."""
    port, stream_port = free_port(), free_port()
    shared = 'proxy_http_version 1.1; proxy_set_header Connection "";'
    process = start_nginx(
        folder / "nginx",
        cores,
        f"""
    upstream canned {{ server 127.0.0.1:{upstream.port}; keepalive 1024; }}
    upstream streams {{ server 127.0.0.1:{upstream.stream_port}; keepalive 1024; }}
    server {{
        listen 127.0.0.1:{port} backlog=4096;
        location / {{ proxy_pass http://canned; {shared} }}
    }}
    server {{
        listen 127.0.0.1:{stream_port} backlog=4096;
        location / {{ proxy_pass http://streams; proxy_buffering off; {shared} }}
    }}""",
    )
    process.wait_until(lambda: is_serving(port, "/"))
    found = Contestant("nginx", process, port)
    found.stream_port = stream_port
    return found


# -- the proxy ------------------------------------------------------------------------------------------------------


def _environment(folder: Path, port: int, **ours: str) -> dict[str, str]:
    """Return this process's environment, without any setting of the proxy's but these."""
    kept = {name: os.environ[name] for name in ("PATH", "HOME", "LANG", "TMPDIR") if name in os.environ}
    return kept | {
        "LISTEN_ADDR": f"127.0.0.1:{port}",
        "DATABASE_PATH": str(folder / "llm-proxy.db"),
        "AUDIT_LOG_FILE": str(folder / "audit.log"),
        "MANAGEMENT_TOKEN": secrets.token_hex(16),
        "ENCRYPTION_KEY": b64encode(secrets.token_bytes(32)).decode(),
        "PYTHONPATH": os.pathsep.join((str(ROOT), str(HERE))),
        **ours,
    }


def _gunicorn(folder: Path, cores: tuple[int, ...], app: str, env: Mapping[str, str], ready: str, port: int) -> Process:
    folder.mkdir(exist_ok=True)
    command = [sys.executable, "-m", "gunicorn", "-c", "python:llm_proxy.gunicorn_conf", app]
    process = Process(command, cores, folder / "output.log", cwd=folder, env=env)
    process.wait_until(lambda: is_serving(port, ready))
    return process


def server_alone(folder: Path, cores: tuple[int, ...]) -> Contestant:
    """Start the server layer, one worker, around an application that calls no other server."""
    port = free_port()
    folder = folder / "server"
    env = _environment(folder, port, WEB_CONCURRENCY="1")
    return Contestant("server alone", _gunicorn(folder, cores, "canned_app:app", env, "/", port), port)


class Gateway(Contestant):
    """The whole product, started as operators start it, with a project and a token.

    Args:
        app: Something else around it, for what cannot be seen from outside.
        max_requests: The token's limit; None = unlimited.
        env: More settings.
        token: More facts of the token.
    """

    def __init__(
        self,
        folder: Path,
        cores: tuple[int, ...],
        upstream_port: int,
        name: str,
        *,
        workers: int = 1,
        app: str = "wsgi:app",
        max_requests: int | None = None,
        env: Mapping[str, str] | None = None,
        token: Mapping[str, Any] | None = None,
    ) -> None:
        folder.mkdir()
        port = free_port()
        told = {"WEB_CONCURRENCY": str(workers), "OPENAI_API_URL": f"http://127.0.0.1:{upstream_port}", **(env or {})}
        if "API_CONFIG_PATH" in told:  # the file names the upstream
            del told["OPENAI_API_URL"]
        environment = _environment(folder, port, **told)
        self._management_token = environment["MANAGEMENT_TOKEN"]
        super().__init__(name, _gunicorn(folder, cores, app, environment, "/ready", port), port)
        project = self._manage("POST", "/manage/projects", {"name": "bench", "api_key": "sk-bench-provider-key"})
        wanted = {"project_id": project["id"], "duration_minutes": 60}
        wanted |= {} if max_requests is None else {"max_requests": max_requests}
        wanted |= token or {}
        issued = self._manage("POST", "/manage/tokens", wanted)
        self.token, self._token_id = issued["token"], issued["id"]

    def _manage(self, method: str, path: str, document: Mapping[str, Any] | None = None) -> dict[str, Any]:
        request = urllib.request.Request(
            f"http://127.0.0.1:{self.port}{path}",
            None if document is None else json.dumps(document).encode(),
            {"Authorization": f"Bearer {self._management_token}", "Content-Type": "application/json"},
            method=method,
        )
        with urllib.request.urlopen(request, timeout=10) as response:
            found: dict[str, Any] = json.load(response)
        return found

    def request_count(self) -> int:
        """Return what the token has been charged, as the management API tells it."""
        return int(self._manage("GET", f"/manage/tokens/{self._token_id}")["request_count"])

    def round_trips(self) -> int:
        """Return what `counted:app` has asked its database, over all workers."""
        with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/metrics/prometheus", timeout=10) as response:
            lines = response.read().decode().splitlines()
        return int(sum(float(line.split()[1]) for line in lines if line.startswith("bench_database_round_trips_total")))


def streaming_gateway(folder: Path, cores: tuple[int, ...], upstream: Upstream, name: str) -> Gateway:
    """Return a gateway in front of the streaming provider."""
    return Gateway(folder, cores, upstream.stream_port, name)


def http_parser() -> str:
    """Which of gunicorn's parsers the server layer runs."""
    try:
        return f"C (gunicorn_h1c {version('gunicorn_h1c')})"
    except PackageNotFoundError:
        return "Python"
