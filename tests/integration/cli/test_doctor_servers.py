"""`doctor` before real servers that are not as wanted; and the command with its bundle."""

import json
import shutil
import socket
import stat
import time
from typing import Any

import pytest
from click.testing import CliRunner
from support.databases import Server
from support.installation import BAD_REQUEST, KEY, OTHER_KEY, PROVIDER_KEY, Installation, faults, responds_with
from support.redis import RedisServer

from llm_proxy.cli.doctor import provider
from llm_proxy.cli.doctor.command import doctor
from llm_proxy.cli.doctor.database import cause


@pytest.mark.parametrize(
    ("driver", "change", "code"),
    [
        ("postgres", ("/nowhere?", "/no_such_db?"), "database.no-such-database"),
        ("postgres", ("127.0.0.1", "no-such-host.invalid"), "database.unknown-host"),
        ("postgres", ("sslmode=disable", "sslmode=require"), "database.tls"),
        ("postgres", ("sslmode=disable", "sslmode=perhaps"), "database.url"),
        ("mysql", ("se/cr@t:1", "wrong"), "database.authentication"),
        ("mysql", ("parseTime=true", "parseTime=true&tls=true"), "database.tls"),
        ("mysql", ("127.0.0.1", "no-such-host.invalid"), "database.unknown-host"),
    ],
)
def test_database_faults(
    request: pytest.FixtureRequest, healthy: Installation, driver: str, change: tuple[str, str], code: str
) -> None:
    """A real server; password, database, host, TLS and option at fault are told apart, none shown."""
    server: Server = request.getfixturevalue(f"{driver}_server")
    url = server.url("nowhere").replace(*change)
    healthy.variables.update(DB_DRIVER=driver, DATABASE_URL=url)
    assert code in faults(healthy)
    assert "se/cr@t" not in repr(healthy.findings())


@pytest.mark.parametrize(
    ("driver", "form"), [("postgres", "postgres://u:p@127.0.0.1:1/d"), ("mysql", "u:p@tcp(127.0.0.1:1)/d")]
)
def test_database_servers_that_are_away(healthy: Installation, driver: str, form: str) -> None:
    """No server listens: refused, whatever the driver."""
    healthy.variables.update(DB_DRIVER=driver, DATABASE_URL=form)
    assert "database.refused" in faults(healthy)


def test_redis_faults(healthy: Installation, redis_server: RedisServer) -> None:
    """A server that wants a password, a replica, one that evicts; and none at all."""
    healthy.variables.update(LLM_PROXY_EVENT_BUS="redis-streams", REDIS_ADDR=redis_server.addr)
    client: Any = redis_server.client()
    codes = {finding.code for finding in healthy.findings()}
    assert {"redis", "clock.redis"} <= codes
    client.config_set("maxmemory", "100mb")
    client.config_set("maxmemory-policy", "allkeys-lru")
    assert "redis.evicts" in {finding.code for finding in healthy.findings()}
    client.execute_command("REPLICAOF", "127.0.0.1", "1")
    assert "redis.replica" in faults(healthy)
    client.execute_command("REPLICAOF", "NO", "ONE")
    client.config_set("requirepass", "secret-of-redis")
    assert "redis.authentication" in faults(healthy)
    healthy.variables["REDIS_PASSWORD"] = "wrong"
    assert "redis.authentication" in faults(healthy)
    healthy.variables["REDIS_PASSWORD"] = "secret-of-redis"
    assert not {code for code in faults(healthy) if code.startswith("redis.")}
    assert "secret-of-redis" not in repr(healthy.findings())
    client.close()
    for addr, code in (("127.0.0.1:1", "redis.refused"), ("no-such-host.invalid:6379", "redis.unknown-host")):
        healthy.variables["REDIS_ADDR"] = addr
        assert code in faults(healthy)


def test_what_responds_is_no_redis(healthy: Installation) -> None:
    """A web server in Redis' place."""
    healthy.variables["LLM_PROXY_EVENT_BUS"] = "redis-streams"
    responds_with(BAD_REQUEST, "REDIS_ADDR", "{}")(healthy)
    assert "redis.not-redis" in faults(healthy)


