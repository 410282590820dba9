"""`manage` over HTTP and on the database: the operator's workflow, exit codes, and what is never shown."""

import hashlib
import json
import sqlite3
import ssl
import subprocess
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from support.commands import run
from support.gateway import Gateway

KEY = "sk-a-provider-key-of-the-tests-0123"


def made(variables: dict[str, str], *arguments: str, program: str = "llm-proxy", stdin: str = "") -> Any:
    """Run `manage … --json` and give its document; it must succeed."""
    done = run("manage", *arguments, "--json", variables=variables, stdin=stdin, program=program)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_workflow_over_http(manages: dict[str, str], served: Gateway) -> None:
    """Project, token, a request with it, update, revoke, deactivate: each step shows in the next."""
    project = made(manages, "project", "create", "--name", "team", "--openai-key", "-", stdin=f"{KEY}\n")
    assert project["api_key"] == "sk-a-pro...0123"
    asked = ["--project-id", project["id"], "--duration", "2h", "--max-requests", "5"]
    issued = made(manages, "token", "generate", *asked)
    assert set(issued) == {"id", "token", "expires_at", "max_requests"}
    chat = json.dumps({"model": "gpt-4o", "messages": [{"role": "user", "content": "x"}]}).encode()
    fields = {"Authorization": f"Bearer {issued['token']}", "Content-Type": "application/json"}
    assert served.ask("POST", "/v1/chat/completions", body=chat, headers=fields)[0] == 200
    listed = made(manages, "token", "list", "--project-id", project["id"], "--active-only")
    assert [token["id"] for token in listed] == [issued["id"]]
    assert made(manages, "token", "update", issued["id"], "--max-requests", "none")["max_requests"] is None
    assert made(manages, "token", "revoke", issued["id"]) == {"id": issued["id"], "revoked": True}
    assert made(manages, "token", "get", issued["id"])["status"] == "revoked"
    revoked = made(manages, "project", "revoke-tokens", project["id"])
    assert revoked == {"revoked_count": 0, "already_revoked_count": 1, "total_tokens": 1}
    assert made(manages, "project", "update", project["id"], "--name", "crew")["name"] == "crew"
    assert made(manages, "project", "deactivate", project["id"], "--revoke-tokens")["is_active"] is False
    assert made(manages, "project", "list", "--inactive", "--search", "CREW")[0]["id"] == project["id"]
    assert made(manages, "project", "activate", project["id"])["is_active"] is True


def test_an_issuers_key_is_enough_for_its_work(manages: dict[str, str]) -> None:
    """The key comes from LLM_PROXY_MANAGEMENT_KEY; a 403 names the role that would do; a mistyped key is not sent."""
    project = made(manages, "project", "create", "--name", "sandbox", "--api-key", KEY)
    key = made(manages, "key", "create", "--name", "ci", "--role", "issuer", "--project-id", project["id"])
    issuer = {**manages, "LLM_PROXY_MANAGEMENT_KEY": key["key"]}
    who = run("whoami", variables=issuer)
    assert [line.split(":")[0] for line in who.stdout.splitlines()] == ["Actor", "Role", "Projects", "Expires"]
    assert project["id"] in who.stdout
    assert "key:ci" in who.stdout
    token = made(issuer, "token", "generate", "--project-id", project["id"])
    assert made(issuer, "token", "revoke", token["id"])["revoked"] is True
    refused = run("manage", "project", "list", variables=issuer)
    assert refused.returncode == 1
    assert "HTTP 403: this needs the role viewer" in refused.stderr
    rolled = made(manages, "key", "roll", key["id"], "--overlap", "1h")
    assert run("whoami", variables=issuer).returncode == 0
    assert made(manages, "key", "update", key["id"], "--role", "viewer")["role"] == "viewer"
    assert [item["name"] for item in made(manages, "key", "list", "--search", "CI")] == ["ci"]
    assert made(manages, "key", "revoke", key["id"])["revoked"] is True
    assert run("whoami", variables={**manages, "LLM_PROXY_MANAGEMENT_KEY": rolled["key"]}).returncode == 3
    mistyped = run("whoami", variables={**manages, "LLM_PROXY_MANAGEMENT_KEY": key["key"][:-1] + "-"})
    assert mistyped.returncode == 3
    assert "checksum" in mistyped.stderr


