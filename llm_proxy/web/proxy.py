"""The proxy's endpoint, on two lanes with the same responses.

The fast lane is a WSGI callable in front of Flask's dispatch, which costs half as much as all of the proxying
(docs/adr/0060). The slow lane is a Flask view over the same object; LLM_PROXY_FAST_LANE=false chooses it.
"""

from collections.abc import Callable, Collection, Iterable, Sequence
from ipaddress import IPv4Network, IPv6Network
from typing import Any

from flask import Blueprint, Flask, Response, request
from flask.blueprints import BlueprintSetupState
from werkzeug.routing import BaseConverter, Rule

from llm_proxy.forwarding.own_responses import Reply
from llm_proxy.forwarding.pipeline import Pipeline
from llm_proxy.forwarding.relay import Relay
from llm_proxy.forwarding.request import from_environ
from llm_proxy.forwarding.router import Router, host_of
from llm_proxy.forwarding.socket import Socket

StartResponse = Callable[[str, list[tuple[str, str]]], Any]
Environ = dict[str, Any]
ENDPOINT = "proxy.forward"


class ProxyEndpoint:
    """Answers requests of both lanes.

    Args:
        pipeline: Gives the process's pipeline, or the router of several; called for each request, because it is made
            after the fork.
        trusted: TRUSTED_PROXIES.
    """

    def __init__(self, pipeline: Callable[[], Pipeline | Router], trusted: Sequence[IPv4Network | IPv6Network]) -> None:
        self._pipeline, self._trusted = pipeline, trusted

    def __call__(self, environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        """Serve on the fast lane. Raises errors.ClientConnectionError, which the server layer answers or closes on."""
        reply = self._pipeline().handle(from_environ(environ, self._trusted))
        return _begin(reply, start_response)

    def view(self, rest: str = "") -> Response:
        """Serve on the slow lane; `rest` is not used: the raw target is what counts."""
        return _AsItIs(self._pipeline().handle(from_environ(request.environ, self._trusted)))


def _begin(reply: Reply, start_response: Any) -> Iterable[bytes]:
    """Hand over head and body. A field that the server will not send ends the exchange as the proxy's fault."""
    try:
        start_response(reply.status, reply.fields)
    except BaseException as failure:
        if isinstance(reply.body, Relay | Socket):
            reply.body.abandon(failure)
        raise
    return reply.body


class _AsItIs(Response):
    """Hands a reply to the server untouched: werkzeug would drop fields of a 304 and never close a HEAD's body."""

    def __init__(self, reply: Reply) -> None:
        super().__init__(status=reply.status)
        self._reply = reply

    def __call__(self, environ: Any, start_response: Any) -> Iterable[bytes]:
        """Return the reply, whatever hooks did to the shell around it."""
        return _begin(self._reply, start_response)


class _Anything(BaseConverter):
    """The rest of a path, empty segments included."""

    regex = ".*"
    part_isolating = False


def blueprint(endpoint: ProxyEndpoint, mounts: Sequence[str]) -> Blueprint:
    """Return the routes of the slow lane: every method, every path below the mounts."""
    bp = Blueprint("proxy", __name__)

    def add_rules(state: BlueprintSetupState) -> None:
        app = state.app
        app.url_map.converters.setdefault("anything", _Anything)
        app.view_functions[ENDPOINT] = endpoint.view
        for mount in mounts:
            start = mount.rstrip("/")
            app.url_map.add(Rule(f"{start}/<anything:rest>", endpoint=ENDPOINT))  # no methods given: all of them
            if start:
                app.url_map.add(Rule(start, endpoint=ENDPOINT))

    bp.record(add_rules)
    return bp


class FastLane:
    """Which raw targets go past Flask.

    Args:
        mounts: Prefixes of whole segments.
        reserved: Paths of the proxy that a mount must not shadow.
        hosts: Values of Host whose requests are all a provider's.
    """

    def __init__(self, mounts: Sequence[str], reserved: Sequence[str], hosts: Collection[str] = ()) -> None:
        self._hosts = frozenset(hosts)
        self._exact = frozenset(mount for mount in mounts if mount != "/")
        self._below = tuple(mount.rstrip("/") + "/" for mount in mounts)
        self._reserved = tuple(reserved) if "/" in mounts else ()

    def takes(self, target: str, host: str) -> bool:
        """Whether a raw target's path is under a mount, or the value of Host is a provider's alone."""
        if self._hosts and host_of(host) in self._hosts:
            return True
        if target.startswith(self._below):
            return not self._reserved or not self._is_reserved(target)
        return target.partition("?")[0] in self._exact

    def _is_reserved(self, target: str) -> bool:
        path = target.partition("?")[0]
        return any(path == own or path.startswith(own + "/") for own in self._reserved)


def exempt_from_merging(app: Flask) -> None:
    """`//` in a path stays what it is: the proxy forwards or refuses it and never redirects."""
    app.url_map.merge_slashes = False
