"""docs/commands.md, made from the tree: `python -m llm_proxy.cli.docgen docs/commands.md`."""

import re
import sys
from collections.abc import Iterator
from pathlib import Path

import click

from llm_proxy.cli import root
from llm_proxy.cli.manage import ManageCommand

_INTRODUCTION = """# Commands

The same commands are available as `llm-proxy <command>` and as `flask --app wsgi <command>` (outside a checkout
`flask --app llm_proxy.wsgi`). With `llm-proxy`, `manage` and `audit` talk to a server, at `--manage-api-base-url` with
`--management-token`; with `flask` they work on the configured database. `--direct` and the URL switch either way;
`--insecure` accepts any certificate.

- Results go to stdout, everything else to stderr. Where there is a result, `-o table|json|yaml` chooses its form;
  `--json` is `-o json`, errors included.
- Exit codes: 0 success, 1 general, 2 network, 3 authentication, 130 Ctrl-C. With `flask`, wrong usage ends with 2.
- Secrets are taken as they are, from stdin (`-`) or from a file (`@FILE`); on a terminal a missing one is asked for.
- Every command has `-h`, `--help`, `--version`, and `--env PATH` for an env file in place of `.env`.

This page is made from the commands' own help, and a test compares the two:
`python -m llm_proxy.cli.docgen docs/commands.md` writes it again.
"""
_EVERYWHERE = {"help", "version", "env", "output", "insecure", "direct"}
_OF_MANAGE = {"manage_api_base_url", "management_token"}


def as_markdown() -> str:
    """Return the page."""
    return "\n".join([_INTRODUCTION, *_sections(root, "llm-proxy")])


def _sections(group: click.Group, path: str) -> Iterator[str]:
    with click.Context(group) as ctx:
        for name in group.list_commands(ctx):
            command = group.get_command(ctx, name)
            assert command is not None
            words = f"{path} {name}"
            if isinstance(command, click.Group):
                yield from _sections(command, words)
            else:
                yield _section(command, words)


def _section(command: click.Command, words: str) -> str:
    arguments = [_metavar(p) for p in command.params if isinstance(p, click.Argument)]
    lines = [f"## `{' '.join([words, *arguments])}`", "", _paragraphs(command.help or ""), ""]
    hidden = _EVERYWHERE | (
        {"manage_api_base_url", "management_token"} if isinstance(command, ManageCommand) else set()
    )
    options = [p for p in command.params if isinstance(p, click.Option) and p.name not in hidden]
    options = [option for option in options if option.opts != ["--json"] or not option.is_flag]
    if options:
        lines += ["| Option | Meaning |", "|---|---|"]
        lines += [f"| `{_written(option)}` | {_cell(option.help or '')} |" for option in options]
        lines.append("")
    if examples := getattr(command, "examples", ()):
        lines += ["```sh", *examples, "```", ""]
    return "\n".join(lines)


def _paragraphs(text: str) -> str:
    return "\n\n".join(" ".join(part.split()) for part in re.split(r"\n\s*\n", text.strip()))


def _written(option: click.Option) -> str:
    names = ", ".join(option.opts)
    if option.secondary_opts:
        return f"{names} / {', '.join(option.secondary_opts)}"
    if option.is_flag:
        return names
    return f"{names} {_metavar(option)}".replace("|", "\\|")


def _metavar(parameter: click.Parameter) -> str:
    if parameter.metavar:
        return parameter.metavar
    return (
        "|".join(map(str, parameter.type.choices))
        if isinstance(parameter.type, click.Choice)
        else parameter.type.name.upper()
    )


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


if __name__ == "__main__":
    Path(sys.argv[1]).write_text(as_markdown())
