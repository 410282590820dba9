"""docs/settings.md and .env.example, made from the declarations: `python -m llm_proxy.settings.docgen PAGE EXAMPLE`."""

import sys
from dataclasses import fields
from pathlib import Path

from llm_proxy.settings.load import SAMPLE_MANAGEMENT_TOKEN
from llm_proxy.settings.schema import PARTS
from llm_proxy.settings.sources import FROM_FILE
from llm_proxy.settings.variable import Variable, file_path, text, words

_TITLES = {
    "server": "Server",
    "upstream": "Provider and upstream",
    "websocket": "WebSocket",
    "storage": "Database and keys",
    "tokens": "Tokens",
    "limits": "Rate limits",
    "cache": "Response cache",
    "redis": "Redis",
    "events": "Events",
    "dispatcher": "Dispatcher",
    "operation": "Management, logs, metrics",
    "sign_in": "Sign-in of people",
    "commands": "Commands",
}
_FORMS = {text: "text", words: "a comma list", file_path: "a path"}
_INTRODUCTION = f"""# Settings

Everything is set by environment variables. A command's flag wins over the environment, the environment over the env
file (`.env` in the working directory, or the one that `--env` or `LLM_PROXY_ENV_FILE` names), and that over the default.

- The empty value counts as not set, except where *empty* has a meaning of its own below.
- Durations: `30s`, `5m`, `1h30m`, `250ms`, `7d`; a bare number is seconds. Sizes: bytes, or `512KB`, `10MB`, `1GB`
  (×1024). Booleans: `true`/`false`, `yes`/`no`, `on`/`off`, `1`/`0`, in any case.
- A value that is not understood stops the start; `llm-proxy config check` lists every fault at once, and
  `llm-proxy config show` prints what is in effect, with secrets masked.
- `<NAME>_FILE` names a file with the value, for {", ".join(f"`{name}`" for name in FROM_FILE)}.
- Variables that Kubernetes makes up for Services (`*_PORT`, `*_SERVICE_HOST`, …) are never read, nor is `PORT`.
- On SIGHUP the env file, `_FILE` files and the provider file are read again; the environment cannot change.

This page is made from the declarations in `llm_proxy/settings/`, and a test compares the two:
`python -m llm_proxy.settings.docgen docs/settings.md .env.example` writes it again.
"""
_EXAMPLE_HEAD = """\
# Settings of llm-proxy. Copy this file to .env and replace the one line below; everything else is optional.
# Each variable is shown with its default. docs/settings.md tells what forms a value may have.

"""


def as_markdown() -> str:
    """Return the page."""
    pieces = [_INTRODUCTION]
    for name, part in PARTS.items():
        pieces.append(
            f"## {_TITLES[name]}\n\n{part.__doc__}\n\n| Variable | Default | Form | Meaning |\n|---|---|---|---|\n"
        )
        pieces[-1] += "".join(_row(field.metadata["variable"]) for field in fields(part))
    return "\n".join(pieces)


def _row(variable: Variable) -> str:
    default = "–" if variable.default in (None, "") else f"`{variable.default}`"
    marks = " *Secret.*" if variable.secret else ""
    marks += " *Required to serve.*" if variable.env == "MANAGEMENT_TOKEN" else ""
    return f"| `{variable.env}` | {default} | {form(variable)} | {variable.help}{marks} |\n".replace("||", "| |")


def form(variable: Variable) -> str:
    """Return what the parser accepts, in its own words: those of its complaint."""
    if variable.parse in _FORMS:
        return _FORMS[variable.parse]
    try:
        variable.parse("\0")
    except ValueError as exc:
        return str(exc)
    raise AssertionError(f"{variable.env} takes anything; give its parser a name in _FORMS")


def as_env_example() -> str:
    """Return the env file to start from: one line to fill in, the rest commented out at its default."""
    pieces = [
        _EXAMPLE_HEAD,
        "# Bearer of the management API: python3 -c 'import secrets; print(secrets.token_urlsafe(32))'\n",
    ]
    pieces.append(f"MANAGEMENT_TOKEN={SAMPLE_MANAGEMENT_TOKEN}\n")
    for name, part in PARTS.items():
        pieces.append(f"\n# -- {_TITLES[name]} " + "-" * (74 - len(_TITLES[name])) + "\n")
        for field in fields(part):
            variable: Variable = field.metadata["variable"]
            if variable.env != "MANAGEMENT_TOKEN":
                pieces.append(f"\n# {variable.help}\n# {variable.env}={variable.default or ''}\n")
    return "".join(pieces)


if __name__ == "__main__":
    Path(sys.argv[1]).write_text(as_markdown())
    Path(sys.argv[2]).write_text(as_env_example())
