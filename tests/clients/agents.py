"""Runs Claude Code and Codex CLI headless through the proxy, before simulated providers, and prints what each said.

Not among the tests, because the two packages have 650 MB:

    npm install --prefix /tmp/agents @anthropic-ai/claude-code @openai/codex
    PYTHONPATH=tests python tests/clients/agents.py /tmp/agents
"""

import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

from support.side_by_side import running_side_by_side

UNKNOWN = "sk-" + "a" * 22
QUIET = {"CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC": "1", "DISABLE_AUTOUPDATER": "1"}
CODEX = """
model = "gpt-4o"
model_provider = "company"
[model_providers.company]
name = "Company gateway"
base_url = "{url}/v1"
env_key = "LLM_TOKEN"
wire_api = "responses"
"""


def said(folder: Path, bin_folder: Path, command: Sequence[str], **variables: str) -> str:
    """Run a program in an empty home; return its exit code and what it wrote."""
    env: Mapping[str, str] = {"PATH": f"{bin_folder}:{os.environ['PATH']}", "HOME": str(folder), **variables}
    done = subprocess.run(
        command, cwd=folder, env=env, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=120
    )
    return f"exit {done.returncode}: {(done.stdout + done.stderr).strip()[-600:]}"


def main() -> None:
    """Ask each program once with a good token and once with an unknown one."""
    bin_folder = Path(sys.argv[1]) / "node_modules" / ".bin"
    with tempfile.TemporaryDirectory() as made:
        folder = Path(made)
        with running_side_by_side(folder, ("openai", "anthropic")) as side:
            (folder / "home" / ".codex").mkdir(parents=True)
            (folder / "home" / ".codex" / "config.toml").write_text(CODEX.format(url=side.url))
            claude = ("claude", "-p", "Say hello", "--model", "claude-sonnet-4-5")
            codex = ("codex", "exec", "--skip-git-repo-check", "Say hello")
            for token in (side.token(), UNKNOWN):
                base = {"ANTHROPIC_BASE_URL": f"{side.url}/anthropic", **QUIET}
                for name in ("ANTHROPIC_AUTH_TOKEN", "ANTHROPIC_API_KEY"):
                    print(f"claude, {name}:", said(folder / "home", bin_folder, claude, **base, **{name: token}))
                print("codex:", said(folder / "home", bin_folder, codex, LLM_TOKEN=token))


if __name__ == "__main__":
    main()
