"""The response cache through the whole proxy: what clients, providers and operators see of it."""

import json
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from e2e.cache.conftest import BODY, OPT_IN, PUBLIC, Origin, purge, state
from support.gateway import MANAGEMENT_TOKEN, Gateway, eventually, running_gateway
from support.redis import RedisServer


def test_a_stored_response_is_served_by_every_worker(gateway: Gateway, origin: Origin, path: str) -> None:
    """One question to the provider; hits have Age, their own ids and Cache-Status, and cost no unit."""
    token = gateway.token()
    origin.fields = (*PUBLIC, ("X-Kept", "1"), ("Set-Cookie", "a=b"), ("x-request-id", "theirs"))
    first = gateway.ask("GET", path, token=token)
    assert (state(first), first[1]["Cache-Status"]) == ("stored", "llm-proxy; stored")
    hits = [gateway.ask("GET", path, token=token) for _ in range(12)]
    assert {(status, state((status, fields, body)), body) for status, fields, body in hits} == {
        (200, "hit", b"the response")
    }
    assert origin.count(path) == 1
    fields = hits[0][1]
    assert (fields["Cache-Status"], fields["X-Kept"]) == ("llm-proxy; hit", "1")
    assert int(fields["Age"]) >= 0
    assert fields["X-PROXY-CACHE-KEY"].startswith(f"v1:{token.project_id}:")
    assert "Set-Cookie" not in fields
    assert len({response[1]["X-Request-ID"] for response in [first, *hits]}) == 13
    eventually(lambda: gateway.rows("SELECT cache_hit_count FROM tokens WHERE id = ?", (token.id,)) == [(12,)])
    eventually(lambda: gateway.request_count(token) == 1)


@pytest.mark.parametrize(
    "fields", [(), (("Cache-Control", "max-age=60"),), (("Cache-Control", "public, no-store"),)], ids=str
)
def test_responses_that_are_not_for_everybody_are_not_stored(
    gateway: Gateway, origin: Origin, path: str, fields: tuple[tuple[str, str], ...]
) -> None:
    """RFC 9111 §3.5: the request had Authorization."""
    origin.fields = fields
    token = gateway.token()
    assert [state(gateway.ask("GET", path, token=token)) for _ in range(2)] == ["miss", "miss"]
    assert origin.count(path) == 2


def test_no_project_gets_anothers_response(gateway: Gateway, origin: Origin, path: str) -> None:
    """The same request of two projects is two questions; of two tokens of one project it is one."""
    one = gateway.token()
    other = gateway.token()
    same_project = gateway.token(project_id=one.project_id)
    assert one.project_id != other.project_id
    assert [state(gateway.ask("GET", path, token=token)) for token in (one, other, same_project)] == [
        "stored",
        "stored",
        "hit",
    ]
    assert origin.count(path) == 2


def test_a_post_is_stored_only_where_the_client_asks(gateway: Gateway, origin: Origin) -> None:
    """Opted in by Cache-Control, keyed by its body; an ordinary POST passes by."""
    origin.fields = (("Content-Type", "application/json"),)
    token = gateway.token()
    ask: Callable[..., str] = lambda body, headers: state(  # noqa: E731
        gateway.ask("POST", "/v1/embeddings", body, token=token, headers=headers)
    )
    plain = {"Content-Type": "application/json"}
    assert [ask(BODY, plain), ask(BODY, plain)] == ["bypass", "bypass"]
    assert [ask(BODY, OPT_IN), ask(BODY, OPT_IN), ask(BODY + b" ", OPT_IN)] == ["stored", "hit", "stored"]
    assert ask(BODY, {**OPT_IN, "Cache-Control": "no-store, public, max-age=60"}) == "bypass"
    response = gateway.ask("POST", "/v1/embeddings", BODY, token=token, headers=OPT_IN)
    assert response[1]["Cache-Control"] == "public, max-age=60"


@pytest.mark.parametrize("is_cut", [False, True], ids=["whole", "cut"])
def test_a_finished_stream_is_replayed_and_a_cut_one_never(gateway: Gateway, origin: Origin, is_cut: bool) -> None:
    """What ended with [DONE] comes again as it was; what broke off is not kept."""
    origin.fields = (("Content-Type", "text/event-stream"),)
    origin.pieces = (b'data: {"a":1}\n\n', b"data: [DONE]\n\n")
    origin.is_cut = is_cut
    token = gateway.token()
    body = json.dumps({"stream": True, "n": time.monotonic_ns()}).encode()

    def ask() -> tuple[int, dict[str, str], bytes]:
        return gateway.ask("POST", "/v1/chat/completions", body, token=token, headers=OPT_IN)

    if is_cut:
        for _ in range(2):
            with pytest.raises(Exception, match=r"IncompleteRead|bytes read"):
                ask()
        assert origin.count("/v1/chat/completions") == 2
    else:
        first, second = ask(), ask()
        assert (state(first), state(second)) == ("stored", "hit")
        assert first[2] == second[2] == b"".join(origin.pieces)
        assert second[1]["Content-Type"] == "text/event-stream"


