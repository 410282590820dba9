"""The upstream's response as the application sees it."""

import math
from collections.abc import Iterator
from typing import Any, cast

from requests import Response
from requests.exceptions import RequestException
from requests.structures import CaseInsensitiveDict

from llm_proxy.errors import UpstreamCut
from llm_proxy.transport.body import Raw
from llm_proxy.transport.errors import translate
from llm_proxy.transport.exchange import Exchange
from llm_proxy.transport.head import Head
from llm_proxy.transport.request import UpstreamRequest


class UpstreamResponse(Response):
    """Status and fields are in, the content comes by `chunks()`; `close()` it in any case.

    Attributes:
        status: 200 to 999 as sent.
        reason: As sent, often empty.
        http_version: `HTTP/1.1` or `HTTP/1.0`.
        fields: Name and value, in order, case and number as sent.
        exchange: What `cut` works on.
    """

    reason: bytes  # type: ignore[assignment]  # the library's own code allows for bytes here
    request: UpstreamRequest

    def __init__(self, request: UpstreamRequest, exchange: Exchange, head: Head, rest: bytes) -> None:
        # Without the library's: its cookie jar alone costs 3 µs, and nothing here reads it.
        self.request = request
        self.exchange = exchange
        self.status = self.status_code = head.status
        self.reason = head.reason
        self.http_version = "HTTP/1.1" if head.minor else "HTTP/1.0"
        self.fields = head.detach_fields()
        self.raw = Raw(exchange, head, rest)  # what iter_content needs, it has
        self._content = False  # type: ignore[assignment]  # the library's mark for "not read"
        self._content_consumed = False
        self.encoding = None

    @property
    def headers(self) -> CaseInsensitiveDict[str]:  # type: ignore[override]
        """The fields as the library shows them: of repeated ones the last. `fields` is the truth."""
        return CaseInsensitiveDict((name.decode("latin-1"), value.decode("latin-1")) for name, value in self.fields)

    @property
    def url(self) -> str:  # type: ignore[override]
        """The address that was asked."""
        return self.request.url

    def chunks(self) -> Iterator[bytes]:
        """Yield the content, each piece as it came from the wire, encoded as sent.

        Ends only where the upstream ended it.

        Raises:
            UpstreamError: `UpstreamTimeout`, `UpstreamCut` or `UpstreamBroken`; the connection is closed.
        """
        read1 = cast(Raw, self.raw).read1
        try:
            while data := read1():
                yield data
        except RequestException as exc:
            raise translate(exc, "body", is_sent=True) from exc

    def no_total_limit(self) -> None:
        """From here on only silence is limited: for event streams."""
        self.exchange.end = self.exchange.deadline = math.inf

    def switched(self) -> tuple[Any, bytes]:
        """Return the connection after a 101, and the bytes that have come on it; `close` ends it, and so does a cut.

        Raises:
            UpstreamCut: It was cut already.
        """
        self.no_total_limit()
        if self.exchange.cut_reason is not None:
            raise UpstreamCut(self.exchange.cut_reason).at("body", is_sent=True)
        return cast(Raw, self.raw).detached()

    def close(self) -> None:
        """End it; content that was not read to its end costs the connection."""
        self.raw.close()
