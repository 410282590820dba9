"""Probes, metrics, logs and errors as operators meet them; no secret anywhere."""

import json
import re
import signal
import subprocess
from pathlib import Path

import pytest
from e2e.proxy.conftest import CHAT
from support.gateway import MANAGEMENT_TOKEN, PROVIDER_KEY, Gateway, Token, eventually, running_gateway
from support.provider import Provider
from support.raw import Client, request

from llm_proxy import __version__

FIELDS = {"ts", "level", "msg", "request_id", "correlation_id", "client_ip", "method", "path", "status_code"}
FIELDS |= {"duration_ms", "project_id", "token_id", "token", "upstream_duration_ms", "proxy_duration_ms"}
FIELDS |= {"request_bytes", "response_bytes", "component", "worker"}


@pytest.mark.parametrize("method", ["GET", "HEAD"])
@pytest.mark.parametrize(
    ("path", "content", "content_type"),
    [
        ("/live", "alive", "text/plain"),
        ("/ready", "ready", "text/plain"),
        ("/health", r'\{"status":"ok","timestamp":"\d{4}-[^"]+Z","version":"VERSION"\}\n', "application/json"),
        (
            "/metrics",
            r'\{"uptime_seconds":[\d.]+,"request_count":\d+,"error_count":\d+,"cache_hits":\d+,"cache_misses":\d+,'
            r'"cache_bypass":\d+,"cache_stores":\d+\}\n',
            "application/json",
        ),
    ],
)
def test_probes(both_lanes: Gateway, path: str, content: str, content_type: str, method: str) -> None:
    """Status 200, the exact body, both ids, whatever the lane."""
    with Client(both_lanes.address) as client:
        response = client.send(request(path, method=method)).response(method)
    assert (response.status, (response.value("Content-Type") or "").startswith(content_type)) == (200, True)
    if method == "GET":
        assert re.fullmatch(content.replace("VERSION", re.escape(__version__)), response.body.decode())
    assert response.value("X-Request-ID")
    assert response.value("X-Correlation-ID")


def test_the_scrape_is_of_the_text_format(gateway: Gateway) -> None:
    """Exactly the documented content type, HELP and TYPE of each required name, no labels on them, no _created."""
    with Client(gateway.address) as client:
        response = client.send(request("/metrics/prometheus")).response()
    assert response.value("Content-Type") == "text/plain; version=0.0.4; charset=utf-8"
    text = response.body.decode()
    for name in ("uptime_seconds", *(f"{word}_total" for word in ("requests", "errors"))):
        assert re.search(rf"^# HELP llm_proxy_{name} \S", text, re.MULTILINE)
        kind = "gauge" if name == "uptime_seconds" else "counter"
        assert re.search(rf"^# TYPE llm_proxy_{name} {kind}$", text, re.MULTILINE)
        assert re.search(rf"^llm_proxy_{name} [\d.e+]+$", text, re.MULTILINE)
    for word in ("hits", "misses", "bypass", "stores"):
        assert re.search(rf"^llm_proxy_cache_{word}_total 0.0$", text, re.MULTILINE)
    assert "_created" not in text


def test_metrics_can_be_off_and_elsewhere(tmp_path: Path, provider: Provider) -> None:
    """ENABLE_METRICS=false: 404; METRICS_PATH moves both forms."""
    (tmp_path / "off").mkdir()
    (tmp_path / "moved").mkdir()
    with running_gateway(tmp_path / "off", provider.url, ENABLE_METRICS="false") as gateway:
        assert gateway.get("/metrics")[0] == gateway.get("/metrics/prometheus")[0] == 404
    with running_gateway(tmp_path / "moved", provider.url, METRICS_PATH="/internal/figures") as gateway:
        assert gateway.get("/internal/figures")[0] == gateway.get("/internal/figures/prometheus")[0] == 200
        assert gateway.get("/metrics")[0] == 404


