"""Measure every list of a running server: `python -m tools.scale.measure http://127.0.0.1:8080 [--rounds N] …`.

MANAGEMENT_TOKEN is read from the environment. Each address is requested `--rounds` times, one after another, over one
connection; the first request is shown apart, because it meets no kept sum. Times are of whole responses, in ms.
"""

import argparse
import http.client
import os
import re
import sys
import time
from collections.abc import Iterator, Mapping
from urllib.parse import quote, urlencode, urlsplit

import orjson

LIMIT_MS = 200.0
_TOKEN_SORTS = ("created_at", "expires_at", "last_used_at", "request_count")


class Client:
    """One connection that keeps cookies."""

    def __init__(self, url: str) -> None:
        self._url = urlsplit(url)
        self._cookies: dict[str, str] = {}
        self._connection = http.client.HTTPConnection(self._url.hostname or "", self._url.port, timeout=120)

    def send(self, method: str, path: str, fields: Mapping[str, str], body: str = "") -> tuple[int, bytes]:
        """Return status and content."""
        cookie = "; ".join(f"{name}={value}" for name, value in self._cookies.items())
        self._connection.request(method, path, body or None, {**fields, **({"Cookie": cookie} if cookie else {})})
        response = self._connection.getresponse()
        for name, value in response.getheaders():
            if name.lower() == "set-cookie":
                key, _, rest = value.partition("=")
                self._cookies[key] = rest.partition(";")[0]
        return response.status, response.read()

    def sign_in(self, token: str) -> None:
        """Begin a session of the admin UI."""
        _, page = self.send("GET", "/admin/auth/login", {})
        form = re.search(rb'name="csrf_token" value="([^"]+)"', page)
        if form is None:
            raise SystemExit("the admin UI shows no form to sign in")
        body = urlencode({"csrf_token": form[1].decode(), "management_token": token, "next": ""})
        status, _ = self.send("POST", "/admin/auth/login", {"Content-Type": "application/x-www-form-urlencoded"}, body)
        if status != 303:
            raise SystemExit(f"sign-in failed with {status}")


def _one(client: Client, path: str, fields: Mapping[str, str]) -> dict[str, str]:
    found = orjson.loads(client.send("GET", path, fields)[1])
    rows = found["events"] if isinstance(found, dict) else found
    row: dict[str, str] = rows[0]
    return row


def _lists(client: Client, fields: Mapping[str, str]) -> Iterator[str]:
    """Yield the addresses of the management API."""
    token = _one(client, "/manage/tokens?limit=1", fields)
    event = _one(client, "/manage/audit?limit=1&action=proxy_request", fields)
    project = token["project_id"]
    tokens = [f"sort={sign}{sort}" for sort in _TOKEN_SORTS for sign in ("", "-")]
    tokens += [f"status={status}" for status in ("active", "expired", "revoked", "rate_limited")]
    tokens += [f"status=rate_limited&sort={sort}" for sort in _TOKEN_SORTS]
    tokens += [f"project_id={project}&sort={sort}" for sort in _TOKEN_SORTS]
    tokens += [f"search={text}" for text in (token["id"][:8], "laptop", "nothing-has-it")]
    tokens += [f"status=rate_limited&search={token['id'][:8]}", "active_only=true"]
    for query in tokens:
        yield f"/manage/tokens?limit=25&{query}"
    for query in ("", "status=active&", f"project_id={project}&"):
        yield f"/manage/tokens?page=1&{query}"
    yield "/manage/tokens?page=4000"
    for query in ("sort=name", "sort=-created_at", "sort=updated_at", "search=billing", "is_active=false"):
        yield f"/manage/projects?limit=25&{query}"
    yield "/manage/keys?limit=25"
    names = ("action", "actor", "outcome", "project_id", "token_id", "client_ip", "method", "path", "request_id")
    audit = [f"{name}={quote(event[name])}" for name in names]
    audit += ["path=/v1/models/rare-5000", "path=/nothing", "search=rare-5000", "search=chat", "search=nothing-has-it"]
    audit += ["sort=asc", "sort=asc&search=nothing-has-it"]
    for query in audit:
        yield f"/manage/audit?limit=25&{query}"
    for query in ("", "page=1000&", "page=25000&", "outcome=denied&", "action=token.create&", "path=/nothing&"):
        yield f"/manage/audit?page_size=20&{query}"
    yield "/manage/audit?search=nothing-has-it"
    year = "from=2000-01-01"
    for group in ("", "project", "token", "model", "day"):
        yield f"/manage/usage?group_by={group}&{year}"
        yield f"/manage/usage?group_by={group}"
    yield f"/manage/usage?group_by=day&project_id={project}&{year}"
    for group in ("", "code", "hour", "project", "token"):
        yield f"/manage/outcomes?group_by={group}"
    yield f"/manage/outcomes?group_by=code&token_id={token['id']}"
    yield f"/manage/outcomes?group_by=code&from=2000-01-01&project_id={project}"
    yield "/manage/outcomes?group_by=code&from=2000-01-01"
    yield "/manage/stats"


