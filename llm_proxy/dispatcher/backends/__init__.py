"""Where events are delivered to: one class and one entry point make a back end (docs/events.md).

The entry point's group is `llm_proxy.dispatcher_backends`, its name is what `--service` takes.
"""

from importlib.metadata import EntryPoint, entry_points

from llm_proxy.dispatcher.backends.base import Backend

GROUP = "llm_proxy.dispatcher_backends"


class UnknownBackend(Exception):
    """No back end of that name, or one whose packages are not installed; worded for the user."""


def names() -> list[str]:
    """Every `--service` that is installed."""
    return sorted(_found())


def backend_class(name: str) -> type[Backend]:
    """Return the back end's class. Raises UnknownBackend."""
    found = _found().get(name)
    if found is None:
        raise UnknownBackend(f"DISPATCHER_SERVICE={name}: expected one of {', '.join(names())}")
    try:
        loaded: type[Backend] = found.load()
    except ImportError as exc:
        missing = (exc.name or "").partition(".")[0]
        raise UnknownBackend(f"DISPATCHER_SERVICE={name}: install llm-proxy[{name}], {missing} is missing") from exc
    return loaded


def _found() -> dict[str, EntryPoint]:
    return {point.name: point for point in entry_points(group=GROUP)}
