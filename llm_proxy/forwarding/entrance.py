"""The way into a provider's lane and out of it: a slot, and the circuits that an exchange is behind."""

from llm_proxy.formats.prompt import read_prompt
from llm_proxy.formats.request_body import model_of
from llm_proxy.forwarding.body import PIECE_BYTES, HeldBody, StreamedBody
from llm_proxy.forwarding.breaker import Scope
from llm_proxy.forwarding.exchange import Exchange


def enter(exchange: Exchange) -> None:
    """Take a slot, and pass the circuits. Raises Overloaded, CircuitOpen."""
    lane = exchange.lane
    lane.slots.take()
    exchange.has_slot = True
    if lane.breaker.knows_failures:
        exchange.probe = lane.breaker.enter(lambda: scope_of(exchange))


def leave(exchange: Exchange, verdict: str) -> None:
    """Release the slot, and tell the circuits how the exchange ended: `unreachable`, `fail`, `reset`, `neutral`."""
    lane = exchange.lane
    if exchange.has_slot:
        lane.slots.release()
    if verdict == "reset" and not lane.breaker.knows_failures:
        return
    if exchange.is_dispatched or exchange.probe.is_any:
        lane.breaker.leave(verdict, lambda: scope_of(exchange), exchange.probe)


def scope_of(exchange: Exchange) -> Scope:
    """Return the endpoint, and the model that path or body names; asked for only where failures are known."""
    if exchange.scope is None:
        path, lane = exchange.request.path, exchange.lane
        model = (lane.models.of(path) if lane.models is not None else None) or _named_model(exchange) or ""
        exchange.scope = (lane.allowed.endpoint_of(path), model)
    return exchange.scope


def _named_model(exchange: Exchange) -> str | None:
    """Return the model in the first bytes of the request's body."""
    if exchange.usage is not None and exchange.usage.asked_bytes:
        return exchange.usage.model()
    body = exchange.body
    if isinstance(body, HeldBody):
        head = body.read1(PIECE_BYTES)
        body.rewind()
    else:
        head = body.first if isinstance(body, StreamedBody) else body or b""
    values = exchange.request.values
    prompt = read_prompt(head, values.get("CONTENT-ENCODING", ""), len(head))
    return prompt.model or model_of(values.get("CONTENT-TYPE", ""), head)
