"""Purges beside stores, poisoned requests, stale responses, and the sums of the accounting table."""

import json
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
from e2e.cache.conftest import BODY, OPT_IN, PUBLIC, Origin, purge, state
from support.gateway import Gateway, eventually
from support.raw import Client


def test_what_was_fetched_before_a_purge_is_not_served_after_it(gateway: Gateway, origin: Origin, path: str) -> None:
    """The response was under way when the purge was confirmed: it reaches its client, and no other."""
    origin.pieces, origin.pause_s = (b"old",), 1.0
    token = gateway.token()
    with ThreadPoolExecutor(1) as pool:
        under_way = pool.submit(gateway.ask, "GET", path, token=token)
        eventually(lambda: origin.count(path) == 1)
        purge(gateway, method="GET", url=path)
        assert under_way.result()[2] == b"old"
    origin.pieces, origin.pause_s = (b"new",), 0.0
    assert {gateway.ask("GET", path, token=token)[2] for _ in range(8)} == {b"new"}


def test_no_old_response_after_any_of_many_purges(gateway: Gateway, origin: Origin, path: str) -> None:
    """Readers on both workers, a provider whose content changes, purges between: what is confirmed is gone."""
    token = gateway.token()
    stop, wrong, confirmed = threading.Event(), list[tuple[int, int]](), [0]

    def read() -> None:
        while not stop.is_set():
            least = confirmed[0]  # noted before the request leaves
            found = int(gateway.ask("GET", path, token=token)[2])
            if found < least:
                wrong.append((found, least))

    origin.pieces = (b"0",)
    with ThreadPoolExecutor(6) as pool:
        readers = [pool.submit(read) for _ in range(6)]
        for number in range(1, 26):
            origin.pieces = (b"%d" % number,)
            purge(gateway, **({"prefix": path} if number % 2 else {"project_id": token.project_id}))
            confirmed[0] = number
            time.sleep(0.03)
        stop.set()
        for reader in readers:
            reader.result()
    assert wrong == []


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("?a=1&a=2", "?a=2&a=1"),
        ("?a=1", "?a=1&a="),
        ("?a", "?a="),
        ("?a=%2F", "?a=/"),
        ("?a=1&%61=2", "?%61=2&a=1"),
        ("?a[]=1&a[0]=2", "?a[0]=2&a[]=1"),
        ("?a=1;b=2&b=3", "?b=3&a=1;b=2"),
        ("?a=%C3%A9", "?a=e%CC%81"),
        ("?q=A", "?q=a"),
        ("-%41", "-A"),
        ("-%7e", "-~"),
    ],
)
def test_targets_that_a_provider_may_tell_apart_share_no_response(
    gateway: Gateway, origin: Origin, path: str, one: str, other: str
) -> None:
    """Query order, repeated parameters, encodings, unicode: each is asked for itself."""
    token = gateway.token()
    origin.pieces = (b"first",)
    gateway.ask("GET", path + one, token=token)
    origin.pieces = (b"second",)
    with Client(gateway.address) as client:
        client.send(_raw("GET", path + other, token.bearer))
        response = client.response()
    assert (response.status, response.body) == (200, b"second")


def _raw(method: str, target: str, bearer: str, *fields: str) -> bytes:
    lines = [f"{method} {target} HTTP/1.1", "Host: x", f"Authorization: Bearer {bearer}", *fields, "", ""]
    return "\r\n".join(lines).encode("latin-1")


@pytest.mark.parametrize(
    "fields",
    [
        ("X-Lang: b",),
        ("x-lang: a", "X-LANG: b"),
        ("X-Lang: a, b",),
        ("X-Lang:",),
        (),
        ("X_Lang: a",),
    ],
    ids=["other", "two lines", "one list", "empty", "absent", "underscore"],
)
def test_fields_that_a_response_varies_by_are_compared_whole(
    gateway: Gateway, origin: Origin, path: str, fields: tuple[str, ...]
) -> None:
    """Header case does not matter, lines and values do; a name with an underscore is another name."""
    origin.fields = (*PUBLIC, ("Vary", "X-Lang"))
    token = gateway.token()
    origin.pieces = (b"for a",)
    with Client(gateway.address) as client:
        client.send(_raw("GET", path, token.bearer, "X-Lang: a"))
        assert client.response().value("X-PROXY-CACHE") == "stored"
        client.send(_raw("GET", path, token.bearer, "x-LANG:   a  "))
        assert client.response().value("X-PROXY-CACHE") == "hit"
        origin.pieces = (b"for others",)
        client.send(_raw("GET", path, token.bearer, *fields))
        assert client.response().body == b"for others"


def test_a_body_hash_of_the_clients_is_not_believed(gateway: Gateway, origin: Origin, path: str) -> None:
    """Two bodies are two responses, whatever X-Body-Hash says, and it goes nowhere."""
    token = gateway.token()
    headers = OPT_IN | {"X-Body-Hash": "0" * 64}
    target = f"/v1/embeddings?{path}"
    origin.pieces = (b"first",)
    gateway.ask("POST", target, BODY, token=token, headers=headers)
    origin.pieces = (b"second",)
    assert gateway.ask("POST", target, BODY + b" ", token=token, headers=headers)[2] == b"second"
    assert all("x-body-hash" not in fields for _, asked, fields in origin.asked if asked == target)


def test_accounts_of_one_key_share_no_response(gateway: Gateway, origin: Origin, path: str) -> None:
    """OpenAI-Organization and its kin choose whose data is shown; Vary does not name them."""
    token = gateway.token()
    origin.pieces = (b"of one",)
    gateway.ask("GET", path, token=token, headers={"OpenAI-Organization": "one"})
    origin.pieces = (b"of two",)
    assert gateway.ask("GET", path, token=token, headers={"OpenAI-Organization": "two"})[2] == b"of two"


