"""A real API server: etcd and kube-apiserver on loopback, in a temporary folder, without a single node.

The binaries are found in KUBEBUILDER_ASSETS (as `setup-envtest` fills it) or in the path; docs/adr/0072 tells how they
can be built from the Go module proxy.
"""

import contextlib
import json
import os
import shutil
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import requests
from support.processes import end, free_port

_TOKEN = "loopback-only"
_KUBECONFIG = """
apiVersion: v1
kind: Config
clusters: [{name: c, cluster: {server: "SERVER", certificate-authority: "CA"}}]
users: [{name: u, user: {token: "TOKEN"}}]
contexts: [{name: x, context: {cluster: c, user: u}}]
current-context: x
"""


def binary(name: str) -> str | None:
    """Where a binary is; None where it is not."""
    assets = os.environ.get("KUBEBUILDER_ASSETS")
    return shutil.which(name, path=assets) if assets and shutil.which(name, path=assets) else shutil.which(name)


def missing() -> list[str]:
    """What has to be there for a live check and is not."""
    return [name for name in ("etcd", "kube-apiserver") if binary(name) is None]


@dataclass
class ApiServer:
    """A running API server."""

    url: str
    kubeconfig: Path
    certificate: Path  # self-signed by the server at its start

    def __post_init__(self) -> None:
        self._session = requests.Session()
        self._session.trust_env = False
        self._session.verify = str(self.certificate)
        self._session.headers["Authorization"] = f"Bearer {_TOKEN}"
        self._resources: dict[tuple[str, str], str] = {}

    def request(self, method: str, path: str, **more: Any) -> requests.Response:
        return self._session.request(method, self.url + path, timeout=30, **more)

    def apply(self, obj: dict[str, Any], namespace: str, *, dry_run: bool) -> requests.Response:
        """Server-side apply with unknown fields refused."""
        api_version = obj["apiVersion"]
        root = f"/api/{api_version}" if "/" not in api_version else f"/apis/{api_version}"
        plural = self._plural(root, obj["kind"])
        path = f"{root}/namespaces/{namespace}/{plural}/{obj['metadata']['name']}"
        return self.request(
            "PATCH",
            path,
            params={"fieldManager": "chart", "force": "true", "fieldValidation": "Strict"}
            | ({"dryRun": "All"} if dry_run else {}),
            headers={"Content-Type": "application/apply-patch+yaml"},
            data=json.dumps(obj),
        )

    def _plural(self, root: str, kind: str) -> str:
        if (root, kind) not in self._resources:
            for resource in self.request("GET", root).json()["resources"]:
                if "/" not in resource["name"]:
                    self._resources[root, resource["kind"]] = resource["name"]
        return self._resources[root, kind]

    def serves(self, root: str, count: int) -> bool:
        """Whether an API group has at least so many resources by now."""
        response = self.request("GET", root)
        return response.status_code == 200 and len(response.json()["resources"]) >= count

    def get(self, path: str) -> dict[str, Any]:
        response = self.request("GET", path)
        assert response.status_code == 200, response.text
        return dict(response.json())


@contextlib.contextmanager
def api_server(folder: Path) -> Iterator[ApiServer]:
    """Start both processes; they end with the block."""
    client, peer, port = free_port(), free_port(), free_port()
    etcd_url = f"http://127.0.0.1:{client}"
    key = folder / "sa.key"
    subprocess.run(["openssl", "genrsa", "-out", str(key), "2048"], check=True, capture_output=True)
    (folder / "tokens.csv").write_text(f"{_TOKEN},admin,admin,system:masters\n")
    etcd = [
        str(binary("etcd")),
        f"--data-dir={folder / 'etcd'}",
        f"--listen-client-urls={etcd_url}",
        f"--advertise-client-urls={etcd_url}",
        f"--listen-peer-urls=http://127.0.0.1:{peer}",
        f"--initial-advertise-peer-urls=http://127.0.0.1:{peer}",
        f"--initial-cluster=default=http://127.0.0.1:{peer}",
    ]
    server = [
        str(binary("kube-apiserver")),
        f"--etcd-servers={etcd_url}",
        "--bind-address=127.0.0.1",
        f"--secure-port={port}",
        f"--cert-dir={folder / 'certs'}",
        f"--token-auth-file={folder / 'tokens.csv'}",
        "--authorization-mode=AlwaysAllow",
        "--service-account-issuer=https://localhost",
        f"--service-account-key-file={key}",
        f"--service-account-signing-key-file={key}",
        "--service-cluster-ip-range=10.0.0.0/24",
        "--disable-admission-plugins=ServiceAccount",
        "--watch-cache=false",  # an etcd of 3.4, which Debian has, cannot keep it fresh
        "--v=0",
    ]
    log = folder / "apiserver.log"
    with contextlib.ExitStack() as stack, log.open("wb") as out:
        for command in (etcd, server):
            process = subprocess.Popen(command, stdout=out, stderr=out, cwd=folder)
            stack.callback(end, process)
        found = ApiServer(f"https://127.0.0.1:{port}", folder / "kubeconfig", folder / "certs" / "apiserver.crt")
        config = _KUBECONFIG.replace("SERVER", found.url).replace("TOKEN", _TOKEN)
        found.kubeconfig.write_text(config.replace("CA", str(found.certificate)))
        found.kubeconfig.chmod(0o600)
        _wait(found, log)
        yield found


def _wait(server: ApiServer, log: Path) -> None:
    deadline = time.monotonic() + 90
    while time.monotonic() < deadline:
        with contextlib.suppress(requests.RequestException, OSError):  # OSError: no certificate yet
            if server.request("GET", "/readyz").status_code == 200:
                return
        time.sleep(0.3)
    raise AssertionError(log.read_text()[-3000:])


def _approved(group: str) -> dict[str, dict[str, str]]:
    """The annotation without which a server refuses groups of k8s.io."""
    address = "https://github.com/kubernetes-sigs/gateway-api/pull/1538"
    return {"annotations": {"api-approved.kubernetes.io": address}} if group.endswith(".k8s.io") else {}


CUSTOM_RESOURCES = [
    {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": f"{plural}.{group}"} | _approved(group),
        "spec": {
            "group": group,
            "scope": "Namespaced",
            "names": {"plural": plural, "singular": kind.lower(), "kind": kind, "listKind": f"{kind}List"},
            "versions": [
                {
                    "name": "v1",
                    "served": True,
                    "storage": True,
                    "schema": {
                        "openAPIV3Schema": {
                            "type": "object",
                            "properties": {"spec": {"type": "object", "x-kubernetes-preserve-unknown-fields": True}},
                        }
                    },
                }
            ],
        },
    }
    for group, plural, kind in (
        ("monitoring.coreos.com", "servicemonitors", "ServiceMonitor"),
        ("monitoring.coreos.com", "podmonitors", "PodMonitor"),
        ("monitoring.coreos.com", "prometheusrules", "PrometheusRule"),
        ("gateway.networking.k8s.io", "httproutes", "HTTPRoute"),
    )
]
