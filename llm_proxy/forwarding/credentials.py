"""Where a request carries the caller's token, by the rules of its provider, and where it must not."""

from collections.abc import Collection
from typing import Final
from urllib.parse import unquote, unquote_plus

from llm_proxy.errors import AmbiguousCredentials, InvalidToken, TokenInQuery
from llm_proxy.forwarding.request import ProxyRequest
from llm_proxy.forwarding.request_checks import bearer_of
from llm_proxy.providers import Provider
from llm_proxy.runtime.ids import uuid7
from llm_proxy.tokens.bearer import holds, is_in, is_well_formed, may_hold, readings, tokens_in

_KEPT: Final = frozenset(("SEC-WEBSOCKET-PROTOCOL", "X-REQUEST-ID"))  # rewritten on the way to the provider
_SHORTEST = len("sk-") + 22  # of a value that may hold a token
_KEY_PARAMETERS = frozenset(("key", "api_key", "api-key"))


class Credentials:
    """Finds the token in the requests to one provider."""

    __slots__ = ("_is_beside", "_is_usual", "_names", "_where")

    def __init__(self, provider: Provider) -> None:
        self._names, self._is_beside = provider.client_auth, provider.is_beside
        self._is_usual = self._names == ("AUTHORIZATION",)
        first = self._names[0]
        self._where = "Authorization: Bearer" if first == "AUTHORIZATION" else first.lower()

    def bearer(self, request: ProxyRequest) -> str:
        """Return the token that a request presents, and remove its copies from other fields.

        Raises:
            InvalidToken: There is none, or in Authorization there are several or another scheme.
            AmbiguousCredentials: Its fields hold two different tokens.
            TokenInQuery: It stands in the address, too, within a longer word.
        """
        bearer = self._carried(request)
        for part, text in (("query", request.query), ("path", request.path)):
            if is_well_formed(bearer) and holds(text, bearer):
                raise TokenInQuery(f"Send the token in the field {self._where}, not in the {part}", param=part)
        return bearer

    def _carried(self, request: ProxyRequest) -> str:
        """Return the token that the fields hold, and remove its copies. Raises what `bearer` raises."""
        if self._is_usual:  # one pass over the fields, as for most requests nothing else is to be done
            carriers = [
                field
                for field in request.fields
                if field[0] == "AUTHORIZATION" or (len(field[1]) >= _SHORTEST and may_hold(field[1]))
            ]
            bearer = bearer_of([value for name, value in carriers if name == "AUTHORIZATION"])
            if len(carriers) > 1:
                self.check_others(request, bearer)
            return bearer
        presented = self.presented(request)
        tokens = {text for text in presented if is_well_formed(text)}
        if len(tokens) > 1:
            raise AmbiguousCredentials
        found = next(iter(tokens), None) or next(filter(None, presented), None)
        if found is None:
            raise InvalidToken(description="missing or invalid authorization header")
        self.check_others(request, found)
        return found

    def presented(self, request: ProxyRequest) -> list[str]:
        """Return what the fields for a credential hold, without schemes; for masking."""
        return [_presented(name, value) for name, value in request.fields if name in self._names]

    def check_others(self, request: ProxyRequest, bearer: str) -> None:
        """Remove copies of the token from the request's other fields.

        Raises:
            AmbiguousCredentials: One of them holds another token.
        """
        names = self._names
        for name, value in request.fields:
            if name not in names and may_hold(value):
                _remove_copies(request, bearer, names)
                return

    def check_target(self, path: str, query: str) -> None:
        """Raise TokenInQuery for a token in the address, naming the parameter that holds it and the field to use."""
        if is_in(unquote(path) if "%" in path else path):
            raise TokenInQuery(f"Send the token in the field {self._where}, not in the path", param="path")
        if query:
            self._check_query(query)

    def _check_query(self, query: str) -> None:
        for pair in query.split("&"):
            name = unquote_plus(pair.partition("=")[0])
            if is_in(unquote_plus(pair)) or (self._is_beside and name.lower() in _KEY_PARAMETERS):
                shown = "query" if is_in(name) else name[:64]
                raise TokenInQuery(f"Send the token in the field {self._where}, not in the query", param=shown)


def _remove_copies(request: ProxyRequest, bearer: str, names: Collection[str]) -> None:
    is_token = is_well_formed(bearer)

    def has_copy(text: str) -> bool:
        return is_in(text) or (is_token and holds(text, bearer))

    if has_copy(request.request_id):
        request.request_id = uuid7()
    if has_copy(request.correlation_id):
        request.correlation_id = uuid7()
    kept = list[tuple[str, str]]()
    for name, value in request.fields:
        texts = readings(value) if name not in names and may_hold(value) else []
        tokens = tokens_in(texts)
        if is_token and any(token != bearer for token in tokens):
            raise AmbiguousCredentials
        if name in _KEPT or not (tokens or (is_token and any(bearer in text for text in texts))):
            kept.append((name, value))
        elif name == "X-CORRELATION-ID":
            kept.append((name, request.correlation_id))
    request.fields = kept


def _presented(name: str, value: str) -> str:
    """Return what a field presents, without the scheme of Authorization."""
    scheme, blank, rest = value.strip().partition(" ")
    if scheme.lower() == "bearer" and blank:
        return rest.strip()
    return "" if name == "AUTHORIZATION" else value.strip()
