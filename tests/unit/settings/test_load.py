"""One load: precedence, every fault at once, what is warned about, and what is never read."""

import base64
from pathlib import Path

import pytest

from llm_proxy.settings import DispatcherSettings, Settings, SettingsError, StorageSettings, load, variables
from llm_proxy.settings.load import SAMPLE_MANAGEMENT_TOKEN

KEY = base64.b64encode(bytes(range(32))).decode()


def test_every_fault_is_named_at_once() -> None:
    """Three wrong variables are three lines; a secret's value is not in any of them."""
    loaded = load({"WEB_CONCURRENCY": "many", "ENCRYPTION_KEY": "tooshort", "KEEPALIVE_TIMEOUT": "0s"})
    assert [fault.split("=")[0] for fault in loaded.faults] == [
        "WEB_CONCURRENCY",
        "KEEPALIVE_TIMEOUT",
        "ENCRYPTION_KEY",
    ]
    assert "tooshort" not in "".join(loaded.faults)
    with pytest.raises(SettingsError) as error:
        loaded.checked()
    assert error.value.faults == loaded.faults


def test_flag_wins_over_environment_over_file_over_default(tmp_path: Path) -> None:
    """Precedence, one step after the other."""
    file = tmp_path / "env"
    file.write_text("LOG_LEVEL=error\nLOG_FORMAT=text\nAPI_ENV=file\n")
    loaded = load({"LOG_LEVEL": "warn", "LOG_FORMAT": "json"}, file, overrides={"LOG_LEVEL": "debug"})
    settings = loaded.settings
    assert (settings.operation.log_level, settings.operation.log_format, settings.server.api_env) == (
        "debug",
        "json",
        "file",
    )
    assert loaded.sources == {"LOG_LEVEL": "flag", "LOG_FORMAT": "environment", "API_ENV": "env file"}
    assert settings.operation.metrics_path == "/metrics"


def test_empty_counts_as_unset() -> None:
    """An empty variable neither overrides nor breaks anything."""
    loaded = load({"WEB_CONCURRENCY": "", "LOG_LEVEL": "  "})
    assert (loaded.faults, loaded.settings.server.web_concurrency, loaded.settings.operation.log_level) == (
        [],
        None,
        "info",
    )


@pytest.mark.parametrize("way", ["environment", "file"])
def test_three_variables_may_be_empty(tmp_path: Path, way: str) -> None:
    """AUDIT_LOG_FILE, EVENT_SPOOL_DIR and DISPATCHER_HEALTH_ADDR: empty means none, in the file too."""
    names = ("AUDIT_LOG_FILE", "EVENT_SPOOL_DIR", "DISPATCHER_HEALTH_ADDR")
    file = tmp_path / "env"
    file.write_text("".join(f"{name}=\n" for name in names) if way == "file" else "")
    settings = load(dict.fromkeys(names, "") if way == "environment" else {}, file).settings
    assert (settings.operation.audit_log_file, settings.events.spool_dir, settings.dispatcher.health_addr) == (
        "",
        "",
        None,
    )


def test_env_file_forms(tmp_path: Path) -> None:
    """export, quotes and comments after a blank are understood; any other line is a fault with its number."""
    file = tmp_path / "env"
    file.write_text(
        "export API_ENV='a b' # c\nLOG_LEVEL=debug # c\nPROXY_TOKEN=\"x#y\"\nnot an assignment\n\n\nBARE\nexport BARE\n"
    )
    loaded = load({}, file)
    assert (
        loaded.settings.server.api_env,
        loaded.settings.operation.log_level,
        loaded.settings.commands.proxy_token,
    ) == ("a b", "debug", "x#y")
    assert loaded.faults == [f"{file}, line {line}: expected NAME=value" for line in (4, 7, 8)]


def test_env_file_does_not_reach_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A reload must see a changed file, so the old value must not pass for the environment's."""
    import os

    monkeypatch.chdir(tmp_path)
    Path(".env").write_text("API_ENV=from-file\n")
    assert load().settings.server.api_env == "from-file"
    assert "API_ENV" not in os.environ


def test_named_env_file_must_be_there() -> None:
    """The default .env may be missing, a named one may not."""
    assert load({}).faults == []
    assert load({}, "missing").faults == ["LLM_PROXY_ENV_FILE=missing: expected an existing file"]
    assert load({"LLM_PROXY_ENV_FILE": "missing"}).faults == ["LLM_PROXY_ENV_FILE=missing: expected an existing file"]


def test_secret_from_a_file(tmp_path: Path) -> None:
    """X_FILE supplies X without the newline; both set, or a missing file, is a fault."""
    file = tmp_path / "key"
    file.write_text(KEY + "\n")
    assert load({"ENCRYPTION_KEY_FILE": str(file)}).settings.storage.encryption_key == bytes(range(32))
    both = load({"ENCRYPTION_KEY_FILE": str(file), "ENCRYPTION_KEY": KEY}).faults
    assert len(both) == 1
    assert "expected to be the only one" in both[0]
    assert KEY not in both[0]
    missing = load({"MANAGEMENT_TOKEN_FILE": str(tmp_path / "no")}).faults
    assert missing == [f"MANAGEMENT_TOKEN_FILE={tmp_path / 'no'}: expected a readable file"]


