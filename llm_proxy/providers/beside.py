"""The providers beside the default one (PROVIDERS): where each is mounted, and that no two mean the same request."""

from collections.abc import Iterator
from dataclasses import replace
from functools import cached_property

import yaml

from llm_proxy.providers.allow_list import RESERVED_PATHS, mounts
from llm_proxy.providers.errors import ProviderFileError
from llm_proxy.providers.schema import Provider, ProviderFile
from llm_proxy.settings import OperationSettings, Settings


class Lines:
    """Where the keys of a provider file stand, for messages."""

    def __init__(self, content: str, source: str) -> None:
        self._content, self.source = content, source

    def place(self, name: str, key: str) -> str:
        """`FILE: line N: apis.NAME.KEY`, as far as the file has it."""
        line = self._of.get((name, key)) or self._of.get((name, ""))
        where = f"line {line}: " if line is not None else ""
        return f"{self.source}: {where}apis.{name}.{key}"

    @cached_property
    def _of(self) -> dict[tuple[str, str], int]:
        found: dict[tuple[str, str], int] = {}
        root = yaml.compose(self._content, yaml.SafeLoader)
        for name_node, entry in _members(_member(root, "apis")):
            found[name_node.value, ""] = name_node.start_mark.line + 1
            for key_node, _ in _members(entry):
                found[name_node.value, key_node.value] = key_node.start_mark.line + 1
        return found


def _members(node: yaml.Node | None) -> list[tuple[yaml.ScalarNode, yaml.Node]]:
    pairs = node.value if isinstance(node, yaml.MappingNode) else []
    return [(key, value) for key, value in pairs if isinstance(key, yaml.ScalarNode)]


def _member(node: yaml.Node | None, name: str) -> yaml.Node | None:
    return next((value for key, value in _members(node) if key.value == name), None)


def beside(file: ProviderFile, default: Provider, settings: Settings, lines: Lines) -> tuple[Provider, ...]:
    """Return the providers of PROVIDERS but for the default one; `/NAME` is the mount of one that names none.

    Raises:
        ProviderFileError: A name is unknown, the default one is missing, or mounts and hosts collide.
    """
    asked = tuple(dict.fromkeys(settings.upstream.providers))
    faults = [f"PROVIDERS: {name} is no provider of {lines.source}: {', '.join(file.providers)}" for name in asked
              if name not in file.providers]  # fmt: skip
    if default.name not in asked:
        faults.append(f"PROVIDERS: expected the default provider, {default.name}, among them")
    if default.is_beside:
        key = "mount" if default.mount else "hosts"
        faults.append(f"{lines.place(default.name, key)}: the default provider stays at the root")
    found = [file.providers[name] for name in asked if name in file.providers and name != default.name]
    others = tuple(one if one.is_beside else replace(one, mount=f"/{one.name}") for one in found)
    faults += _collisions(others, default, settings.operation, lines)
    if faults:
        raise ProviderFileError(faults)
    return others


def _collisions(
    others: tuple[Provider, ...], default: Provider, settings: OperationSettings, lines: Lines
) -> Iterator[str]:
    own = (*RESERVED_PATHS, settings.metrics_path, settings.admin_ui_path)
    taken: dict[str, str] = {}
    for provider in others:
        mount, place = provider.mount, lines.place(provider.name, "mount")
        if mount and (own_path := _equal_or_above(mount, own)) is not None:
            yield f"{place}: {mount} is at or below {own_path}, a path of the proxy itself"
        elif mount and (path := _equal_or_above(mount, mounts(default))) is not None:
            yield f"{place}: {mount} is at or below {path}, which is the default provider's"
        elif mount and mount in taken:
            yield f"{place}: {mount} is the mount of {taken[mount]}, too"
        if mount:
            taken.setdefault(mount, provider.name)
        for host in provider.hosts:
            if host in taken:
                yield f"{lines.place(provider.name, 'hosts')}: {host} is a host of {taken[host]}, too"
            taken.setdefault(host, provider.name)


def _equal_or_above(mount: str, paths: tuple[str, ...]) -> str | None:
    return next((path for path in paths if path != "/" and (mount == path or mount.startswith(path + "/"))), None)
