"""The tree of commands: found by both programs, readable, silent about secrets, and opening nothing."""

import base64
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from llm_proxy import __version__
from llm_proxy.cli import COMMANDS, SECTIONS, main, root
from llm_proxy.cli.flask_group import FlaskGroup
from llm_proxy.settings import variables

SECRETS = {v.env: f"s3cret-of-{v.env.lower()}" for v in variables().values() if v.secret}
SECRETS |= {name: base64.b64encode(os.urandom(32)).decode() for name in ("ENCRYPTION_KEY", "ENCRYPTION_KEY_PREVIOUS")}


def walk(command: click.Command, path: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    """Every group and command below, by its words."""
    yield path
    if isinstance(command, click.Group):
        with click.Context(command) as ctx:
            for name in command.list_commands(ctx):
                below = command.get_command(ctx, name)
                assert below is not None
                yield from walk(below, (*path, name))


ALL = list(walk(root))


@pytest.mark.parametrize("path", ALL, ids=" ".join)
def test_help_reads_well_and_names_no_secret(path: tuple[str, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    """With every secret in the environment, no help shows one; none is wider than 80 columns."""
    for name, value in SECRETS.items():
        monkeypatch.setenv(name, value)
    for option in ("--help", "-h"):
        result = CliRunner().invoke(root, [*path, option], terminal_width=80)
        assert result.exit_code == 0
        assert max(map(len, result.output.splitlines())) <= 80
        assert not [value for value in SECRETS.values() if value in result.output]


@pytest.mark.parametrize("path", ALL, ids=" ".join)
def test_version_at_every_level(path: tuple[str, ...]) -> None:
    """`--version` tells it anywhere and ends with 0."""
    result = CliRunner().invoke(root, [*path, "--version"])
    assert (result.exit_code, result.output) == (0, f"llm-proxy {__version__}\n")


@pytest.mark.parametrize("path", [path for path in ALL if " ".join(path) in ("", "manage", "manage token", "migrate")])
def test_no_arguments_is_help(path: tuple[str, ...]) -> None:
    """A group alone shows its help and ends with 0."""
    result = CliRunner().invoke(root, path)
    assert result.exit_code == 0
    assert "Commands:" in result.output or "Start here:" in result.output


def test_first_lines_of_the_list_are_those_of_the_commands() -> None:
    """The list is shown without importing anything; it must not promise another command."""
    for name, (_, first_line) in COMMANDS.items():
        with click.Context(root) as ctx:
            command = root.get_command(ctx, name)
        assert command is not None
        assert command.name == name
        assert first_line.endswith(".")


def test_the_first_help_groups_every_command() -> None:
    """Each command stands under one title, and the last line says where to read on."""
    assert sorted(name for names in SECTIONS.values() for name in names) == sorted(COMMANDS)
    shown = CliRunner().invoke(root, ["--help"]).output
    assert [line[:-1] for line in shown.splitlines() if line.rstrip(":") in SECTIONS] == list(SECTIONS)
    assert shown.splitlines()[-1].startswith("Learn more:")


def test_both_doors_lead_to_the_same_commands() -> None:
    """Flask's group finds the very same objects."""
    program = FlaskGroup("llm_proxy", lazy=COMMANDS)
    with click.Context(root) as ctx:
        assert program.list_commands(ctx) == root.list_commands(ctx)
        assert all(program.get_command(ctx, name) is root.get_command(ctx, name) for name in COMMANDS)


@pytest.mark.parametrize("path", ALL, ids=" ".join)
def test_no_option_reads_a_variable_by_itself(path: tuple[str, ...]) -> None:
    """Variables come through the settings alone, never by a prefix that Kubernetes could fill."""
    command: click.Command = root
    for name in path:
        assert isinstance(command, click.Group)
        with click.Context(command) as ctx:
            command = command.get_command(ctx, name) or command
    assert command.context_settings.get("auto_envvar_prefix") is None
    assert not [parameter for parameter in command.params if parameter.envvar]


@pytest.mark.parametrize(
    ("written", "said"),
    [
        ("mange", "No such command 'mange'; did you mean 'manage'? See llm-proxy --help"),
        ("manage tokne list", "No such command 'tokne'; did you mean 'token'? See llm-proxy manage --help"),
        ("completion", "Missing argument '{bash|zsh|fish}'. Choose from: bash, zsh, fish; see llm-proxy completion -"),
    ],
)
def test_a_typing_error_is_one_line_that_helps(
    written: str, said: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """What was meant and where to read on; with --json one document, even where it cannot be parsed any more."""
    for more in ([], ["--nonsense", "--json"]):
        monkeypatch.setattr("sys.argv", ["llm-proxy", *written.split(), *more])
        with pytest.raises(SystemExit) as ended:
            main()
        assert ended.value.code == 1
        stdout, stderr = capsys.readouterr()
        assert stdout == ""
        if more:
            assert json.loads(stderr)["status"] is None
        else:
            assert stderr.startswith(f"Error: {said}")
            assert stderr.count("\n") == 1


@pytest.mark.parametrize("path", ALL, ids=" ".join)
def test_first_lines_are_whole_at_80_columns(path: tuple[str, ...]) -> None:
    """A list of commands that cuts its sentences sends people elsewhere."""
    shown = CliRunner().invoke(root, [*path, "--help"]).output
    assert "..." not in shown.partition("Commands:")[2]


def test_help_writes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In an empty folder, looking at the tree leaves it empty."""
    monkeypatch.chdir(tmp_path)
    for path in ALL:
        CliRunner().invoke(root, [*path, "--help"])
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("module", ["manage", "tokens", "projects", "cache", "audit", "usage"])
def test_help_of_calls_over_http_loads_no_database_library(module: str) -> None:
    """Each TAB starts a process; what only works on the database is imported when it runs."""
    heavy = "{'sqlalchemy', 'alembic', 'flask', 'gevent'}"
    code = f"import sys, llm_proxy.cli.{module}; print(sorted({heavy} & sys.modules.keys()))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout.strip() == "[]"