def test_texts_for_people(manages: dict[str, str]) -> None:
    """Columns and lines as the rows name them; the bearer is shown once, its expiry always."""
    project = made(manages, "project", "create", "--name", "texts", "--api-key", KEY)
    shown = run("manage", "project", "list", variables=manages).stdout.splitlines()
    assert shown[0].split() == ["ID", "Name", "API", "Key", "Active", "Created", "Updated"]
    about = run("manage", "project", "get", project["id"], variables=manages).stdout
    assert [line.partition(":")[0] for line in about.splitlines()][:6] == [
        "ID", "Name", "API Key", "Active", "Created", "Updated",
    ]  # fmt: skip
    asked = ("--duration", "30", "--max-total-tokens", "200000", "--max-cost-usd", "5")
    done = run("manage", "token", "generate", "--project-id", project["id"], *asked, variables=manages)
    assert [line.partition(":")[0] for line in done.stdout.splitlines()] == [
        "ID", "Token", "Obfuscated", "Expires at", "Max total tokens", "Max cost USD",
    ]  # fmt: skip
    assert "30 means minutes" in done.stderr
    head = run("manage", "token", "list", variables=manages).stdout.splitlines()[0]
    assert head.split() == ["ID", "Project", "Token", "Status", "Requests", "Cached", "Expires", "Last", "used"]


def test_deletion_is_refused_with_a_hint(manages: dict[str, str]) -> None:
    """Exit code 1, the server's words, and what to do instead."""
    done = run("manage", "project", "delete", "some-id", variables=manages)
    assert done.returncode == 1
    assert "Error: HTTP 405: project deletion is not permitted" in done.stderr
    assert "deactivate some-id" in done.stderr
    as_json = run("manage", "project", "delete", "some-id", "--json", variables=manages)
    assert json.loads(as_json.stderr) == {"error": "project deletion is not permitted", "status": 405}


@pytest.mark.parametrize(
    ("change", "arguments", "code"),
    [
        pytest.param({}, ["project", "list"], 0, id="success"),
        pytest.param({}, ["project", "get", "7f6f7f43-0000-4000-8000-000000000000"], 1, id="not-found"),
        pytest.param({}, ["project", "create", "--name", "x"], 1, id="argument-missing"),
        pytest.param({}, ["project", "nonsense"], 1, id="no-such-command"),
        pytest.param({"MANAGEMENT_API_BASE_URL": "http://127.0.0.1:1"}, ["project", "list"], 2, id="refused"),
        pytest.param({"MANAGEMENT_API_BASE_URL": "https://no-such.invalid"}, ["project", "list"], 2, id="unknown-host"),
        pytest.param({"MANAGEMENT_API_BASE_URL": "ftp://x"}, ["project", "list"], 1, id="no-such-scheme"),
        pytest.param({}, ["project", "list", "--env", "no-such.env"], 1, id="no-env-file"),
        pytest.param({"MANAGEMENT_TOKEN_FILE": "/dev/null"}, ["project", "list"], 1, id="token-given-twice"),
        pytest.param({"MANAGEMENT_TOKEN": ""}, ["project", "list"], 3, id="no-token"),
        pytest.param({"MANAGEMENT_TOKEN": "a-wrong-management-token"}, ["project", "list"], 3, id="wrong-token"),
    ],
)
def test_exit_codes(manages: dict[str, str], change: dict[str, str], arguments: list[str], code: int) -> None:
    """0 success, 1 general, 2 network, 3 authentication; every error is lines that begin with `Error:`."""
    done = run("manage", *arguments, variables=manages | change)
    assert done.returncode == code, done.stderr
    assert bool(done.stderr) == bool(code)
    assert all(line.startswith("Error: ") for line in done.stderr.splitlines())
    assert "Traceback" not in done.stderr


