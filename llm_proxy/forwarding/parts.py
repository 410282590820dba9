"""The parts of a pipeline that follow from its provider and the settings."""

import math

from llm_proxy import __version__
from llm_proxy.forwarding.breaker import BreakerLimits, CircuitBreaker, Slots, slot_limit
from llm_proxy.forwarding.cors import Cors
from llm_proxy.forwarding.fields import RequestFields
from llm_proxy.forwarding.inspection import Inspector
from llm_proxy.forwarding.lane import Lane
from llm_proxy.providers import ParameterRules, Provider
from llm_proxy.settings import Settings
from llm_proxy.transport import Options, Timeouts, Upstream


def lane_of(
    provider: Provider,
    settings: Settings,
    *,
    workers: int,
    worker_connections: int | None,
    is_default: bool = True,
    has_neighbours: bool = False,
) -> Lane:
    """Return a provider's lane: its slots and circuits are its own."""
    limits = BreakerLimits(
        failures=settings.circuit_breaker_failures,
        open_s=settings.circuit_breaker_open_s,
        window_s=settings.circuit_breaker_window_s or math.inf,
    )
    return Lane(
        provider,
        slots=Slots(slot_limit(settings.max_concurrent_requests, workers, worker_connections)),
        breaker=CircuitBreaker(limits),
        is_default=is_default,
        has_neighbours=has_neighbours,
    )


def upstream_of(provider: Provider) -> Upstream:
    """Return a pool of connections with the provider's bounds."""
    return Upstream(
        Options(
            max_idle=provider.max_idle_conns,
            max_idle_per_origin=provider.max_idle_conns_per_host,
            idle_s=provider.timeouts.idle_connection_s,
        )
    )


def timeouts_of(provider: Provider) -> Timeouts:
    """Return the limits of an exchange."""
    limits = provider.timeouts
    return Timeouts(limits.connect_s, limits.first_byte_s, limits.idle_s, limits.total_s)


def inspector_of(provider: Provider, settings: Settings) -> Inspector:
    """Return what reads request bodies by the provider's rules."""
    return Inspector(
        ParameterRules(provider.param_whitelist),
        max_request_bytes=settings.max_request_size_bytes,
        max_inspected_bytes=settings.max_inspected_body_bytes,
        allows_streams=settings.enable_streaming,
    )


def cors_of(provider: Provider, settings: Settings) -> Cors:
    """Return the fields that browsers need."""
    return Cors(
        provider.allowed_origins,
        origins=settings.cors_allowed_origins,
        methods=settings.cors_allowed_methods,
        headers=settings.cors_allowed_headers,
        max_age_s=settings.cors_max_age_s,
    )


def request_fields_of(provider: Provider, settings: Settings) -> RequestFields:
    """Return what makes the provider's fields."""
    return RequestFields(
        host=provider.host,
        auth_header=provider.auth_header,
        credential_prefix=provider.credential_prefix,
        proxy_version=__version__ if settings.upstream_proxy_headers else None,
        client_auth=provider.client_auth,
        is_beside=provider.is_beside,
    )
