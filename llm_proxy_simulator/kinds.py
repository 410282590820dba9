"""The kinds of providers that can be simulated: where each wants its key, what it answers, how its errors look."""

import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Protocol

from llm_proxy_simulator import anthropic, google
from llm_proxy_simulator.plan import Plan
from llm_proxy_simulator.responses import OpenAIResponses, SimulatedResponse, error_response
from llm_proxy_simulator.uploads import Upload
from llm_proxy_simulator.wire import Request


class Responder(Protocol):
    """The usual responses of a kind."""

    def respond(self, request: Request, upload: Upload, plan: Plan) -> SimulatedResponse:
        """Return the usual response to a request."""


class _Prefixed:
    """OpenAI's responses below other prefixes."""

    def __init__(self, prefix: str) -> None:
        self._prefix, self._responder = re.compile(prefix), OpenAIResponses()

    def respond(self, request: Request, upload: Upload, plan: Plan) -> SimulatedResponse:
        """Respond as if the path began with /v1."""
        found = self._prefix.match(request.path)
        if found is None:
            return error_response(404, "Resource not found", "404")
        return self._responder.respond(replace(request, target="/v1/" + request.path[found.end() :]), upload, plan)


@dataclass(frozen=True, slots=True)
class Kind:
    """One kind.

    Attributes:
        responder: Makes its responses.
        error: From status, message, code and type to its error.
        key_field: The field that it reads the key from.
        scheme: What stands before the key in it.
        takes_bearer: Whether it reads `Authorization: Bearer` as well.
    """

    responder: Callable[[], Responder]
    error: Callable[..., SimulatedResponse] = error_response
    key_field: str = "authorization"
    scheme: str = "Bearer "
    takes_bearer: bool = False

    def presented(self, request: Request) -> list[str]:
        """Return the keys that a request presents."""
        places = [(self.key_field, self.scheme), *([("authorization", "Bearer ")] if self.takes_bearer else [])]
        found = [(request.value(name) or "", scheme) for name, scheme in places]
        return [value.removeprefix(scheme) for value, scheme in found if value.startswith(scheme)]


KINDS = {
    "openai": Kind(OpenAIResponses),
    "azure": Kind(lambda: _Prefixed(r"/openai/(?:(?:deployments/[^/]+|v1)/)?"), key_field="api-key", scheme=""),
    "anthropic": Kind(anthropic.AnthropicResponses, anthropic.error, "x-api-key", "", takes_bearer=True),
    "google": Kind(google.GoogleResponses, google.error, "x-goog-api-key", ""),
    "mistral": Kind(OpenAIResponses),
    "groq": Kind(lambda: _Prefixed("/openai/v1/")),
    "openrouter": Kind(lambda: _Prefixed("/api/v1/")),
}
