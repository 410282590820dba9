"""Reference pages made from the code: `python tools/reference_pages.py docs/reference`.

docs/reference/errors.md comes from `llm_proxy.errors`, docs/reference/metrics.md from `llm_proxy.metrics`,
`llm_proxy.runtime_metrics` and `llm_proxy.web.measured`, docs/reference/audit-actions.md from
`llm_proxy.model.audit_actions`, docs/reference/roles.md from `llm_proxy.access.roles`. A test compares the pages with
what this module makes.
"""

import sys
from collections.abc import Iterator
from pathlib import Path

from prometheus_client import CollectorRegistry

from llm_proxy import errors, runtime_metrics
from llm_proxy.access.roles import OPERATIONS, Role
from llm_proxy.metrics import REGISTRY
from llm_proxy.model.audit_actions import AuditAction
from llm_proxy.web import measured

_ERRORS = """# Error codes

The proxy's own error responses. Errors of the provider pass through unchanged; they have the provider's form and codes.

On `/v1` an error is OpenAI's error object, with `code` and, where there is more to say, `description` beside it:

```json
{"error": {"message": "Token has expired", "type": "authentication_error", "code": "token_expired", "param": null},
 "code": "token_expired"}
```

On `/manage` it is a flat object: `{"error": "invalid request body"}`, with `code` where the table names one.

**Retry** says what a client should do: *no* means that the same request fails again; *after a pause* means that a retry
can succeed (honor `Retry-After` where it is present). Stock SDKs follow `x-should-retry: false`.

This page is made from `llm_proxy/errors.py` by `python tools/reference_pages.py docs/reference`.
"""
_ERROR_COLUMNS = "| Status | Code | Type | Message | Meaning | Retry |\n|---|---|---|---|---|---|\n"
_METRICS = """# Metrics

`GET /metrics` returns these metrics in the Prometheus text format, added up over all workers of the server. No metric
carries a token, a project or a path. The dispatcher has its own metrics on its own port
([events](../events.md)).

This page is made from `llm_proxy/metrics.py`, `llm_proxy/runtime_metrics.py` and `llm_proxy/web/measured.py` by
`python tools/reference_pages.py docs/reference`.

| Metric | Type | Labels | Meaning |
|---|---|---|---|
"""
_ROLES = """# Roles

Which role may use which operation of the management API, and what a limit to projects does to it. `operator` includes
`viewer` and `issuer`; `admin` includes all. A caller without a limit to projects sees all of them
([management keys](../management-keys.md)).

A project that the caller may not see is 404, whatever its role; otherwise a missing right is 403 and names the role
that would do.

This page is made from `llm_proxy/access/roles.py` by `python tools/reference_pages.py docs/reference`.

| Operation | Method and path | issuer | viewer | operator | admin | Touches |
|---|---|---|---|---|---|---|
"""
_ACTIONS = """# Audit actions

Each record of the audit trail has one of these actions. Its `outcome` is `success`, `failure` (the call was refused for
what it asked), `denied` (it was not allowed) or `error` (the server could not do it). Form and storage of records:
[security](../security.md).

This page is made from `llm_proxy/model/audit_actions.py` by `python tools/reference_pages.py docs/reference`.

| Action | Recorded when |
|---|---|
"""
_NOT_RENDERED = (errors.ClientGone, errors.UpstreamCut)  # nothing is sent: the connection is gone or is cut


def error_page() -> str:
    """Return docs/reference/errors.md."""
    groups = (
        ("Requests to the proxied API", False),
        ("The management API", True),
    )
    pieces = [_ERRORS]
    for title, is_management in groups:
        pieces.append(
            f"\n## {title}\n\n| Status | Code | Type | Message | Meaning | Retry |\n|---|---|---|---|---|---|\n"
        )
        pieces += [_error_row(each) for each in _errors(is_management)]
    return "".join(pieces)


def _errors(is_management: bool) -> Iterator[type[errors.LlmProxyError]]:
    found = [
        each
        for each in vars(errors).values()
        if isinstance(each, type)
        and issubclass(each, errors.LlmProxyError)
        and issubclass(each, errors.ManagementError) is is_management
        and each not in (errors.LlmProxyError, errors.ManagementError, *_NOT_RENDERED)
    ]
    return iter(sorted(found, key=lambda each: (each.status, each.code or "", each.message)))


def _error_row(each: type[errors.LlmProxyError]) -> str:
    meaning = (each.__doc__ or "").split("\n\n")[0]
    code = f"`{each.code}`" if each.code else "–"
    return (
        f"| {each.status} | {code} | `{each.type}` | {each.message} | {' '.join(meaning.split())} | {_retry(each)} |\n"
    )


def _retry(each: type[errors.LlmProxyError]) -> str:
    if ("x-should-retry", "false") in each.fields:
        return "no"
    return "after a pause" if each.status in (408, 429) or each.status >= 500 else "no"


def metric_page(registry: CollectorRegistry = REGISTRY) -> str:
    """Return docs/reference/metrics.md."""
    assert runtime_metrics.GREENLETS  # imported: its metrics belong to the page
    assert measured.__name__  # imported as well
    rows = []
    for collector in list(registry._collector_to_names):
        name = getattr(collector, "_name", None)
        if name is None:
            continue
        kind = collector._type  # type: ignore[attr-defined]
        is_total = kind == "counter" and not name.endswith(("_alloc_bytes", "_total_seconds"))
        shown = f"{name}_total" if is_total else name
        labels = ", ".join(f"`{label}`" for label in collector._labelnames) or "–"  # type: ignore[attr-defined]
        rows.append(f"| `{shown}` | {kind} | {labels} | {collector._documentation} |\n")  # type: ignore[attr-defined]
    return _METRICS + "".join(sorted(rows))


def role_page() -> str:
    """Return docs/reference/roles.md."""
    rows = []
    for row in OPERATIONS.values():
        allowed = " | ".join("yes" if row.allows(role) else "–" for role in Role)
        rows.append(f"| {row.title} | `{row.method} {row.path}` | {allowed} | {row.reach.value} |\n")
    return _ROLES + "".join(rows)


def action_page() -> str:
    """Return docs/reference/audit-actions.md."""
    return _ACTIONS + "".join(f"| `{action}` | {action.meaning} |\n" for action in AuditAction)


PAGES = {
    "audit-actions.md": action_page,
    "errors.md": error_page,
    "metrics.md": metric_page,
    "roles.md": role_page,
}


def main(folder: Path) -> None:
    """Write every page into the folder."""
    for name, make in PAGES.items():
        (folder / name).write_text(make())


if __name__ == "__main__":
    main(Path(sys.argv[1]))
