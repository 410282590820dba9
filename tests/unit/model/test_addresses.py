"""Which addresses count as one client."""

import pytest

from llm_proxy.model.addresses import counted_as


@pytest.mark.parametrize(
    ("address", "counted"),
    [
        ("10.0.0.1", "10.0.0.1"),
        ("::ffff:10.0.0.1", "10.0.0.1"),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"),
        ("2001:db8:1:2::", "2001:db8:1:2::/64"),
        ("fe80::1%eth0", "fe80::/64"),
        ("", ""),
        ("unix", "unix"),
    ],
)
def test_one_subscriber_counts_once(address: str, counted: str) -> None:
    """An IPv6 subscriber has a /64 to choose from."""
    assert counted_as(address) == counted