def test_usage_errors_end_with_2_under_flask(alone: dict[str, str]) -> None:
    """Click's own code behind its own program."""
    assert run("manage", "nonsense", variables=alone, program="flask").returncode == 2


@pytest.mark.parametrize("program", ["llm-proxy", "flask"])
def test_json_errors_are_one_document(manages: dict[str, str], alone: dict[str, str], program: str) -> None:
    """On stderr, with the server's words and status; stdout stays empty."""
    variables = manages if program == "llm-proxy" else alone
    if program == "flask":
        assert run("migrate", "up", variables=variables).returncode == 0
    identity = "7f6f7f43-0000-4000-8000-000000000000"
    done = run("manage", "token", "get", identity, "--json", variables=variables, program=program)
    assert (done.returncode, done.stdout) == (1, "")
    assert json.loads(done.stderr) == {"error": "token not found", "status": 404}


def test_flask_door_works_on_the_database(alone: dict[str, str], tmp_path: Path) -> None:
    """No server, no management token; the audit's actor is `cli`; the key is obfuscated, and sealed where it can be."""
    assert run("migrate", "up", variables=alone, program="flask").returncode == 0
    project = made(alone, "project", "create", "--name", "mine", "--openai-key", KEY, program="flask")
    made(alone, "token", "generate", "--project-id", project["id"], program="flask")
    again = made(alone, "project", "list", "--direct")
    assert [p["id"] for p in again] == [project["id"]]
    with sqlite3.connect(alone["DATABASE_PATH"]) as database:
        rows = database.execute("SELECT action, actor, outcome, client_ip FROM audit_events ORDER BY seq, timestamp")
        assert set(rows) >= {
            ("project.create", "cli", "success", None),
            ("token.create", "cli", "success", None),
        }
    database.close()


def test_direct_without_a_schema_names_the_command(alone: dict[str, str]) -> None:
    """One clear line, and nothing is made."""
    done = run("manage", "project", "list", "--direct", variables=alone)
    assert (done.returncode, done.stdout) == (1, "")
    assert "run llm-proxy migrate up" in done.stderr


def test_cache_purge_needs_a_server_where_the_cache_lives(alone: dict[str, str]) -> None:
    """An in-memory cache is not in the database."""
    run("migrate", "up", variables=alone)
    done = run("manage", "cache", "purge", "--all", "--direct", variables=alone)
    assert done.returncode == 1
    assert "give --manage-api-base-url" in done.stderr


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--method", "GET", "--url", "/v1/models/none"], "Cache entry was not found"),
        (["--prefix", "/v1/models/none"], "Cache prefix purge completed: 0 entries deleted"),
        (["--key", "v1:p:a:b"], "Cache purge completed: 0 entries deleted"),
        (["--project-id", "p"], "Cache purge completed: 0 entries deleted"),
        (["--all"], "Cache purge completed: 0 entries deleted"),
    ],
    ids=lambda value: value if isinstance(value, str) else value[0],
)
def test_cache_purge_by_each_scope(manages: dict[str, str], arguments: list[str], said: str) -> None:
    """The reference's texts, and the same over --json."""
    done = run("manage", "cache", "purge", *arguments, variables=manages)
    assert (done.returncode, done.stdout) == (0, said + "\n"), done.stderr
    found = run("manage", "cache", "purge", *arguments, "--json", variables=manages)
    assert json.loads(found.stdout) == {"deleted": False if "--url" in arguments else 0}


def test_cache_purge_of_two_scopes_is_refused(manages: dict[str, str]) -> None:
    """One at a time."""
    done = run("manage", "cache", "purge", "--all", "--key", "v1:p:a:b", variables=manages)
    assert done.returncode == 1
    assert "only one of" in done.stderr


