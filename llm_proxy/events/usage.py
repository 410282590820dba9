"""What an exchange used, as its event tells it: counted by the proxy, else read from what the event holds."""

from llm_proxy.events.bodies import joined
from llm_proxy.events.event import Event
from llm_proxy.formats.body import Body
from llm_proxy.formats.content_coding import codings, decoded
from llm_proxy.formats.reading import Reading, read
from llm_proxy.formats.usage import Usage


def reading_of(event: Event) -> Reading:
    """Read the response as far as the event holds it. Never raises."""
    return read(_kept(event), event.header("Content-Type"))


def usage_in(event: Event) -> Usage | None:
    """Return the model tokens of the exchange; None when nothing tells them."""
    if event.usage is not None:
        return Usage.from_json(event.usage)
    return reading_of(event).usage if may_use(event) else None


def may_use(event: Event) -> bool:
    """Return whether an exchange that was not counted can have used tokens: no error has, and no look at an object."""
    return event.method not in ("GET", "HEAD") and event.status < 300


def wire_of(event: Event) -> bytes:
    """Return the event's wire form, with its usage in place of the end of a body that must not be kept."""
    if event.usage is None and event.usage_source is not None:
        found = usage_in(event)
        event.usage = found.to_json() if found is not None else None
    return event.to_wire()


def _kept(event: Event) -> Body:
    body, tail = (b"", event.usage_source) if event.usage_source is not None else joined(event)
    body, tail = body or b"", tail or b""
    missing = max(0, (event.response_bytes or 0) - len(body) - len(tail))
    if not body and not missing:
        body, tail = tail, b""
    if not codings(event.header("Content-Encoding")):
        return Body(body, tail, missing)
    if not body:
        return Body(b"", is_readable=False)  # the end of coded data means nothing
    found = decoded(body, event.header("Content-Encoding"))
    if found is None:
        return Body(b"", is_readable=False)
    growth = len(found) / len(body)
    return Body(found, missing=round((missing + len(tail)) * growth))
