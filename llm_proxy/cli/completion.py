"""`llm-proxy completion`: scripts for shells."""

import click
from click.shell_completion import BashComplete, get_completion_class

from llm_proxy.cli.base import Command

_VARIABLE = "_LLM_PROXY_COMPLETE"


@click.command(
    "completion",
    cls=Command,
    examples=(
        'eval "$(llm-proxy completion bash)"     # in ~/.bashrc',
        'eval "$(llm-proxy completion zsh)"      # in ~/.zshrc, after compinit',
        "llm-proxy completion fish | source      # in ~/.config/fish/config.fish",
    ),
)
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
def completion(shell: str) -> None:
    """Print a completion script."""
    from llm_proxy.cli import root

    kind = get_completion_class(shell)
    assert kind is not None
    script = kind(root, {}, "llm-proxy", _VARIABLE)
    if isinstance(script, BashComplete):  # its source() starts bash to learn its version; the script works from 4.4 on
        click.echo(script.source_template % script.source_vars())
    else:
        click.echo(script.source())