def test_nothing_that_commands_print_is_a_secret(manages: dict[str, str]) -> None:
    """Neither the provider key nor the management token, in success and failure."""
    project = made(manages, "project", "create", "--name", "secrets", "--openai-key", KEY)
    for arguments in (
        ["project", "list"],
        ["project", "get", project["id"]],
        ["project", "update", project["id"], "--openai-key", KEY + "2"],
        ["project", "create", "--name", "secrets", "--openai-key", KEY],
        ["project", "create", "--name", "other", "--openai-key", f"{KEY} blank"],
    ):
        done = run("manage", *arguments, "--json", variables=manages)
        assert KEY not in done.stdout + done.stderr
        assert manages["MANAGEMENT_TOKEN"] not in done.stdout + done.stderr


def test_audit_trail_is_listed_shown_and_exported(manages: dict[str, str]) -> None:
    """Filters reach the API; an export has every record once, the oldest first; a formula stays text in CSV."""
    project = made(manages, "project", "create", "--name", "=HYPERLINK(1)", "--openai-key", KEY)
    audit = ["audit", "list", "--project-id", project["id"], "--action", "project.create", "--json"]
    listed = json.loads(run(*audit, variables=manages).stdout)
    assert listed["pagination"]["total_count"] == 1
    event = listed["events"][0]
    shown = run("audit", "show", event["id"], "-o", "json", variables=manages)
    assert json.loads(shown.stdout) == event
    text = run("audit", "list", "--since", "1h", "--page-size", "2", variables=manages).stdout.splitlines()
    assert text[0].split() == ["Time", "Action", "Actor", "Outcome", "Project", "Token", "Client", "Reason", "ID"]
    assert len(text) == 3
    lines = run("audit", "export", variables=manages).stdout.splitlines()
    events = [json.loads(line) for line in lines]
    assert len({one["id"] for one in events}) == len(events)
    assert [one["timestamp"] for one in events] == sorted(one["timestamp"] for one in events)
    assert event in events
    whole = run("audit", "export", "--json", "--request-id", event["request_id"], variables=manages).stdout
    assert json.loads(whole) == [event]
    table = run("audit", "export", "--format", "csv", "--request-id", event["request_id"], variables=manages).stdout
    assert len(table.splitlines()) == 2
    wrong = run("audit", "list", "--since", "soon", variables=manages)
    assert wrong.returncode == 1
    assert "--since" in wrong.stderr
    assert "expected a time such as" in wrong.stderr


def test_dead_tokens_are_pruned(alone: dict[str, str]) -> None:
    """Counted first, deleted with --yes, recorded; live ones stay."""
    run("migrate", "up", variables=alone)
    project = made(alone, "project", "create", "--name", "mine", "--openai-key", KEY, "--direct")
    for _ in range(2):
        dead = made(alone, "token", "generate", "--project-id", project["id"], "--direct")
    made(alone, "token", "revoke", dead["id"], "--direct")
    counted = run("manage", "token", "prune", "--older-than", "0s", variables=alone)
    assert counted.stdout == "1 tokens would be deleted; confirm with --yes\n", counted.stderr
    assert made(alone, "token", "prune", "--older-than", "90d", "--yes") == {"deleted": 0}
    assert made(alone, "token", "prune", "--older-than", "0s", "--yes") == {"deleted": 1}
    assert len(made(alone, "token", "list", "--direct")) == 1
    found = run("audit", "list", "--action", "system.cleanup", "--direct", "--json", variables=alone)
    assert [json.loads(event["metadata"]) for event in json.loads(found.stdout)["events"]] == [{"deleted": 1}]


def test_old_records_are_pruned(alone: dict[str, str]) -> None:
    """Counted by --dry-run, deleted, recorded; a wrong age is one line."""
    run("migrate", "up", variables=alone)
    made(alone, "project", "create", "--name", "mine", "--openai-key", KEY, "--direct")
    assert run("audit", "prune", "--older-than", "90d", variables=alone).stdout == "0 records deleted\n"
    counted = json.loads(run("audit", "prune", "--older-than", "0s", "--dry-run", "--json", variables=alone).stdout)
    assert counted["would_delete"] > 0
    assert json.loads(run("audit", "prune", "--older-than", "0s", "--json", variables=alone).stdout) == {
        "deleted": counted["would_delete"]
    }
    left = json.loads(run("audit", "list", "--direct", "--json", variables=alone).stdout)["events"]
    assert [event["action"] for event in left if event["action"] != "audit.anchor"] == ["system.cleanup"]
    wrong = run("audit", "prune", "--older-than", "soon", variables=alone)
    assert (wrong.returncode, wrong.stderr.count("\n")) == (1, 1)