def _pages(client: Client, fields: Mapping[str, str]) -> Iterator[str]:
    """Yield the addresses of the admin UI."""
    token = _one(client, "/manage/tokens?limit=1", fields)
    project, year = token["project_id"], "from=2000-01-01"
    first = _one(client, "/manage/projects?limit=1", fields)["id"]
    yield from ("dashboard", "tokens", "tokens?page=1", "tokens?page=4000")
    for query in ("status=rate_limited", "status=expired", "search=laptop", "search=nothing-has-it"):
        yield f"tokens?{query}"
    yield f"tokens?project_id={project}&sort=-last_used_at"
    yield f"tokens/{token['id']}"
    yield from ("projects", "projects?search=billing", f"projects/{first}", f"projects/{first}/revoke-tokens")
    yield from ("audit", "audit?search=nothing-has-it", "audit?search=chat", "audit?path=/nothing", "audit?page=2")
    yield "audit?page=25000"
    for group in ("day", "project", "token", "model"):
        yield f"usage?group={group}"
        yield f"usage?group={group}&{year}"
    yield from ("usage/plot/cost", f"usage/plot/cost?{year}", "keys", "people", "streams", "doctor")


def _report(path: str, took_ms: list[float], size: int, status: int) -> bool:
    first, rest = took_ms[0], sorted(took_ms[1:]) or took_ms
    p50, p95 = rest[len(rest) // 2], rest[min(len(rest) - 1, int(len(rest) * 0.95))]
    is_slow = status >= 400 or max(p95, first) > LIMIT_MS
    mark = f"  {status}" if status >= 400 else "  slow" if is_slow else ""
    print(f"{first:8.1f} {p50:8.1f} {p95:8.1f} {size / 1024:8.1f}  {path}{mark}", flush=True)
    return not is_slow


def main() -> None:
    """Request everything; end with 1 where a p95, or a first request, took more than 200 ms."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("url")
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--only", default="", help="addresses that contain it")
    asked = parser.parse_args()
    secret = os.environ["MANAGEMENT_TOKEN"]
    client, fields = Client(asked.url), {"Authorization": f"Bearer {secret}"}
    lists, pages = list(_lists(client, fields)), [f"/admin/{page}" for page in _pages(client, fields)]
    client.sign_in(secret)
    print(f"{'first':>8} {'p50':>8} {'p95':>8} {'KiB':>8}")
    is_good = True
    for path in [path for path in [*lists, *pages] if asked.only in path]:
        took_ms, status, content = list[float](), 0, b""
        for _ in range(asked.rounds + 1):
            began = time.perf_counter()
            status, content = client.send("GET", path, {} if path.startswith("/admin") else fields)
            took_ms.append((time.perf_counter() - began) * 1000)
        is_good &= _report(path, took_ms, len(content), status)
    sys.exit(0 if is_good else 1)


if __name__ == "__main__":
    main()