@pytest.mark.times
def test_stale_while_revalidate_responds_at_once_and_fetches_behind(
    gateway: Gateway, origin: Origin, path: str
) -> None:
    """RFC 5861 §3: the client does not wait; the fetch is a request of its token's, with its own id."""
    origin.fields = (("Cache-Control", "public, max-age=1, stale-while-revalidate=60"),)
    token = gateway.token()
    assert state(gateway.ask("GET", path, token=token)) == "stored"
    time.sleep(1.2)
    origin.pieces, origin.pause_s = (b"newer",), 0.5  # which is part of the new response's age
    origin.fields = (("Cache-Control", "public, max-age=60"),)
    began = time.monotonic()
    responses = [gateway.ask("GET", path, token=token) for _ in range(5)]
    assert time.monotonic() - began < 0.45
    assert {(state(response), response[2]) for response in responses} == {("hit", b"the response")}
    eventually(lambda: gateway.ask("GET", path, token=token)[2] == b"newer")
    assert origin.count(path) == 2
    eventually(lambda: gateway.request_count(token) == 2)
    first, second = (fields["x-request-id"] for _, asked, fields in origin.asked if asked == path)
    assert first != second


@pytest.mark.parametrize("failure", ["503", "broken"])
def test_stale_if_error_responds_for_a_provider_that_fails(
    gateway: Gateway, origin: Origin, path: str, failure: str
) -> None:
    """RFC 5861 §4: a stale response, which is no error of the client's; without leave the failure is passed on."""
    origin.fields = (("Cache-Control", "public, max-age=1, stale-if-error=60"),)
    token = gateway.token()
    gateway.ask("GET", path, token=token)
    origin.fields = (("Cache-Control", "public, max-age=1"),)
    gateway.ask("GET", f"{path}-plain", token=token)
    time.sleep(1.2)
    errors = gateway.metric("llm_proxy_errors_total")
    origin.status, origin.fields = (503, ()) if failure == "503" else (-1, ())
    response = gateway.ask("GET", path, token=token)
    assert (response[0], response[2], state(response)) == (200, b"the response", "hit")
    assert int(response[1]["Age"]) >= 1
    assert gateway.metric("llm_proxy_errors_total") == errors
    assert gateway.ask("GET", f"{path}-plain", token=token)[0] == (503 if failure == "503" else 502)
    origin.status = 200
    gateway.ask("GET", f"{path}-well", token=token)  # closes the circuit's count


def test_the_sums_of_the_accounting_table_hold(gateway: Gateway, origin: Origin, path: str) -> None:
    """R = Σ up + H + Σ rejected (+ gone before dispatch), over all kinds of endings."""
    names = {"R": "llm_proxy_requests_total", "H": "llm_proxy_cache_hits_total", "E": "llm_proxy_errors_total"}

    def counts() -> dict[str, float]:
        found = {short: gateway.metric(name) for short, name in names.items()}
        found["up"] = sum(gateway.metrics("llm_proxy_upstream_requests_total").values())
        found["rejected"] = sum(gateway.metrics("llm_proxy_rejected_total").values())
        found["gone"] = gateway.metric('llm_proxy_client_disconnects_total{phase="before_dispatch"}')
        return found

    token = gateway.token()
    origin.fields = (("Cache-Control", "public, max-age=600"), ("ETag", '"a"'))
    eventually(lambda: gateway.metric("llm_proxy_inflight_requests") == 0)
    before = counts()
    statuses = [
        gateway.ask("GET", path, token=token)[0],  # stored
        gateway.ask("GET", path, token=token)[0],
        gateway.ask("GET", path, token=token, headers={"If-None-Match": '"a"'})[0],
        gateway.ask("GET", path, token=token, headers={"Cache-Control": "no-cache"})[0],
        gateway.ask("HEAD", path, token=token)[0],
        gateway.ask("GET", f"{path}-x", token=token, headers={"Cache-Control": "only-if-cached"})[0],
        gateway.ask("POST", "/v1/embeddings", BODY, token=token)[0],  # bypass
        gateway.ask("GET", path, headers={"Authorization": "Bearer sk-unknown"})[0],
    ]
    assert statuses == [200, 200, 304, 200, 200, 504, 200, 401]
    eventually(lambda: counts()["R"] - before["R"] == 8)
    after = {name: value - before[name] for name, value in counts().items()}
    assert after == {"R": 8, "H": 3, "up": 3, "rejected": 2, "gone": 0, "E": 2}
    eventually(lambda: gateway.request_count(token) == 3)
    eventually(lambda: gateway.rows("SELECT cache_hit_count FROM tokens WHERE id = ?", (token.id,)) == [(3,)])


def test_purges_respond_as_the_reference_and_take_one_scope_at_a_time(
    gateway: Gateway, origin: Origin, path: str
) -> None:
    """Exact is true or false, all others count; two scopes at once are refused."""
    token = gateway.token()
    assert purge(gateway, method="GET", url=path) is False
    gateway.ask("GET", path, token=token)
    assert purge(gateway, method="get", url=f"https://api.openai.com{path}", project_id=token.project_id) is True
    gateway.ask("GET", path, token=token)
    assert purge(gateway, method="GET", url="/ignored", prefix=path) == 1
    for body in ({"all": True, "key": "v1:x"}, {"key": "v1:x", "prefix": "/v1"}, {"all": True, "project_id": "p"}):
        headers = {"Authorization": f"Bearer {gateway.env['MANAGEMENT_TOKEN']}"}
        status, _, response = gateway.ask("POST", "/manage/cache/purge", json.dumps(body).encode(), headers=headers)
        assert (status, list(json.loads(response))) == (400, ["error"])