class _Listing(BaseHTTPRequestHandler):
    """Answers every GET with an empty list."""

    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("Content-Length", "2")
        self.end_headers()
        self.wfile.write(b"[]")

    def log_message(self, format: str, *args: Any) -> None:
        pass


def test_any_certificate_passes_where_that_is_asked_for(tmp_path: Path) -> None:
    """--insecure holds also where a bundle is set for all of a machine's programs; without it, 2 and one line."""
    for name in ("own", "other"):
        made_by = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "1", "-subj", f"/CN={name}"]
        made_by += ["-keyout", str(tmp_path / f"{name}.key"), "-out", str(tmp_path / f"{name}.pem")]
        subprocess.run(made_by, check=True, capture_output=True)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(tmp_path / "own.pem", tmp_path / "own.key")
    with ThreadingHTTPServer(("127.0.0.1", 0), _Listing) as server:
        server.socket = context.wrap_socket(server.socket, server_side=True)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        url = f"https://127.0.0.1:{server.server_port}"
        reach = {
            "MANAGEMENT_TOKEN": "x" * 16,
            "MANAGEMENT_API_BASE_URL": url,
            "REQUESTS_CA_BUNDLE": f"{tmp_path}/other.pem",
        }
        refused = run("manage", "project", "list", "--json", variables=reach)
        taken = run("manage", "project", "list", "--json", "--insecure", variables=reach)
        server.shutdown()
    assert (refused.returncode, "certificate not accepted" in refused.stderr) == (2, True)
    assert (taken.returncode, taken.stdout) == (0, "[]\n")


def test_a_running_server_tells_of_itself(manages: dict[str, str]) -> None:
    """Rolled tokens, refusals, streams, outcomes, totals, settings and findings are read from the terminal."""
    project = made(manages, "project", "create", "--name", "watched", "--api-key", KEY)
    token = made(manages, "token", "generate", "--project-id", project["id"])
    rolled = made(manages, "token", "roll", token["id"], "--overlap", "1h")
    assert rolled["token"] != token["token"]
    assert made(manages, "token", "get", token["id"])["is_active"] is True
    assert made(manages, "token", "refusals", token["id"]) == []
    assert made(manages, "stream", "list") == []
    assert made(manages, "session", "list") == []
    assert made(manages, "bus")["bus"] == "in-memory"
    assert made(manages, "outcomes", "--token-id", token["id"]) == []
    assert made(manages, "traffic", "--by", "day", "--project-id", project["id"]) == []
    assert made(manages, "audit-chain")["state"] == "never"
    assert made(manages, "audit-chain", "--verify")["state"] == "whole"
    assert made(manages, "token", "lookup", "-", stdin=token["token"])["id"] == token["id"]
    hashed = hashlib.sha256(token["token"].encode()).hexdigest()
    assert made(manages, "token", "lookup", "--sha256", hashed)["id"] == token["id"]
    refused = run("manage", "token", "lookup", token["token"], variables=manages)
    assert (refused.returncode, "process list" in refused.stderr) == (1, True)
    assert made(manages, "token", "revoke", token["id"], rolled["id"])["revoked_count"] == 2
    assert made(manages, "stats")["tokens"]["count"] >= 2
    shown = run("manage", "settings", variables=manages).stdout
    assert "MANAGEMENT_TOKEN" in shown
    assert "Failed today" in run("manage", "stats", variables=manages).stdout
    assert "migrations" in run("manage", "findings", variables=manages).stdout
