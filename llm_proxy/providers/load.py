"""From the settings to the one provider that a process serves."""

from collections.abc import Hashable, Sequence
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path
from typing import Any

import yaml

from llm_proxy.providers.allow_list import RESERVED_PATHS, reserved_endpoints
from llm_proxy.providers.beside import Lines, beside
from llm_proxy.providers.errors import ProviderFileError
from llm_proxy.providers.schema import (
    DOUBLED_V1,
    Findings,
    Provider,
    ProviderFile,
    parse,
    with_base_url,
)
from llm_proxy.settings import Settings

USUAL_PATH = Path("config/api_providers.yaml")
PACKAGED = "packaged default.yaml"
DEFAULT_PROVIDER = "openai"
_MAX_FILE_BYTES = 4 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class LoadedProvider:
    """What a load found. `warnings` and `notes` (for the log's info level) are a line each.

    Attributes:
        provider: The default one, at the root.
        others: Those beside it (PROVIDERS), each with a mount or hosts.
    """

    provider: Provider
    source: str
    warnings: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    others: tuple[Provider, ...] = ()


def load_provider(settings: Settings) -> LoadedProvider:
    """Read the file once and pick the providers. Raises ProviderFileError with every fault at once."""
    content, source, notes = _read(settings.upstream.api_config_path)
    findings = Findings()
    document = _document(content, source)
    packaged = _with_packaged(document, settings.upstream.providers or (), is_own=source != PACKAGED)
    _set_urls(document, settings.upstream.provider_urls or ())
    file = parse(document, settings.upstream, findings)
    warnings = [f"{source}: {line}" for line in findings.warnings]
    if findings.faults:
        raise ProviderFileError([f"{source}: {line}" for line in findings.faults])
    provider = _choose(file, settings.upstream.default_api_provider, source)
    if settings.upstream.openai_api_url is not None and provider.name == DEFAULT_PROVIDER:
        provider = _moved(provider, settings.upstream.openai_api_url, warnings)
    reserved = (*RESERVED_PATHS, settings.operation.metrics_path, settings.operation.admin_ui_path)
    for endpoint in reserved_endpoints(provider, reserved):
        warnings.append(f"{source}: apis.{provider.name}.allowed_endpoints: {endpoint} is a path of the proxy's own")
    if not settings.upstream.providers:
        return LoadedProvider(provider, source, warnings, notes)
    notes += [f"provider {name}: the packaged entry is used" for name in packaged]
    others = beside(file, provider, settings, Lines(content, source))
    return LoadedProvider(provider, source, warnings, notes, others=others)


def _with_packaged(document: Any, names: Sequence[str], *, is_own: bool) -> list[str]:
    """Add packaged entries for the names that the file lacks; return these names.

    `is_own`: the file is the operator's. The packaged one has entries that were made to be served alone, so of those
    only the default one is kept.
    """
    apis = document.get("apis") if isinstance(document, dict) else None
    kept = () if is_own or not isinstance(document, dict) else (document.get("default_api"),)
    missing = [name for name in names if isinstance(apis, dict) and name not in (apis if is_own else kept)]
    if not missing:
        return []
    text = resources.files("llm_proxy.providers").joinpath("packaged.yaml").read_text(encoding="utf-8")
    entries = _document(text, "packaged.yaml")["apis"]
    found = [name for name in missing if name in entries]
    for name in found:
        document["apis"][name] = entries[name]
    return found


def _set_urls(document: Any, urls: Sequence[tuple[str, str]]) -> None:
    """Put PROVIDER_URLS in place. Raises ProviderFileError for a name that is no provider's."""
    apis = document.get("apis") if isinstance(document, dict) else None
    for name, url in urls:
        entry = apis.get(name) if isinstance(apis, dict) else None
        if not isinstance(entry, dict):
            raise ProviderFileError([f"PROVIDER_URLS={name}=…: expected the name of a provider of the provider file"])
        entry["base_url"] = url


def _read(asked: Path | None) -> tuple[str, str, list[str]]:
    """Content, what to call it, and notes. A file that was asked for must be there."""
    if asked is None and not USUAL_PATH.exists():
        content = resources.files("llm_proxy.providers").joinpath("default.yaml").read_text(encoding="utf-8")
        return content, PACKAGED, [f"no provider file at {USUAL_PATH}: the packaged one is used"]
    path = asked if asked is not None else USUAL_PATH
    try:
        with path.open("rb") as file:
            raw = file.read(_MAX_FILE_BYTES + 1)
        if len(raw) > _MAX_FILE_BYTES:
            raise ProviderFileError([f"{path}: expected at most 4 MiB"])
        return raw.decode("utf-8"), str(path), []
    except FileNotFoundError:
        raise ProviderFileError([f"API_CONFIG_PATH={path}: expected an existing provider file"]) from None
    except UnicodeDecodeError as exc:
        raise ProviderFileError([f"{path}: expected UTF-8, byte {exc.start} is none"]) from None
    except OSError as exc:
        raise ProviderFileError([f"{path}: expected a readable file: {exc.strerror}"]) from None


class _Loader(yaml.SafeLoader):
    """YAML without repeated keys: the last one would silently undo a rule of the first."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        """Return the mapping. Raises yaml.MarkedYAMLError for a key that stands there twice."""
        seen = set()
        for key_node, _ in node.value:
            if not isinstance(key_node, yaml.ScalarNode) or key_node.tag == "tag:yaml.org,2002:merge":
                continue
            if key_node.value in seen:
                raise yaml.MarkedYAMLError(problem=f"key {key_node.value} twice", problem_mark=key_node.start_mark)
            seen.add(key_node.value)
        return super().construct_mapping(node, deep)


def _document(content: str, source: str) -> Any:
    try:
        return yaml.load(content, _Loader)  # noqa: S506  (a SafeLoader)
    except yaml.MarkedYAMLError as exc:
        mark = exc.problem_mark or exc.context_mark
        where = f"line {mark.line + 1}, column {mark.column + 1}: " if mark is not None else ""
        raise ProviderFileError([f"{source}: {where}{exc.problem or 'not YAML'}"]) from None
    except (yaml.YAMLError, ValueError, RecursionError) as exc:
        raise ProviderFileError([f"{source}: not YAML: {' '.join(str(exc).split())[:200]}"]) from None


def _choose(file: ProviderFile, asked: str | None, source: str) -> Provider:
    """DEFAULT_API_PROVIDER, else the file's default_api, else openai."""
    name = asked or file.default_api or DEFAULT_PROVIDER
    provider = file.providers.get(name)
    if provider is not None:
        return provider
    known = ", ".join(file.providers)
    if asked:
        raise ProviderFileError([f"DEFAULT_API_PROVIDER={asked}: expected a provider of {source}: {known}"])
    raise ProviderFileError([f"{source}: default_api: required where apis has no {DEFAULT_PROVIDER}; one of {known}"])


def _moved(provider: Provider, url: str, warnings: list[str]) -> Provider:
    try:
        moved = with_base_url(provider, url)
    except ValueError as exc:
        raise ProviderFileError([f"OPENAI_API_URL: expected {exc}"]) from None
    if moved.base_path.endswith("/v1"):
        warnings.append(f"OPENAI_API_URL {DOUBLED_V1}")
    return moved
