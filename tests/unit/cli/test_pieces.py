"""Parts of commands that need no server: forms of values, output, the env file, addresses."""

import json
import os
import socket
import stat
from pathlib import Path
from typing import Any

import click
import pytest
import yaml
from click.testing import CliRunner

from llm_proxy.cli import daemon, envfile, output
from llm_proxy.cli.audit import plain_cell
from llm_proxy.cli.benchmark import Sample, summary
from llm_proxy.cli.errors import AuthenticationError, CommandError
from llm_proxy.cli.listening import require_free
from llm_proxy.cli.management_results import result
from llm_proxy.cli.options import nullable, read_secret
from llm_proxy.cli.projects import segment
from llm_proxy.cli.tokens import duration_minutes
from llm_proxy.settings.declare import address


@pytest.mark.parametrize(
    ("written", "minutes"), [("1440", 1440), ("90m", 90), ("24h", 1440), ("7d", 10080), ("1h30m", 90), ("90s", 2)]
)
def test_duration_is_minutes_unless_it_has_a_unit(written: str, minutes: int) -> None:
    """A bare number is minutes; a part of a minute counts as a whole one."""
    assert duration_minutes(written) == minutes


def test_short_bare_duration_gets_a_hint(capsys: pytest.CaptureFixture[str]) -> None:
    """24 is likely to be meant as hours: said, not assumed."""
    assert duration_minutes("24") == 24
    assert "24 means minutes" in capsys.readouterr().err
    assert duration_minutes("24m") == 24
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("written", ["0", "0h", "-5", "soon", ""])
def test_bad_duration_is_an_error(written: str) -> None:
    """Never a silent default."""
    with pytest.raises(CommandError, match="--duration"):
        duration_minutes(written)


@pytest.mark.parametrize(("written", "value"), [("5", 5), ("none", None), ("0.25", "0.25"), ("0", 0)])
def test_nullable_numbers(written: str, value: Any) -> None:
    """`none` is null, decimals stay texts so that no digit is lost."""
    assert nullable("max_cost_usd", written) == value


def test_nullable_refuses_words() -> None:
    """The message names the flag."""
    with pytest.raises(CommandError, match="--max-cost-usd: expected a number or none"):
        nullable("max_cost_usd", "much")


def test_secret_from_file_stdin_or_as_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """@file and - are read, blanks around it are no part of it."""
    import io

    (tmp_path / "key").write_text("sk-file\n")
    assert read_secret("--key", f"@{tmp_path / 'key'}") == "sk-file"
    assert read_secret("--key", " sk-plain ") == "sk-plain"
    monkeypatch.setattr("sys.stdin", io.StringIO("sk-stdin\nrest"))
    assert read_secret("--key", "-") == "sk-stdin"
    assert read_secret("--key", None, prompt="Key") is None
    with pytest.raises(CommandError, match="missing cannot be read"):
        read_secret("--key", "@missing")


@pytest.mark.parametrize("identity", ["", "a/b", "..", "a b", "a?b", "a%2f"])
def test_ids_stay_one_segment(identity: str) -> None:
    """An id can't lead to another path of the API."""
    with pytest.raises(CommandError, match="no id"):
        segment(identity)


@click.command()
@output.output_options
def _sample() -> None:
    output.emit([{"name": "ä", "n": None}], lambda: output.table(("Name", "N"), [("ä\x1b[0m", None), ("longer", True)]))


def test_forms_of_output() -> None:
    """A table for people, exactly one document for programs; control characters never reach a terminal."""
    assert CliRunner().invoke(_sample, []).output == "Name    N\nä?[0m   -\nlonger  yes\n"
    assert (
        CliRunner().invoke(_sample, ["--json"]).output
        == json.dumps([{"name": "ä", "n": None}], indent=2, ensure_ascii=False) + "\n"
    )
    assert yaml.safe_load(CliRunner().invoke(_sample, ["-o", "yaml"]).output) == [{"name": "ä", "n": None}]


@pytest.mark.parametrize(
    ("status", "content", "kind", "words"),
    [
        (404, b'{"error":"project not found"}', CommandError, "project not found"),
        (
            405,
            b'{"error":"method not allowed","message":"project deletion is not permitted"}',
            CommandError,
            "deletion",
        ),
        (401, b'{"error":"invalid management token"}', AuthenticationError, "invalid management token"),
        (302, b"", CommandError, "redirected"),
        (500, b"<html>", CommandError, "no reason given"),
        (200, b"<html>", CommandError, "is this an llm-proxy"),
    ],
)
def test_answers_become_errors(status: int, content: bytes, kind: type[CommandError], words: str) -> None:
    """The server's own words, and 401 apart because it has its own exit code."""
    with pytest.raises(kind, match=words) as error:
        result(status, content)
    assert type(error.value) is kind


