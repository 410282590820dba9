"""The way to the provider: a requests adapter on gevent and llhttp.

It forwards what it is given byte for byte, bounds every wait, can be cut in every phase, and tells a clean end from a
broken one. docs/adr/0010 says why it is not the stock adapter.
"""

from llm_proxy.transport.answer import Answer
from llm_proxy.transport.exchange import Exchange, Timeouts
from llm_proxy.transport.forward import BodyReader, Forward
from llm_proxy.transport.proxies import check_proxies
from llm_proxy.transport.tls import check_certificates
from llm_proxy.transport.upstream import Options, Upstream

__all__ = [
    "Answer",
    "BodyReader",
    "Exchange",
    "Forward",
    "Options",
    "Timeouts",
    "Upstream",
    "check_certificates",
    "check_proxies",
]
