"""Where a variable's text comes from: flags, the environment, the env file, secret files."""

import re
from collections.abc import Mapping
from pathlib import Path

from dotenv.parser import parse_stream

from llm_proxy.settings.schema import variables
from llm_proxy.settings.variable import UNSET

FROM_FILE = (  # X_FILE supplies X
    "MANAGEMENT_TOKEN",
    "MANAGEMENT_TOKEN_PREVIOUS",
    "ENCRYPTION_KEY",
    "ENCRYPTION_KEY_PREVIOUS",
    "DATABASE_URL",
    "DATABASE_PASSWORD",
    "REDIS_PASSWORD",
    "REDIS_CACHE_URL",
    "DISTRIBUTED_RATE_LIMIT_KEY_SECRET",
    "LLM_PROXY_API_KEY",
    "LLM_PROXY_MANAGEMENT_KEY",
    "ADMIN_OIDC_CLIENT_SECRET",
)
_KUBERNETES = re.compile(r"_(?:SERVICE_HOST|SERVICE_PORT\w*|PORT|PORT_[0-9]+_(?:TCP|UDP|SCTP)\w*)$")

Texts = dict[str, tuple[str, str]]


def merge(
    environ: Mapping[str, str], env_file: str | Path | None, overrides: Mapping[str, str], faults: list[str]
) -> Texts:
    """Variable → (text, source). Kubernetes' service variables are left out, and empty ones that mean nothing."""
    merged: Texts = {}
    for source, texts in (
        ("env file", _from_env_file(environ, env_file, faults)),
        ("environment", environ),
        ("flag", overrides),
    ):
        merged |= {name: (text, source) for name, text in texts.items() if _counts(name, text)}
    for name in FROM_FILE:
        _read_secret_file(name, merged, faults)
    return merged


def _counts(name: str, text: str) -> bool:
    return not _KUBERNETES.search(name) and (bool(text.strip()) or name in _MAY_BE_EMPTY)


_MAY_BE_EMPTY = {variable.env for variable in variables().values() if variable.empty is not UNSET}


def _from_env_file(environ: Mapping[str, str], env_file: str | Path | None, faults: list[str]) -> dict[str, str]:
    """Read the file. One that was asked for must be there; each line that is no assignment is a fault."""
    asked = env_file if env_file is not None else environ.get("LLM_PROXY_ENV_FILE") or None
    path = Path(asked) if asked is not None else Path(".env")
    if not path.exists() or path.is_dir():
        if asked is not None:
            faults.append(f"LLM_PROXY_ENV_FILE={path}: expected an existing file")
        return {}
    texts: dict[str, str] = {}
    try:
        with path.open(encoding="utf-8") as lines:
            for binding in parse_stream(lines):
                if not binding.error and binding.key is not None and binding.value is not None:
                    texts[binding.key] = binding.value
                elif binding.error or binding.key is not None:
                    written = binding.original.string
                    line = binding.original.line + written[: -len(written.lstrip()) or None].count("\n")
                    faults.append(f"{path}, line {line}: expected NAME=value")
    except (OSError, UnicodeDecodeError):
        faults.append(f"LLM_PROXY_ENV_FILE={path}: expected a readable UTF-8 file")
    return texts


def _read_secret_file(name: str, merged: Texts, faults: list[str]) -> None:
    if f"{name}_FILE" not in merged:
        return
    path = merged[f"{name}_FILE"][0].strip()
    if name in merged:
        faults.append(f"{name}_FILE={path}: expected to be the only one of {name} and {name}_FILE")
        return
    try:
        text = Path(path).read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError):
        faults.append(f"{name}_FILE={path}: expected a readable file")
        return
    if text:
        merged[name] = (text, "secret file")