def test_variables_of_kubernetes_are_ignored() -> None:
    """Services named llm-proxy, redis and database change nothing and are not even warned about."""
    injected = {
        "LLM_PROXY_PORT": "tcp://10.0.0.1:8080",
        "LLM_PROXY_SERVICE_HOST": "10.0.0.1",
        "LLM_PROXY_SERVICE_PORT": "8080",
        "LLM_PROXY_SERVICE_PORT_HTTP": "8080",
        "LLM_PROXY_PORT_8080_TCP": "tcp://10.0.0.1:8080",
        "LLM_PROXY_PORT_8080_TCP_ADDR": "10.0.0.1",
        "REDIS_PORT": "tcp://10.0.0.2:6379",
        "PORT": "8080",
    }
    plain = load({})
    loaded = load(injected)
    assert (loaded.settings, loaded.faults, loaded.warnings) == (plain.settings, [], plain.warnings)


@pytest.mark.parametrize(
    "name", ["ENV", "DEBUG", "CONFIG", "PROJECT", "DURATION", "MODEL", "VERBOSE", "DAEMON", "PORT"]
)
def test_generic_names_are_not_read(name: str) -> None:
    """Names that other programs use steer nothing."""
    assert load({name: "1"}).settings == load({}).settings


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("WEB_CONCURENCY", "WEB_CONCURRENCY"),
        ("MANAGMENT_TOKEN", "MANAGEMENT_TOKEN"),
        ("ENCRYPTION_KEYS", "ENCRYPTION_KEY"),
        ("DATABSE_URL", "DATABASE_URL"),
        ("OPENAI_APIKEY", "OPENAI_API_KEY"),
        ("ENCRYPTION_KEY_FIEL", "ENCRYPTION_KEY_FILE"),
    ],
)
def test_mistyped_names_are_warned_about(name: str, meant: str) -> None:
    """Two typing errors away is near enough to ask."""
    assert f"{name} is not a setting; did you mean {meant}?" in load({name: "x"}).warnings


@pytest.mark.parametrize("name", ["HOSTNAME", "LC_MESSAGES", "POSTGRES_PASSWORD", "MYSQL_DATABASE", "HELICONE_API_KEY"])
def test_other_names_are_left_alone(name: str) -> None:
    """What belongs to others is not warned about."""
    assert load({name: "x"}).warnings == load({}).warnings


def test_many_foreign_variables_cost_little() -> None:
    """A pod with 2,000 injected variables loads in well under a second."""
    import time

    environ = {f"SOME_OTHER_SERVICE_NUMBER_{number}": "x" for number in range(2000)}
    began = time.process_time()
    load(environ)
    assert time.process_time() - began < 1.0


@pytest.mark.parametrize(
    ("environ", "fault"),
    [
        ({"MANAGEMENT_TOKEN": SAMPLE_MANAGEMENT_TOKEN}, "MANAGEMENT_TOKEN=***: expected a value of your own"),
        ({"REQUIRE_ENCRYPTION_KEY": "1"}, "ENCRYPTION_KEY is not set: expected base64"),
        ({"ADMIN_UI_PATH": "/v1/x"}, "ADMIN_UI_PATH=/v1/x: expected a path outside"),
        ({"METRICS_PATH": "/manage"}, "METRICS_PATH=/manage: expected a path outside"),
        ({"DATABASE_PATH": ":memory:", "WEB_CONCURRENCY": "2"}, "WEB_CONCURRENCY=2: expected 1"),
        ({"ENABLE_TLS": "yes"}, "TLS_CERT_FILE=certs/server.crt: expected an existing file"),
        ({"HTTP_CACHE_MEMORY_MAX_BYTES": "1KB"}, "HTTP_CACHE_MEMORY_MAX_BYTES=1024: expected at least"),
        ({"DB_DRIVER": "oracle"}, "DB_DRIVER=oracle: expected one of sqlite, postgres, mysql"),
    ],
)
def test_faults_between_variables(environ: dict[str, str], fault: str) -> None:
    """What only shows when variables are seen together."""
    assert any(found.startswith(fault) for found in load(environ).faults)


def test_secrets_are_not_in_the_representation() -> None:
    """A settings object in a log or a traceback shows no secret."""
    secrets = {variable.env: "s3cret-" + variable.env.lower() for variable in variables().values() if variable.secret}
    secrets |= {"ENCRYPTION_KEY": KEY, "ENCRYPTION_KEY_PREVIOUS": KEY}
    loaded = load(secrets)
    assert "s3cret" not in repr(loaded)
    assert repr(bytes(range(32))) not in repr(loaded)


def test_a_part_is_built_alone_and_a_path_names_a_value() -> None:
    """What is not named has its default; a wrong name is an error, not silence."""
    settings = Settings.from_paths({"dispatcher.timeout_s": 7.0, "storage.url": "postgres://h/d"})
    assert settings == Settings(
        dispatcher=DispatcherSettings(timeout_s=7.0), storage=StorageSettings(url="postgres://h/d")
    )
    assert settings.value("dispatcher.timeout_s") == 7.0
    assert settings.storage.driver == "postgres"
    with pytest.raises(TypeError):
        Settings.from_paths({"dispatcher.timeout": 7.0})