BEFORE = """# mine
export LOG_LEVEL=debug   # keep

OTHER="a # b"
MANAGEMENT_TOKEN=old
"""


def test_env_file_is_edited_in_place(tmp_path: Path) -> None:
    """What is not mentioned stays, a value stays in its place, a new one goes to the end; the old text is kept."""
    path = tmp_path / ".env"
    path.write_text(BEFORE)
    path.chmod(0o644)
    envfile.edit(path, {"MANAGEMENT_TOKEN": "it's new", "OPENAI_API_KEY": "sk-1"}, {"OPENAI_API_KEY": "for setup"})
    expected = BEFORE.replace("MANAGEMENT_TOKEN=old", "MANAGEMENT_TOKEN='it\\'s new'")
    assert path.read_text() == expected + "# for setup\nOPENAI_API_KEY=sk-1\n"
    backup = tmp_path / ".env.bak"
    assert backup.read_text() == BEFORE
    assert [stat.S_IMODE(file.stat().st_mode) for file in (path, backup)] == [0o600, 0o600]
    assert len(list(tmp_path.iterdir())) == 2


@pytest.mark.parametrize("value", ["plain", "a b", "it's", "back\\slash", "#x", '"q"', "$HOME", "ü", "a=b", "\\'"])
def test_written_values_are_read_back(tmp_path: Path, value: str) -> None:
    """Whatever the characters, the loader sees the value that was written."""
    from dotenv import dotenv_values

    path = tmp_path / ".env"
    envfile.edit(path, {"NAME": value})
    assert dotenv_values(path, interpolate=False) == {"NAME": value}


def test_free_and_taken_addresses() -> None:
    """A taken one is one clear line, on v4, and on all addresses at once."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        for written in (f"127.0.0.1:{port}", f":{port}"):
            with pytest.raises(CommandError, match=f"cannot listen on {written}: address already in use"):
                require_free(address(written))
    require_free(address(f"127.0.0.1:{port}"))


def test_unix_socket_addresses(tmp_path: Path) -> None:
    """A socket that responses is taken, one that a dead server left is not."""
    place = address(f"unix:{tmp_path / 'a'}")
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(place.path or "")
        server.listen()
        with pytest.raises(CommandError, match="already in use"):
            require_free(place)
    require_free(place)


def test_pid_files(tmp_path: Path) -> None:
    """A stale one goes, a live one refuses, another file is left alone."""
    path = tmp_path / "sub" / "server.pid"
    daemon.claim(path)
    assert path.parent.is_dir()
    path.write_text("999999999")
    daemon.claim(path)
    assert not path.exists()
    path.write_text(str(os.getpid()))
    with pytest.raises(CommandError, match="already running"):
        daemon.claim(path)
    path.write_text("my notes")
    with pytest.raises(CommandError, match="not an llm-proxy pid file"):
        daemon.claim(path)
    assert path.read_text() == "my notes"


def test_benchmark_summary() -> None:
    """Ten samples of 1 to 10 ms: the figures can be worked out by hand."""
    samples = [Sample(200, number / 1000, number / 2000, number > 8) for number in range(1, 11)]
    value = summary([*samples, Sample(500, 1.0, None, False)], 2, 4, 2.0)
    assert value["latency_ms"] == {"avg": 5.5, "min": 1, "max": 10, "p90": 9, "p90_mean": 5, "p99": 10}
    assert value["upstream_latency_ms"]["max"] == 5
    assert value["proxy_latency_ms"]["avg"] == 2.75
    assert (value["success"], value["failed"], value["cache_hits"], value["requests_per_s"]) == (10, 3, 2, 6.5)
    assert value["statuses"] == {"200": 10, "500": 1}


@pytest.mark.parametrize(
    ("value", "cell"),
    [("=1+1", "'=1+1"), ("@x", "'@x"), ("-1", "'-1"), ("+1", "'+1"), ("\tx", "'\tx"), ("a=b", "a=b"), (None, "")],
)
def test_formulas_stay_text(value: str | None, cell: str) -> None:
    """What a client sent may begin like a formula; a spreadsheet must not run it."""
    assert plain_cell(value) == cell