def test_an_unknown_route_is_json(both_lanes: Gateway) -> None:
    """It says where the API is, for clients whose base URL lacks /v1; not below /manage."""
    status, fields, body = both_lanes.get("/chat/completions")
    assert (status, body) == (404, b'{"error":"Not found","hint":"the API is under /v1","code":"not_found"}\n')
    assert fields["X-Request-ID"]
    headers = {"Authorization": f"Bearer {MANAGEMENT_TOKEN}"}
    assert b"hint" not in both_lanes.get("/manage/nothing", headers)[2]


def test_the_root_says_what_serves(both_lanes: Gateway) -> None:
    """Name, version, and where the API is."""
    status, _, body = both_lanes.get("/")
    assert status == 200
    assert json.loads(body) == {"name": "llm-proxy", "version": __version__, "message": "the API is under /v1"}


@pytest.mark.parametrize("path", ["//manage/projects", "///metrics", "/%6danage/projects", "/%6detrics", "/manage%2fx"])
def test_other_spellings_of_own_paths_are_not_found(gateway: Gateway, path: str) -> None:
    """Rules of an edge by prefix hold."""
    with Client(gateway.address) as client:
        response = client.send(request(path)).response()
    assert (response.status, json.loads(response.body)["code"]) == (404, "not_found")


def test_the_management_api_is_there(both_lanes: Gateway) -> None:
    """401 without its token, a list with it."""
    assert both_lanes.get("/manage/projects")[0] == 401
    status, _, body = both_lanes.get("/manage/projects", {"Authorization": f"Bearer {MANAGEMENT_TOKEN}"})
    assert (status, isinstance(json.loads(body), list)) == (200, True)


def test_the_access_line_has_all_fields(gateway: Gateway, token: Token) -> None:
    """One JSON line a request, with what operators look for; the path without its query."""
    body = gateway.ask("POST", "/v1/chat/completions?a=b", CHAT, token=token, headers={"X-Request-ID": "look-for-me"})[
        2
    ]
    line = gateway.wait_for_access(request_id="look-for-me")[0]
    assert line.keys() >= FIELDS
    assert (line["msg"], line["level"], line["path"]) == ("request completed", "info", "/v1/chat/completions")
    assert (line["request_bytes"], line["response_bytes"]) == (len(CHAT), len(body))
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", line["ts"])
    assert isinstance(line["duration_ms"], int)
    assert abs(line["duration_ms"] - line["upstream_duration_ms"] - line["proxy_duration_ms"]) <= 1
    assert (line["token_id"], line["project_id"]) == (token.id, token.project_id)
    assert line["token"] == f"{token.bearer[:7]}{'*' * 14}{token.bearer[-4:]}"


def test_a_server_error_is_logged_as_one(gateway: Gateway, token: Token) -> None:
    """Status 500 and above: error level and the other message."""
    headers = {"X-Request-ID": "look-for-error", "X-Simulate": "status=503"}
    gateway.ask("POST", "/v1/chat/completions", CHAT, token=token, headers=headers)
    line = gateway.wait_for_access(request_id="look-for-error")[0]
    assert (line["level"], line["msg"]) == ("error", "request completed with server error")


