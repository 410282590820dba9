"""redisclient: addresses, precedence and what a client must not do."""

import pytest

from llm_proxy import redisclient
from llm_proxy.settings import RedisSettings, Settings


@pytest.mark.parametrize(
    ("address", "expected"),
    [
        pytest.param("localhost:6379", "redis://localhost:6379/0", id="host-port"),
        pytest.param("cache", "redis://cache:6379/0", id="host-alone"),
        pytest.param("[::1]:7000", "redis://[::1]:7000/0", id="v6"),
        pytest.param("redis://r.example:6380/3", "redis://r.example:6380/3", id="url"),
        pytest.param("rediss://u:p%40ss@r.example", "rediss://r.example:6379/0", id="tls-url"),
        pytest.param("redis://r.example?db=4", "redis://r.example:6379/4", id="db-in-query"),
    ],
)
def test_an_address_may_be_host_and_port_or_a_url(address: str, expected: str) -> None:
    """Every documented form is understood, and shown without credentials."""
    assert str(redisclient.parse_address(address)) == expected


@pytest.mark.parametrize(
    "address", ["", "a b", "host:0", "host:70000", "http://x", "redis://", "redis://h:s3cret@/x", "h:1:2"]
)
def test_another_address_is_refused_without_being_repeated(address: str) -> None:
    """A wrong address raises what is accepted, not what was given (it may hold a password)."""
    with pytest.raises(ValueError, match="host:port") as caught:
        redisclient.parse_address(address)
    assert "s3cret" not in str(caught.value)


def test_explicit_variables_win_over_the_url() -> None:
    """REDIS_DB, REDIS_USERNAME, REDIS_PASSWORD win over what the URL says; the rest of the URL stays."""
    settings = Settings(redis=RedisSettings(addr="rediss://u:p@r.example:6380/3", db=5, username="me", password="mine"))
    where = redisclient.target(settings.redis)
    assert (where.db, where.username, where.password, where.is_tls, where.port) == (5, "me", "mine", True, 6380)


def test_the_password_of_a_url_is_decoded_and_never_shown() -> None:
    """Percent-encoding is undone, and neither str nor repr gives the password away."""
    where = redisclient.parse_address("redis://u:p%40ss@h:1/0")
    assert where.password == "p@ss"
    assert "p@ss" not in repr(where) + str(where)


def test_a_client_does_not_retry_by_itself() -> None:
    """redis-py's own back-off would hold a request for seconds."""
    client = redisclient.connect(redisclient.parse_address("127.0.0.1:1"))
    with pytest.raises(redisclient.unreachable()):
        client.ping()
    retry = client.get_retry()
    assert retry is not None
    assert retry.get_retries() == 0
