"""Other commands as operators run them: migrate, config, setup, chat, benchmark, admin, completion."""

import json
import os
import signal
import socket
import sqlite3
import stat
import subprocess
import urllib.error
import urllib.request
from contextlib import closing
from pathlib import Path

import pytest
from support.commands import PROGRAMS, plain_environment, run
from support.gateway import Gateway, eventually
from support.processes import free_port
from support.provider import Provider

from llm_proxy.settings.load import SAMPLE_MANAGEMENT_TOKEN


@pytest.mark.parametrize("program", PROGRAMS)
def test_migrations_through_both_doors(alone: dict[str, str], program: str) -> None:
    """Status makes no file; up, status, down, version say what the rows say; with nothing left, down fails."""
    before = run("migrate", "status", variables=alone, program=program)
    assert before.stdout == "Current migration version: 0\n"
    assert not Path(alone["DATABASE_PATH"]).exists()
    assert run("migrate", "up", variables=alone, program=program).stdout == "Migrations applied successfully\n"
    status = json.loads(run("migrate", "status", "--json", variables=alone, program=program).stdout)
    assert status["version"] == status["head"] > 0
    assert status["pending"] == []
    done = run("migrate", "down", "--yes", variables=alone, program=program)
    assert done.stdout == "Migration rolled back successfully\n", done.stderr
    version = json.loads(run("migrate", "version", "--json", variables=alone, program=program).stdout)["version"]
    assert version == status["head"] - 1
    nothing = {**alone, "DATABASE_PATH": alone["DATABASE_PATH"] + ".other"}
    done = run("migrate", "down", variables=nothing, program=program)
    assert (done.returncode, done.stdout) == (1, "")


def test_config_check_lists_every_fault(tmp_path: Path) -> None:
    """Variables, provider file and the missing token: a line each, exit code 1."""
    (tmp_path / "p.yaml").write_text("apis: 5\n")
    variables = {"API_CONFIG_PATH": "p.yaml", "WEB_CONCURRENCY": "x", "LOG_LEVEL": "y"}
    done = run("config", "check", variables=variables, folder=tmp_path)
    assert (done.returncode, done.stdout) == (1, "")
    lines = [line for line in done.stderr.splitlines() if line.startswith("Error: ")]
    assert len(lines) >= 4
    assert {line.split("=")[0] for line in lines} >= {"Error: WEB_CONCURRENCY", "Error: LOG_LEVEL"}
    good = run("config", "check", variables={"MANAGEMENT_TOKEN": "a-token-of-my-own"}, folder=tmp_path)
    assert (good.returncode, good.stdout) == (0, "The settings are good.\n")


def test_config_check_warns_of_keys_that_a_provider_file_has_in_vain(tmp_path: Path) -> None:
    """A misspelt key is named with its path, and is no fault."""
    provider = "{base_url: 'https://a.example', allowed_endpoints: [/v1/models], allowed_methods: [GET], alowed: 1}"
    (tmp_path / "p.yaml").write_text(f"default_api: a\napis: {{a: {provider}}}\n")
    variables = {"API_CONFIG_PATH": "p.yaml", "DEFAULT_API_PROVIDER": "a", "MANAGEMENT_TOKEN": "a-token-of-my-own"}
    done = run("config", "check", variables=variables, folder=tmp_path)
    assert (done.returncode, done.stdout) == (0, "The settings are good.\n")
    assert "apis.a.alowed" in done.stderr


def test_config_show_masks_secrets(tmp_path: Path) -> None:
    """Values with where they are from; of a secret only that it is set."""
    (tmp_path / ".env").write_text("API_ENV=from-file\nMANAGEMENT_TOKEN=a-secret-value\n")
    done = run("config", "show", "--json", variables={"LOG_LEVEL": "debug"}, folder=tmp_path)
    shown = {row["variable"]: (row["value"], row["source"]) for row in json.loads(done.stdout)}
    assert shown["API_ENV"] == ("from-file", "env file")
    assert shown["LOG_LEVEL"] == ("debug", "environment")
    assert shown["MANAGEMENT_TOKEN"] == ("set", "env file")
    assert shown["KEEPALIVE_TIMEOUT"] == ("1m15s", "default")
    assert "a-secret-value" not in done.stdout + done.stderr


