"""The way to the provider: a requests adapter on gevent and llhttp.

It forwards what it is given byte for byte, bounds every wait, can be cut in every phase, and tells a clean end from a
broken one. docs/adr/0010 says why it is not the stock adapter.
"""

from llm_proxy.transport.adapter import Options
from llm_proxy.transport.exchange import Exchange, Timeouts
from llm_proxy.transport.proxies import check_proxies
from llm_proxy.transport.request import BodyReader, UpstreamRequest
from llm_proxy.transport.response import UpstreamResponse
from llm_proxy.transport.tls import check_certificates
from llm_proxy.transport.upstream import Upstream

__all__ = [
    "BodyReader",
    "Exchange",
    "Options",
    "Timeouts",
    "Upstream",
    "UpstreamRequest",
    "UpstreamResponse",
    "check_certificates",
    "check_proxies",
]