def test_a_stale_response_is_validated_and_served(gateway: Gateway, origin: Origin, path: str) -> None:
    """The provider says 304, the client without a copy gets the stored 200."""
    origin.fields = (("Cache-Control", "public, max-age=0"), ("ETag", '"v1"'))
    token = gateway.token()
    gateway.ask("GET", path, token=token)
    status, fields, body = gateway.ask("GET", path, token=token)
    assert (status, body, fields["X-PROXY-CACHE"]) == (200, b"the response", "revalidated")
    assert origin.asked[-1][2]["if-none-match"] == '"v1"'
    eventually(lambda: gateway.request_count(token) == 2)


def test_a_client_that_has_it_gets_304(gateway: Gateway, origin: Origin, path: str) -> None:
    """Weakly compared, without a question to the provider."""
    origin.fields = (*PUBLIC, ("ETag", '"v1"'), ("X-More", "1"))
    token = gateway.token()
    gateway.ask("GET", path, token=token)
    status, fields, body = gateway.ask("GET", path, token=token, headers={"If-None-Match": 'W/"v1"'})
    assert (status, body, fields["X-PROXY-CACHE"], fields["ETag"]) == (304, b"", "conditional-hit", '"v1"')
    assert "X-More" not in fields
    assert origin.count(path) == 1


def test_head_is_answered_from_a_stored_get(gateway: Gateway, origin: Origin, path: str) -> None:
    """Same fields, no body."""
    token = gateway.token()
    gateway.ask("GET", path, token=token)
    status, fields, body = gateway.ask("HEAD", path, token=token)
    assert (status, body, fields["Content-Length"], fields["X-PROXY-CACHE"]) == (200, b"", "12", "hit")


def test_only_if_cached_is_never_sent_upstream(gateway: Gateway, origin: Origin, path: str) -> None:
    """504 `not_cached`, OpenAI's object."""
    token = gateway.token()
    status, _, body = gateway.ask("GET", path, token=token, headers={"Cache-Control": "only-if-cached"})
    assert (status, json.loads(body)["error"]["code"]) == (504, "not_cached")
    assert origin.count(path) == 0


def test_a_dead_or_spent_token_gets_nothing_stored(gateway: Gateway, origin: Origin, path: str) -> None:
    """Hits are for those whose request would have been sent."""
    spent = gateway.token(max_requests=1)
    good = gateway.token(project_id=spent.project_id)
    gateway.ask("GET", path, token=good)
    assert gateway.ask("GET", f"{path}-other", token=spent)[0] == 200
    status, _, body = gateway.ask("GET", path, token=spent)
    assert (status, json.loads(body)["code"]) == (429, "rate_limit_exceeded")


def test_identical_misses_are_one_question(gateway: Gateway, origin: Origin, path: str) -> None:
    """One fetch over both workers; all get the response."""
    origin.pause_s = 0.5
    token = gateway.token()
    with ThreadPoolExecutor(60) as pool:
        responses = list(pool.map(lambda _: gateway.ask("GET", path, token=token), range(60)))
    assert {(status, body) for status, _, body in responses} == {(200, b"the response")}
    assert origin.count(path) == 1


def test_identical_misses_that_cannot_be_stored_all_get_their_own(gateway: Gateway, origin: Origin, path: str) -> None:
    """No request waits for what never comes."""
    origin.fields, origin.pause_s = (), 0.2
    token = gateway.token()
    began = time.monotonic()
    with ThreadPoolExecutor(20) as pool:
        responses = list(pool.map(lambda _: gateway.ask("GET", path, token=token), range(20)))
    assert {(status, body) for status, _, body in responses} == {(200, b"the response")}
    assert origin.count(path) == 20
    assert time.monotonic() - began < 10


@pytest.mark.parametrize("kind", ["key", "address", "prefix", "project", "all"])
def test_a_purge_is_felt_by_every_worker_at_once(gateway: Gateway, origin: Origin, path: str, kind: str) -> None:
    """Committed when it is answered; no worker serves what was stored before it."""
    token = gateway.token()
    key = gateway.ask("GET", path, token=token)[1]["X-PROXY-CACHE-KEY"]
    bodies: dict[str, dict[str, Any]] = {
        "key": {"key": key},
        "address": {"method": "GET", "url": path},
        "prefix": {"prefix": path},
        "project": {"project_id": token.project_id},
        "all": {"all": True},
    }
    assert purge(gateway, **bodies[kind]) >= 1
    origin.pieces = (b"new",)
    assert {gateway.ask("GET", path, token=token)[2] for _ in range(10)} == {b"new"}
    assert origin.count(path) <= 3  # a worker that is just learning of the purge asks the provider instead


def test_a_write_makes_lists_old(gateway: Gateway, origin: Origin, path: str) -> None:
    """A POST that is no question invalidates GETs of its path and its parents."""
    token = gateway.token()
    parent = "/v1/models"
    gateway.ask("GET", parent, token=token)
    gateway.ask("GET", path, token=token)
    assert gateway.ask("POST", path, b"{}", token=token)[0] == 200
    assert [state(gateway.ask("GET", target, token=token)) for target in (parent, path)] == ["stored", "stored"]