def test_generated_key_is_a_key() -> None:
    """What it prints can be ENCRYPTION_KEY."""
    key = run("config", "generate-key").stdout.strip()
    assert run("config", "check", variables={"ENCRYPTION_KEY": key, "MANAGEMENT_TOKEN": "x" * 16}).returncode == 0


def test_setup_from_nothing(tmp_path: Path) -> None:
    """An env file for its owner alone, a migrated database, a project and a token that is shown once."""
    done = run("setup", "--openai-key", "@key", folder=_with_key(tmp_path))
    assert done.returncode == 0, done.stderr
    lines = (tmp_path / ".env").read_text().splitlines()
    names = [line.partition("=")[0] for line in lines if not line.startswith("#")]
    assert names == ["MANAGEMENT_TOKEN", "DATABASE_PATH", "LISTEN_ADDR", "LOG_LEVEL", "ENCRYPTION_KEY"]
    assert b"sk-the-key-of-setup" not in (tmp_path / "data" / "llm-proxy.db").read_bytes()
    assert "  llm-proxy server\n" in done.stdout
    assert "curl -N http://localhost:8080/v1/chat/completions -H 'Authorization: Bearer sk-" in done.stdout
    assert stat.S_IMODE((tmp_path / ".env").stat().st_mode) == 0o600
    assert "Token: sk-" in done.stdout
    assert "Expires at: " in done.stdout
    assert "sk-the-key-of-setup" not in done.stdout + done.stderr
    assert "Management token: see MANAGEMENT_TOKEN in .env" in done.stdout
    listed = json.loads(run("manage", "project", "list", "--direct", "--json", folder=tmp_path).stdout)
    assert [project["name"] for project in listed] == ["DefaultProject"]


def _with_key(folder: Path) -> Path:
    (folder / "key").write_text("sk-the-key-of-setup\n")
    return folder


def test_setup_edits_an_existing_file(tmp_path: Path) -> None:
    """Comments, other variables and values that were not mentioned stay; a second project of the name is not made."""
    before = "# mine\nMANAGEMENT_TOKEN=my-management-token\nLOG_LEVEL=debug\nAPI_ENV=prod\n"
    (tmp_path / ".env").write_text(before)
    for _ in range(2):
        done = run("setup", "--openai-key", "@key", "--project", "p", "--duration", "1", folder=_with_key(tmp_path))
        assert done.returncode == 0, done.stderr
    text = (tmp_path / ".env").read_text()
    assert text.startswith(before)
    assert text.count("OPENAI_API_KEY") == 0
    assert text.count("ENCRYPTION_KEY") == 1
    assert "Its earlier tokens keep working: llm-proxy manage token list --project-id p" in done.stderr
    assert stat.S_IMODE((tmp_path / ".env.bak").stat().st_mode) == 0o600
    listed = json.loads(run("manage", "project", "list", "--direct", "--json", folder=tmp_path).stdout)
    assert len(listed) == 1


def test_setup_without_a_key_changes_nothing(tmp_path: Path) -> None:
    """One line, exit code 1, an empty folder."""
    done = run("setup", folder=tmp_path)
    assert done.returncode == 1
    assert done.stderr.endswith("\nError: OpenAI API key is required\n")
    assert "--openai-key -" in done.stderr
    assert list(tmp_path.iterdir()) == []
    assert run("setup", "--skip-project", folder=tmp_path).returncode == 0


