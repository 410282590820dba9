"""Where commands send the management token, and whether that address may have it."""

from urllib.parse import urlsplit

from llm_proxy.cli.environment import ENV_FILE, env_file, environ
from llm_proxy.cli.errors import CommandError
from llm_proxy.cli.output import note
from llm_proxy.cli.ports import place
from llm_proxy.model.addresses import is_loopback
from llm_proxy.settings import Loaded

_FROM_ENV_FILE = "env file"


def management_address(loaded: Loaded) -> tuple[str, str]:
    """Return the server's URL and the variable that it comes from: LISTEN_ADDR where only that is set."""
    found, sources = loaded.settings, loaded.sources
    is_near = found.server.listen_addr.path is None and {"LISTEN_ADDR", "ENABLE_TLS"} & sources.keys()
    if is_near and "MANAGEMENT_API_BASE_URL" not in sources:
        url, _ = place(found.server.listen_addr, is_tls=found.server.enable_tls)  # the same env file's server
        return url, "LISTEN_ADDR"
    return found.commands.management_api_base_url, "MANAGEMENT_API_BASE_URL"


def require_trusted(loaded: Loaded, token_variable: str | None) -> None:
    """Raise CommandError when a `.env` that the caller did not name would choose which host gets the token.

    The `.env` of a folder that came from elsewhere could otherwise send the token of the environment to its author.
    Loopback addresses pass, and so does a token that stands in the same file.

    Args:
        loaded: The settings.
        token_variable: The variable that holds the token; None for a flag and for a prompt.
    """
    url, variable = management_address(loaded)
    if is_this_machine(url) or loaded.sources.get(variable) != _FROM_ENV_FILE or is_env_file_named():
        return
    if token_variable is not None and loaded.sources.get(token_variable) == _FROM_ENV_FILE:
        return
    raise CommandError(
        f"{variable} of .env names another host, but the token is not from .env: it is not sent there; "
        "give --env .env or --manage-api-base-url if that host may have it"
    )


def warn_of_cleartext(url: str) -> None:
    """Tell on stderr that the token can be read on the way, unless TLS or loopback protects it."""
    parts = urlsplit(url)
    if parts.scheme == "http" and not is_this_machine(url):
        note(f"Warning: the management token is sent to {parts.hostname} without TLS; use https://")


def is_env_file_named() -> bool:
    """Return whether the caller named the env file, by flag or by LLM_PROXY_ENV_FILE."""
    return bool(env_file() or environ().get(ENV_FILE))


def is_this_machine(url: str) -> bool:
    """Return whether the URL's host is `localhost` or a loopback address."""
    host = urlsplit(url).hostname
    return host == "localhost" or is_loopback(host)