def test_counters_tell_hits_misses_bypass_and_stores(gateway: Gateway, origin: Origin, path: str) -> None:
    """Over all workers."""
    names = ("hits", "misses", "bypass", "stores")
    before = [gateway.metric(f"llm_proxy_cache_{name}_total") for name in names]
    token = gateway.token()
    gateway.ask("GET", path, token=token)
    gateway.ask("GET", path, token=token)
    gateway.ask("POST", "/v1/embeddings", BODY, token=token)
    after = [gateway.metric(f"llm_proxy_cache_{name}_total") for name in names]
    assert [b - a for a, b in zip(before, after, strict=True)] == [1, 1, 1, 1]


def test_replicas_without_redis_learn_of_a_purge_by_the_database(tmp_path: Path, origin: Origin, path: str) -> None:
    """Two servers with their own stores on one database: within a second neither serves what was purged."""
    database, key = str(tmp_path / "shared.db"), "0" * 43 + "="
    with (
        running_gateway(tmp_path / "a", origin.url, DATABASE_PATH=database, ENCRYPTION_KEY=key) as one,
        running_gateway(tmp_path / "b", origin.url, DATABASE_PATH=database, ENCRYPTION_KEY=key) as other,
    ):
        headers = {"Authorization": f"Bearer {MANAGEMENT_TOKEN}"}
        project = json.loads(
            one.ask("POST", "/manage/projects", b'{"name": "p", "api_key": "sk-provider"}', headers=headers)[2]
        )["id"]
        wanted = json.dumps({"project_id": project, "duration_minutes": 5}).encode()
        bearer = json.loads(one.ask("POST", "/manage/tokens", wanted, headers=headers)[2])["token"]
        as_app = {"Authorization": f"Bearer {bearer}"}
        assert [state(each.ask("GET", path, headers=as_app)) for each in (one, other)] == ["stored", "stored"]
        origin.pieces = (b"new",)
        purge(one, all=True)
        assert one.ask("GET", path, headers=as_app)[2] == b"new"
        eventually(lambda: other.ask("GET", path, headers=as_app)[2] == b"new", within_s=1.0)


@pytest.mark.times
def test_redis_that_hangs_costs_a_request_little_and_never_an_error(
    tmp_path: Path, origin: Origin, path: str, redis_server: RedisServer
) -> None:
    """Stored for all while Redis answers; a look-up waits 50 ms at most, then the cache is left alone."""
    with running_gateway(
        tmp_path / "g", origin.url, HTTP_CACHE_BACKEND="redis", REDIS_ADDR=redis_server.addr
    ) as gateway:
        token = gateway.token()
        assert state(gateway.ask("GET", path, token=token)) == "stored"
        eventually(lambda: state(gateway.ask("GET", path, token=token)) == "hit")
        redis_server.pause()
        try:
            slowest = 0.0
            for _ in range(10):
                began = time.monotonic()
                assert gateway.ask("GET", path, token=token)[0] == 200
                slowest = max(slowest, time.monotonic() - began)
            assert slowest < 0.5
            assert gateway.metric("llm_proxy_cache_backend_errors_total") >= 1
        finally:
            redis_server.resume()
        eventually(lambda: state(gateway.ask("GET", path, token=token)) == "hit")


def test_a_cache_that_is_off_is_not_seen(tmp_path: Path, origin: Origin, path: str) -> None:
    """No look-up, no store, no fields, no counts; a purge says so."""
    origin.fields = PUBLIC
    with running_gateway(tmp_path, origin.url, HTTP_CACHE_ENABLED="false", LOG_LEVEL="debug") as gateway:
        token = gateway.token()
        for _ in range(2):
            fields = gateway.ask("GET", path, token=token)[1]
            assert not {"X-PROXY-CACHE", "X-PROXY-CACHE-KEY", "Cache-Status", "Age", "X-CACHE-DEBUG"} & set(fields)
        assert origin.count(path) == 2
        counts = gateway.metrics("llm_proxy_cache_")
        assert [counts[f"llm_proxy_cache_{name}_total"] for name in ("hits", "misses", "bypass", "stores")] == [0] * 4
        headers = {"Authorization": f"Bearer {MANAGEMENT_TOKEN}"}
        status, _, body = gateway.ask("POST", "/manage/cache/purge", b"{}", headers=headers)
        assert (status, json.loads(body)) == (400, {"error": "caching is disabled"})


def test_why_a_response_is_not_kept_is_told_at_debug_level_alone(
    tmp_path: Path, gateway: Gateway, origin: Origin, path: str
) -> None:
    """The fields of a cached response are the promised ones."""
    origin.fields = (("Cache-Control", "public, no-store"),)
    assert "X-CACHE-DEBUG" not in gateway.ask("GET", path, token=gateway.token())[1]
    with running_gateway(tmp_path, origin.url, LOG_LEVEL="debug") as talkative:
        response = talkative.ask("GET", path, token=talkative.token())
        assert (state(response), response[1]["X-CACHE-DEBUG"]) == ("miss", "ttl-zero-no-store")