def test_chat_streams_a_conversation(served: Gateway) -> None:
    """A line a turn; the history goes along, --no-stream says the same."""
    token = served.token()
    variables = {"PROXY_URL": served.url, "PROXY_TOKEN": token.bearer}
    streamed = run("openai", "chat", variables=variables, stdin="hello\nagain\nquit\nnot sent\n")
    assert streamed.returncode == 0, streamed.stderr
    assert streamed.stdout.count("simulated provider") == 2
    whole = run("openai", "chat", "--no-stream", variables=variables, stdin="hello\nagain\n")
    assert whole.stdout.split() == streamed.stdout.split()


def test_chat_errors_have_exit_codes(served: Gateway) -> None:
    """A wrong token is 3, none is 3, no server is 2; the first failure of piped input ends it."""
    variables = {"PROXY_URL": served.url, "PROXY_TOKEN": "sk-" + "A" * 22}
    wrong = run("openai", "chat", variables=variables, stdin="hello\nagain\n")
    assert (wrong.returncode, wrong.stderr) == (3, "Error: HTTP 401: Token not found\n")
    assert run("openai", "chat", variables={"PROXY_URL": served.url}, stdin="hello\n").returncode == 3
    variables["PROXY_URL"] = "http://127.0.0.1:1"
    assert run("openai", "chat", variables=variables, stdin="hello\n").returncode == 2


def test_benchmark_counts_and_splits_time(served: Gateway, provider: Provider) -> None:
    """Fifty requests at ten at once: all seen by the provider, upstream's time and the proxy's add up to the whole."""
    token = served.token()
    before = provider.state()["requests"]
    body = json.dumps({"model": "gpt-4o", "messages": [{"role": "user", "content": "x"}]})
    arguments = ["--base-url", served.url, "--endpoint", "/v1/chat/completions", "-r", "50", "-c", "10"]
    done = run("benchmark", *arguments, "--json", body, "-o", "json", variables={"PROXY_TOKEN": token.bearer})
    assert done.returncode == 0, done.stderr
    value = json.loads(done.stdout)
    assert (value["success"], value["failed"], value["statuses"]) == (50, 0, {"200": 50})
    assert provider.state()["requests"] - before == 50
    parts = value["upstream_latency_ms"]["avg"] + value["proxy_latency_ms"]["avg"]
    assert parts == pytest.approx(value["latency_ms"]["avg"], abs=0.01)
    wrong = run("benchmark", *arguments[:4], "--token", "sk-" + "A" * 22, "--debug", variables={})
    assert wrong.returncode == 1
    assert "HTTP 401" in wrong.stderr
    assert "A" * 22 not in wrong.stderr + wrong.stdout


def test_admin_process_tells_its_health() -> None:
    """/health tells of both processes, pages want a sign-in; SIGTERM ends it with 0; no token is exit code 3."""
    assert run("admin").returncode == 3
    port = free_port()
    variables = {"MANAGEMENT_TOKEN": "x" * 20, "ADMIN_UI_API_BASE_URL": "http://127.0.0.1:1"}
    command = [*PROGRAMS["llm-proxy"], "admin", "--listen", f"127.0.0.1:{port}"]
    with subprocess.Popen(command, env=plain_environment(variables), stderr=subprocess.PIPE) as process:
        assert process.stderr is not None
        assert b"Listening" in process.stderr.readline()
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=10) as response:
            health = json.loads(response.read())
        assert health["admin"]["status"] == "ok"
        assert health["backend"] == {"status": "down", "error": "Backend unavailable"}
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/projects", timeout=10) as response:
            assert response.url.endswith("/auth/login?next=/projects")
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=10) == 0


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_scripts(shell: str) -> None:
    """A script for each shell; the names that it completes are those of the tree."""
    assert "_LLM_PROXY_COMPLETE" in run("completion", shell).stdout
    variables = {"_LLM_PROXY_COMPLETE": "bash_complete", "COMP_WORDS": "llm-proxy manage pro", "COMP_CWORD": "2"}
    assert run(variables=variables).stdout == "plain,project\n"