@pytest.mark.parametrize(
    ("words", "code"),
    [
        (
            'connection to server at "127.0.0.1", port 5 failed: FATAL:  password authentication failed for user "u"',
            "authentication",
        ),
        ('FATAL:  no pg_hba.conf entry for host "10.0.0.1", user "u", database "d", no encryption', "authentication"),
        ('FATAL:  database "d" does not exist', "no-such-database"),
        ('could not translate host name "db" to address: Name or service not known', "unknown-host"),
        ('connection to server at "10.0.0.1", port 5432 failed: timeout expired', "timeout"),
        ("server does not support SSL, but SSL was required", "tls"),
        ("SSL error: certificate verify failed", "tls"),
        ("(1045, \"Access denied for user 'u'@'localhost' (using password: YES)\")", "authentication"),
        ("(1049, \"Unknown database 'd'\")", "no-such-database"),
        ("(2003, \"Can't connect to MySQL server on '127.0.0.1' ([Errno 111] Connection refused)\")", "refused"),
    ],
)
def test_words_of_drivers(words: str, code: str) -> None:
    """What drivers say, as it was seen; the finding says less."""
    finding = cause(RuntimeError(words), "postgres")
    assert finding.code == f"database.{code}"
    assert "127.0.0.1" not in finding.what + finding.remedy


def test_unknown_words_of_a_driver_are_not_shown() -> None:
    """What is not foreseen is named by kind, because a driver's words may hold anything."""
    finding = cause(RuntimeError("host=db user=u secret=s3cret"), "postgres")
    assert finding.code == "database.error"
    assert "s3cret" not in finding.what


# -- the command ------------------------------------------------------------------------------------------------------


def test_command_and_bundle(healthy: Installation) -> None:
    """Exit code 0 and 1; the bundle is for its owner alone, and holds no secret of settings or log."""
    log = healthy.folder / "proxy.log"
    log.write_text(f'{{"authorization":"Bearer {PROVIDER_KEY}"}}\nthis is a-management-token-of-the-tests\n')
    healthy.variables["LOG_FILE"] = str(log)
    runner = CliRunner(env=healthy.variables)
    well = runner.invoke(doctor, ["--bundle", "bundle.json"])
    assert well.exit_code == 0, well.output
    assert "Nothing is wrong." in well.stdout
    path = healthy.folder / "bundle.json"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    text = path.read_text()
    content = json.loads(text)
    assert set(content) == {"version", "python", "platform", "packages", "findings", "settings", "log"}
    assert content["settings"]["MANAGEMENT_TOKEN"]["value"] == "set"
    assert not [secret for secret in (PROVIDER_KEY, KEY, "a-management-token-of-the-tests") if secret in text]
    again = runner.invoke(doctor, ["--bundle", "bundle.json"])
    assert again.exit_code == 1
    assert "cannot write bundle.json: File exists" in again.stderr
    healthy.variables["ENCRYPTION_KEY"] = OTHER_KEY
    ill = CliRunner(env=healthy.variables).invoke(doctor, ["--json"])
    assert ill.exit_code == 1
    found = {finding["code"]: finding for finding in json.loads(ill.stdout)}
    assert found["keys.unknown"]["level"] == "fault"


def test_a_check_that_fails_hides_no_other(healthy: Installation) -> None:
    """An error inside one side is a finding; all others are still looked at."""
    healthy.patch.setattr(shutil, "disk_usage", lambda _: 1 / 0)
    codes = [finding.code for finding in healthy.findings()]
    assert "doctor.check-failed" in codes
    assert "provider.keys" in codes


def test_it_ends_soon_when_nothing_responds(healthy: Installation) -> None:
    """A provider that accepts and says nothing costs its time limit, no more."""
    assert sum(provider._TIMEOUT_S) <= 15
    healthy.patch.setattr(provider, "_TIMEOUT_S", (0.5, 0.5))
    silent = healthy.undo.enter_context(socket.create_server(("127.0.0.1", 0)))
    healthy.variables["OPENAI_API_URL"] = f"http://127.0.0.1:{silent.getsockname()[1]}"
    began = time.monotonic()
    assert "provider.timeout" in faults(healthy)
    assert time.monotonic() - began < 10