def test_no_secret_is_left_behind(tmp_path: Path, provider: Provider) -> None:
    """Debug log, errors, audit, database and process list hold no bearer, provider key, management token or its key."""
    foreign = "sk-somebody-elses-key-0123456789abcdef"
    with running_gateway(tmp_path, provider.url, LOG_LEVEL="debug") as gateway:
        token = gateway.token()
        gone = gateway.token(is_active=False)
        shown = b""
        for bearer in (token.bearer, gone.bearer, foreign, MANAGEMENT_TOKEN):
            headers = {"Authorization": f"Bearer {bearer}", "Cookie": "session=cookie-value-of-the-admin"}
            for path in ("/v1/models", f"/v1/models?key={foreign}", f"/v1/nothing/{foreign}", "/manage/projects"):
                shown += gateway.get(path, headers | {"X-Request-ID": foreign})[2]
        shown += gateway.ask("POST", "/v1/chat/completions", b"{", token=token)[2]
        gateway.ask("POST", "/v1/chat/completions", CHAT, token=token, headers={"X-Simulate": "garbage=true"})
        processes = subprocess.run(["ps", "axww"], capture_output=True, text=True, check=True).stdout
        listed = [line for line in processes.splitlines() if "gunicorn" in line]
        eventually(lambda: len(gateway.access_lines()) >= 16)
        encryption_key = gateway.env["ENCRYPTION_KEY"]
    secrets = [token.bearer, gone.bearer, foreign, PROVIDER_KEY, MANAGEMENT_TOKEN, "cookie-value-of-the-admin"]
    commands = " ".join(listed)
    places = {"log": gateway.output(), "answers": shown.decode(), "commands": commands}
    for file in (tmp_path / "data").rglob("*"):
        places[file.name] = file.read_bytes().decode("latin-1") if file.is_file() else ""
    for place, text in places.items():
        for secret in (*secrets, encryption_key):
            assert secret not in text, (place, secret)


def test_readiness_tells_what_is_missing(tmp_path: Path, provider: Provider) -> None:
    """A database that is no longer migrated: 503 naming the check, /live goes on."""
    with running_gateway(tmp_path, provider.url) as gateway:
        gateway.execute("UPDATE alembic_version SET version_num = '0000'")
        eventually(lambda: gateway.get("/ready")[0] == 503)
        assert gateway.get("/ready")[2] == b"not ready: migrations"
        assert gateway.get("/live")[2] == b"alive"


def test_a_log_file_is_written_rotated_and_reopened(tmp_path: Path, provider: Provider) -> None:
    """LOG_FILE with mode 0640; SIGUSR1 makes the workers follow a rename."""
    log = tmp_path / "logs" / "proxy.log"
    with running_gateway(tmp_path, provider.url, LOG_FILE=str(log), LOG_FORMAT="text") as gateway:
        gateway.get("/nothing")
        eventually(lambda: "request completed" in log.read_text())
        assert log.stat().st_mode & 0o777 == 0o640
        log.rename(tmp_path / "old.log")
        gateway.process.send_signal(signal.SIGUSR1)
        eventually(log.exists)
        gateway.get("/nothing", {"X-Request-ID": "after-the-rename"})
        eventually(lambda: "after-the-rename" in log.read_text())


def test_streams_can_be_switched_off(tmp_path: Path, provider: Provider) -> None:
    """ENABLE_STREAMING=false: a request for a stream is 400 streaming_disabled, others pass."""
    with running_gateway(tmp_path, provider.url, ENABLE_STREAMING="false") as gateway:
        token, json_type = gateway.token(), {"Content-Type": "application/json"}
        body = CHAT[:-1] + b', "stream": true}'
        status, _, response = gateway.ask("POST", "/v1/chat/completions", body, token=token, headers=json_type)
        assert (status, json.loads(response)["code"]) == (400, "streaming_disabled")
        assert gateway.ask("POST", "/v1/chat/completions", CHAT, token=token, headers=json_type)[0] == 200


def test_the_client_address_is_taken_from_trusted_proxies(tmp_path: Path, provider: Provider) -> None:
    """TRUSTED_PROXIES: the right-most entry outside the list; no other address is believed."""
    with running_gateway(tmp_path, provider.url, TRUSTED_PROXIES="127.0.0.0/8,10.0.0.0/8") as gateway:
        token = gateway.token()
        headers = {"X-Forwarded-For": "6.6.6.6, 203.0.113.7, 10.1.2.3", "X-Request-ID": "forwarded"}
        gateway.ask("GET", "/v1/models", token=token, headers=headers)
        assert gateway.wait_for_access(request_id="forwarded")[0]["client_ip"] == "203.0.113.7"
        gateway.get("/nothing", headers | {"X-Request-ID": "elsewhere"})
        assert gateway.wait_for_access(request_id="elsewhere")[0]["client_ip"] == "203.0.113.7"
