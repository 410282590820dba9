"""Building the pipeline's parts from the settings and the provider file."""

from collections.abc import Callable
from datetime import datetime

from llm_proxy import __version__
from llm_proxy.forwarding.breaker import CircuitBreaker, ConcurrencyLimit, slot_limit
from llm_proxy.forwarding.cors import Cors
from llm_proxy.forwarding.fields import RequestFields
from llm_proxy.forwarding.inspection import Inspector
from llm_proxy.forwarding.lane import Lane
from llm_proxy.forwarding.socket_limits import SocketLimits
from llm_proxy.forwarding.sockets import Sockets
from llm_proxy.forwarding.turns import TurnDesk
from llm_proxy.limits.seats import Seats
from llm_proxy.providers import ParameterRules, Provider
from llm_proxy.runtime import shared_dir
from llm_proxy.settings import ServerSettings, Settings, UpstreamSettings
from llm_proxy.transport import Options, Timeouts, Upstream


def build_lane(
    provider: Provider,
    settings: Settings,
    *,
    workers: int,
    worker_connections: int | None,
    is_default: bool = True,
    has_neighbours: bool = False,
) -> Lane:
    """Return a provider's lane: its slots and circuits are its own."""
    return Lane(
        provider,
        slots=ConcurrencyLimit(slot_limit(settings.server.max_concurrent_requests, workers, worker_connections)),
        breaker=CircuitBreaker(settings.upstream),
        is_default=is_default,
        has_neighbours=has_neighbours,
    )


def build_upstream(provider: Provider) -> Upstream:
    """Return what sends requests; no connection is opened here."""
    return Upstream(
        Options(
            max_idle=provider.max_idle_conns,
            max_idle_per_origin=provider.max_idle_conns_per_host,
            idle_s=provider.timeouts.idle_connection_s,
        )
    )


def build_timeouts(provider: Provider) -> Timeouts:
    """Return the limits of an exchange."""
    limits = provider.timeouts
    return Timeouts(limits.connect_s, limits.first_byte_s, limits.idle_s, limits.total_s)


def build_inspector(provider: Provider, settings: ServerSettings) -> Inspector:
    """Return the reader of request bodies, with the provider's parameter rules."""
    return Inspector(
        ParameterRules(provider.param_whitelist),
        max_request_bytes=settings.max_request_size_bytes,
        max_inspected_bytes=settings.max_inspected_body_bytes,
        allows_streams=settings.enable_streaming,
        max_held_bodies_bytes=settings.max_held_bodies_bytes,
        held_timeout_s=settings.held_body_timeout_s,
    )


def build_cors(provider: Provider, settings: ServerSettings) -> Cors:
    """Return the maker of the fields that browsers need."""
    return Cors(
        provider.allowed_origins,
        origins=settings.cors_allowed_origins,
        methods=settings.cors_allowed_methods,
        headers=settings.cors_allowed_headers,
        max_age_s=settings.cors_max_age_s,
    )


def build_request_fields(provider: Provider, settings: UpstreamSettings) -> RequestFields:
    """Return the maker of the fields that the provider gets."""
    return RequestFields(
        host=provider.host,
        auth_header=provider.auth_header,
        credential_prefix=provider.credential_prefix,
        proxy_version=__version__ if settings.proxy_headers else None,
        client_auth=provider.client_auth,
        is_beside=provider.is_beside,
    )


def build_sockets(
    provider: Provider,
    settings: Settings,
    desk: TurnDesk,
    *,
    is_draining: Callable[[], bool],
    now: Callable[[], datetime],
) -> Sockets:
    """Return what opens WebSockets."""
    return Sockets(
        Seats(shared_dir.shared(), settings.websocket.max_sockets, settings.websocket.max_sockets_per_token),
        desk,
        SocketLimits(
            settings.websocket.idle_timeout_s,
            settings.websocket.max_age_s,
            settings.ws_message_limit_bytes,
            settings.websocket.ping_interval_s,
        ),
        allows_streams=settings.server.enable_streaming,
        allows_subprotocol=settings.websocket.allow_subprotocol_auth,
        has_rules=bool(provider.param_whitelist),
        is_draining=is_draining,
        now=now,
    )