def test_server_refuses_in_one_line(tmp_path: Path) -> None:
    """A taken address, a wrong variable and a missing log file end with 1 before anything is made."""
    variables = {"MANAGEMENT_TOKEN": "x" * 20}
    with socket.create_server(("127.0.0.1", 0)) as taken:
        addr = f"127.0.0.1:{taken.getsockname()[1]}"
        done = run("server", "--addr", addr, variables=variables, folder=tmp_path)
        assert done.returncode == 1
        assert done.stderr.startswith(
            f"Error: cannot listen on {addr}: address already in use; stop what listens there"
        )
        assert done.stderr.count("\n") == 1
    done = run("server", "--log-level", "loud", variables=variables, folder=tmp_path)
    assert (done.returncode, done.stderr.count("\n")) == (1, 1)
    done = run("server", "-d", variables=variables, folder=tmp_path)
    assert done.stderr == "Error: --log-file must be specified when running in daemon mode (-d)\n"
    assert done.returncode == 1
    assert list(tmp_path.iterdir()) == []


def test_daemon_keeps_its_flags(tmp_path: Path) -> None:
    """It detaches, answers when the command returns, keeps a pid file, refuses a second start, and ends on SIGTERM."""
    (tmp_path / "my.yaml").write_text(Path(__file__).with_name("provider.yaml").read_text())
    addr = f"127.0.0.1:{free_port()}"
    arguments = [
        "server",
        "-d",
        "--addr",
        addr,
        "--log-file",
        "logs/a.log",
        "--pid-file",
        "run/a.pid",
        "--db",
        "d/x.db",
    ]
    arguments += ["-c", "my.yaml", "-v"]
    variables = {"MANAGEMENT_TOKEN": "x" * 20}
    done = run(*arguments, variables=variables, folder=tmp_path)
    assert done.returncode == 0, done.stderr
    pid = int(done.stdout)
    try:
        assert int((tmp_path / "run" / "a.pid").read_text()) == pid
        assert os.getsid(pid) != os.getsid(0)
        with urllib.request.urlopen(f"http://{addr}/ready", timeout=10) as response:
            assert response.status == 200
        assert (tmp_path / "d" / "x.db").exists()
        second = run(*arguments, variables=variables, folder=tmp_path)
        assert second.returncode == 1
        assert f"already running with pid {pid}" in second.stderr
    finally:
        os.kill(pid, signal.SIGTERM)
    eventually(lambda: not (tmp_path / "run" / "a.pid").exists(), 20, lambda: "the daemon's end")
    log = (tmp_path / "logs" / "a.log").read_text()
    assert '"level":"debug"' in log


def test_server_serves_with_a_copied_example_and_names_of_kubernetes(tmp_path: Path, checkout: Path) -> None:
    """.env.example with only the token filled in starts a server, among the variables that a cluster injects."""
    text = (checkout / ".env.example").read_text().replace(SAMPLE_MANAGEMENT_TOKEN, "a-management-token-of-mine")
    (tmp_path / ".env").write_text(text)
    port = free_port()
    injected = {
        "LLM_PROXY_PORT": "tcp://10.0.0.1:8080",
        "LLM_PROXY_SERVICE_HOST": "10.0.0.1",
        "LLM_PROXY_ADMIN_PORT": "tcp://10.0.0.1:8081",
        "REDIS_PORT": "tcp://10.0.0.2:6379",
        "PORT": "1",
    }
    command = [*PROGRAMS["llm-proxy"], "server", "--addr", f"127.0.0.1:{port}"]
    log = tmp_path / "log"
    with log.open("wb") as out:
        process = subprocess.Popen(command, env=plain_environment(injected), cwd=tmp_path, stdout=out, stderr=out)

    def is_ready() -> bool:
        assert process.poll() is None, log.read_text()
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/ready", timeout=5) as response:
                return bool(response.status == 200)
        except OSError:
            return False

    try:
        eventually(is_ready, 30, log.read_text)
    finally:
        process.terminate()
        code = process.wait(timeout=30)
    assert code == 0, log.read_text()
    assert "did you mean" not in log.read_text()


