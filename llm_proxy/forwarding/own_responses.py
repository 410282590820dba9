"""What the proxy itself says to a client: its fields of every response, and the responses that no provider gave."""

from collections.abc import Callable, Iterable
from typing import NamedTuple

from llm_proxy.errors import LlmProxyError
from llm_proxy.forwarding.cors import Cors
from llm_proxy.forwarding.exchange import Exchange
from llm_proxy.forwarding.request import ProxyRequest

Fields = list[tuple[str, str]]


class Reply(NamedTuple):
    """The response to the client. `body` has a `close` where something has to be settled."""

    status: str
    fields: Fields
    body: Iterable[bytes]


class OwnResponses:
    """Makes them for one provider.

    Args:
        cors: The fields that browsers need.
        render: From an error to a response's status, fields and body.
    """

    def __init__(self, cors: Cors, render: Callable[[LlmProxyError], tuple[str, Fields, bytes]]) -> None:
        self._cors, self._render = cors, render

    def add_fields(self, exchange: Exchange, fields: Fields, instants: Fields) -> None:
        """Add the proxy's own fields of a response."""
        request = exchange.request
        fields.append(("X-Proxy", "llm-proxy"))
        fields += _ids(request)
        fields += instants
        fields += exchange.cache_fields
        origin = request.values.get("ORIGIN")
        if origin:
            fields += self._cors.response(origin)

    def preflight(self, request: ProxyRequest) -> Reply:
        """Return the response to a browser's preflight request."""
        fields = _ids(request)
        asked = request.values.get("ACCESS-CONTROL-REQUEST-HEADERS")
        fields += self._cors.preflight(request.values.get("ORIGIN"), asked)
        return Reply("204 No Content", fields, ())

    def refusal(self, request: ProxyRequest, error: LlmProxyError) -> tuple[str, Fields, bytes]:
        """Return status, fields and body of an error."""
        status, fields, body = self._render(error)
        fields += _ids(request)
        fields += self._cors.response(request.values.get("ORIGIN"))
        return status, fields, body


def _ids(request: ProxyRequest) -> Fields:
    return [("X-Request-ID", request.request_id), ("X-Correlation-ID", request.correlation_id)]
