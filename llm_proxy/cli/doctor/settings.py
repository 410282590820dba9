"""Variables, env file, secret files and provider file."""

import os
import re
from collections.abc import Iterator
from pathlib import Path

from llm_proxy.cli.doctor.finding import CheckContext, Finding, fault, good, warning
from llm_proxy.providers import ProviderFileError, load_provider
from llm_proxy.settings import variables as declared
from llm_proxy.settings.sources import FROM_FILE

_FAULTS = (  # pattern of the loader's line, code, what to do
    (r"^LLM_PROXY_ENV_FILE=", "settings.env-file", "name a readable file with --env or LLM_PROXY_ENV_FILE"),
    (r", line \d+: expected NAME=value$", "settings.env-file-line", "write NAME=value, quotes closed, one a line"),
    (r"_FILE=.*expected to be the only one", "settings.secret-twice", "keep one of the two"),
    (r"_FILE=.*expected a readable file", "settings.secret-file", "correct the path, or let this user read the file"),
    (r"^MANAGEMENT_TOKEN=.*not the sample's", "settings.sample-token", "set MANAGEMENT_TOKEN to a random text"),
    (r"^ENCRYPTION_KEY", "settings.encryption-key", "make one with: llm-proxy config generate-key"),
    (r"not in this version$", "settings.not-in-this-version", "unset it, or install a version that has it"),
    (r"^TLS_\w+_FILE=.*existing file", "settings.tls-file", "correct the path, or unset ENABLE_TLS"),
    (r"^DATABASE_URL is not set", "settings.database-url-missing", "set DATABASE_URL, or DB_DRIVER=sqlite"),
    (r"", "settings.invalid", "docs/settings.md tells each variable's form"),
)
_FILE_FAULTS = (
    (
        r"expected an existing|expected a readable",
        "provider-file.missing",
        "correct API_CONFIG_PATH",
    ),
    (r"^DEFAULT_API_PROVIDER=|default_api", "provider-file.provider", "name a provider that the file has"),
    (r"^OPENAI_API_URL", "provider-file.url", "correct OPENAI_API_URL"),
    (r"", "provider-file.invalid", "correct the file; the packaged one shows what is possible"),
)
_WARNINGS = (
    (r"did you mean", "settings.misspelt", "correct the name, or ignore this"),
    (r"shorter than 16", "settings.weak-token", "set MANAGEMENT_TOKEN to a longer random text"),
    (r"stored in clear", "settings.no-encryption", "set ENCRYPTION_KEY: llm-proxy config generate-key"),
    (r"no effect", "settings.no-effect", "unset it"),
    (r"", "settings.note", "see docs/settings.md"),
)


def variables(context: CheckContext) -> Iterator[Finding]:
    """Everything that the loader found."""
    loaded = context.loaded
    for line in loaded.faults:
        _, code, remedy = next(entry for entry in _FAULTS if re.search(entry[0], line))
        yield fault(code, line, remedy)
    if not loaded.settings.operation.management_token and "MANAGEMENT_TOKEN" not in "".join(loaded.faults):
        remedy = "set it to a random text: the server needs it"
        yield fault("settings.management-token-missing", "MANAGEMENT_TOKEN is not set", remedy)
    for line in loaded.warnings:
        _, code, remedy = next(entry for entry in _WARNINGS if re.search(entry[0], line))
        yield warning(code, line, remedy)
    if not loaded.faults:
        number = sum(variable.env in loaded.sources for variable in declared().values())
        yield good("settings", f"{number} variables are set and understood")


def provider_file(context: CheckContext) -> Iterator[Finding]:
    """Check the provider file, as the server would read it."""
    try:
        found = load_provider(context.settings)
    except ProviderFileError as exc:
        for line in exc.faults:
            _, code, remedy = next(entry for entry in _FILE_FAULTS if re.search(entry[0], line))
            yield fault(code, line, remedy)
        return
    for line in found.warnings:
        yield warning("provider-file.note", line, "see the comments of the packaged provider file")
    yield good("provider-file", f"provider {found.provider.name} at {found.provider.origin}")


def secret_files(context: CheckContext) -> Iterator[Finding]:
    """Files with secrets that other users of the machine can read."""
    env_file = Path(context.env_file)
    if env_file.is_file() and _is_open(env_file) and "=" in env_file.read_text(errors="replace"):
        yield fault("files.env-file-readable", f"{env_file} can be read by others", f"chmod 600 {env_file}")
    for name in FROM_FILE:
        path = os.environ.get(f"{name}_FILE")
        if path and Path(path).is_file() and _is_open(Path(path)):
            yield warning(
                "files.secret-file-readable", f"{name}_FILE={path} can be read by others", f"chmod 600 {path}"
            )


def _is_open(path: Path) -> bool:
    return bool(path.stat().st_mode & 0o077)
