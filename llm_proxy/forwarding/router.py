"""From a request to the provider that it is for, where several are served side by side."""

from collections.abc import Sequence

from llm_proxy.forwarding.own_responses import Reply
from llm_proxy.forwarding.pipeline import Pipeline
from llm_proxy.forwarding.request import ProxyRequest
from llm_proxy.providers import Provider


class Router:
    """Finds the pipeline by Host, then by the longest mount; else it is the default provider's.

    Args:
        default: The pipeline at the root.
        beside: The others, with their providers.
    """

    def __init__(self, default: Pipeline, beside: Sequence[tuple[Provider, Pipeline]]) -> None:
        self._default = default
        self._by_host = {host: pipeline for provider, pipeline in beside for host in provider.hosts}
        mounted = [(provider.mount, pipeline) for provider, pipeline in beside if provider.mount]
        self._by_mount = sorted(mounted, key=lambda pair: len(pair[0]), reverse=True)

    def handle(self, request: ProxyRequest) -> Reply:
        """Respond to a request, its mount removed. Raises what `Pipeline.handle` raises."""
        if self._by_host:
            pipeline = self._by_host.get(host_of(request.values.get("HOST", "")))
            if pipeline is not None:
                return pipeline.handle(request)
        path = request.path
        for mount, pipeline in self._by_mount:
            if path.startswith(mount) and path[len(mount) : len(mount) + 1] in ("", "/"):
                request.remove_prefix(mount)
                return pipeline.handle(request)
        return self._default.handle(request)


def host_of(field: str) -> str:
    """Return the host name of a Host field, in lower case and without port."""
    return field.partition(":")[0].lower()