@pytest.mark.parametrize("program", PROGRAMS)
def test_database_commands(alone: dict[str, str], tmp_path: Path, program: str) -> None:
    """A copy for its owner alone, counts, and tidying, by both; without a schema the command to run is named."""
    missing = run("db", "stats", variables=alone, program=program)
    assert (missing.returncode, "run llm-proxy migrate up" in missing.stderr) == (1, True)
    run("migrate", "up", variables=alone, program=program)
    target = tmp_path / "copy.db"
    assert run("db", "backup", str(target), variables=alone, program=program).returncode == 0
    assert stat.S_IMODE(target.stat().st_mode) == 0o600
    again = run("db", "backup", str(target), variables=alone, program=program)
    assert (again.returncode, again.stderr) == (1, f"Error: {target} already exists\n")
    assert json.loads(run("db", "stats", "--json", variables=alone, program=program).stdout)["projects"] == 0
    assert run("db", "maintain", variables=alone, program=program).stdout == "Done\n"


def test_encryption_is_turned_on_rotated_and_counted(alone: dict[str, str]) -> None:
    """Texts of the rows, exit codes, and an audit record; a server's project keeps its key through all of it."""
    keys = [run("config", "generate-key").stdout.strip() for _ in range(2)]
    run("migrate", "up", variables=alone)
    run(
        "manage", "project", "create", "--name", "a", "--openai-key", "sk-key-of-a-project", "--direct", variables=alone
    )
    none = run("migrate", "encrypt", variables=alone)
    assert (none.returncode, "openssl rand -base64 32" in none.stderr) == (1, True)
    checked = run("migrate", "encrypt-status", "--check", variables=alone)
    assert (checked.returncode, "Plaintext: 1" in checked.stdout) == (1, True)
    assert "1 API keys are stored in clear" in checked.stderr
    first = alone | {"ENCRYPTION_KEY": keys[0]}
    done = run("migrate", "encrypt", variables=first)
    expected = "API keys: 1 encrypted, 0 already encrypted (skipped)\nTokens: 0 hashed, 0 already hashed (skipped)\n"
    assert done.stdout == expected, done.stderr
    second = alone | {"ENCRYPTION_KEY": keys[1], "ENCRYPTION_KEY_PREVIOUS": keys[0]}
    status = json.loads(run("migrate", "encrypt-status", "--json", variables=second).stdout)
    assert list(status["by_key"].values()) == [1]
    lacking = run("migrate", "re-encrypt", variables=alone | {"ENCRYPTION_KEY": keys[1]})
    assert (lacking.returncode, lacking.stdout, lacking.stderr.count("\n")) == (1, "", 1)
    assert "is not in the key ring" in lacking.stderr
    assert status["current_key"] not in status["by_key"]
    assert json.loads(run("migrate", "re-encrypt", "--json", variables=second).stdout)["re_encrypted"] == 1
    assert run("migrate", "encrypt-status", "--check", variables=second).returncode == 0
    refused = run("migrate", "decrypt", variables=second)
    assert (refused.returncode, "--yes" in refused.stderr) == (1, True)
    assert run("migrate", "decrypt", "--yes", variables=second).stdout.startswith("API keys: 1 decrypted")
    with closing(sqlite3.connect(alone["DATABASE_PATH"])) as database:
        assert database.execute("SELECT api_key FROM projects").fetchall() == [("sk-key-of-a-project",)]
        recorded = database.execute("SELECT actor FROM audit_events WHERE action = 'system.encrypt'").fetchall()
    assert recorded == [("cli",)] * 3
