"""Client addresses as limits and budgets of records count them."""

import ipaddress
from functools import lru_cache
from typing import Final

IPV6_PREFIX: Final = 64  # what one subscriber has to choose from


@lru_cache(maxsize=4096)
def counted_as(address: str) -> str:
    """Return what counts as one client: an IPv4 address, the /64 of an IPv6 address, other text as it is."""
    try:
        parsed = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return address
    if isinstance(parsed, ipaddress.IPv4Address):
        return str(parsed)
    if parsed.ipv4_mapped is not None:
        return str(parsed.ipv4_mapped)
    return str(ipaddress.ip_network((parsed, IPV6_PREFIX), strict=False))


def is_loopback(peer: str | None) -> bool:
    """Return whether an address is this machine's own; None, as a Unix socket's peer has, is not known to be."""
    try:
        address = ipaddress.ip_address((peer or "").partition("%")[0])
    except ValueError:
        return False
    mapped = getattr(address, "ipv4_mapped", None)
    return (mapped or address).is_loopback
