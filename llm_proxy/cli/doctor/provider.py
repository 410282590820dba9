"""The provider: reachable, its certificate accepted, the projects' keys accepted, its clock like this machine's."""

import time
from collections.abc import Iterator, Sequence
from email.utils import parsedate_to_datetime

import requests
from sqlalchemy import text
from sqlalchemy.exc import SQLAlchemyError

from llm_proxy.cli.doctor.finding import CheckContext, Finding, fault, good, warning
from llm_proxy.cli.doctor.skew import compare
from llm_proxy.cli.management_client import words_of
from llm_proxy.crypto import KeyRing, UnopenableValue
from llm_proxy.db.engine import create_engine
from llm_proxy.db.errors import DatabaseFault
from llm_proxy.db.session import read_transaction
from llm_proxy.providers import Provider, ProviderFileError, load_provider
from llm_proxy.settings import Settings

_TIMEOUT_S = (5.0, 10.0)
_KEYS_TRIED = 10
_PATH = "/v1/models"
_AZURE, _AZURE_QUERY = "api-key", "?api-version=2024-10-21"  # Azure OpenAI finds nothing without a version
_OWN_KEYS = "SELECT id, name, api_key FROM projects WHERE is_active ORDER BY name"
_KEYS_BESIDE = (
    "SELECT k.id, p.name, k.api_key FROM project_keys k JOIN projects p ON p.id = k.project_id"
    " WHERE p.is_active AND k.provider = :provider ORDER BY p.name"
)
_CODES = {
    "unknown host": ("unknown-host", "correct base_url in the provider file, or OPENAI_API_URL; check DNS"),
    "connection refused": ("refused", "correct base_url in the provider file, or OPENAI_API_URL"),
    "no answer in time": ("timeout", "check the way out: firewall, HTTPS_PROXY"),
    "the HTTP proxy on the way failed": ("proxy", "correct HTTPS_PROXY, or add the provider to NO_PROXY"),
    "the connection failed": ("not-http", "what answers does not speak HTTP; correct base_url or OPENAI_API_URL"),
}


def provider(context: CheckContext) -> Iterator[Finding]:
    """Ask each provider for its list of models, without a key and with those of the projects."""
    try:
        found = load_provider(context.settings)
    except ProviderFileError:
        return  # said by the check of the file
    for served in (found.provider, *found.others):
        try:
            yield from _asked(served, context.settings, is_default=served is found.provider)
        except requests.RequestException as exc:
            words = words_of(exc)
            code, remedy = _CODES.get(words, ("tls", "check the certificate, REQUESTS_CA_BUNDLE and the clock"))
            yield fault(f"provider.{code}", f"{served.name} at {served.origin}: {words}", remedy)


def _asked(served: Provider, settings: Settings, *, is_default: bool) -> Iterator[Finding]:
    asked_at_s = time.time()
    status, date = _get(served, None)
    if status >= 500:
        what = f"{served.name} at {served.origin} answers {status}"
        yield fault("provider.unavailable", what, "look at the provider's status page; nothing is wrong here")
    elif 300 <= status < 400:
        what = f"{served.name} at {served.origin} redirects elsewhere"
        yield warning("provider.redirects", what, "set base_url or OPENAI_API_URL to where it points")
    else:
        yield good("provider", f"{served.name} at {served.origin} answers")
    if date is not None:
        yield from compare("provider", date, asked_at_s)
    yield from _keys(served, settings, None if is_default else served.name)


def _keys(served: Provider, settings: Settings, beside: str | None) -> Iterator[Finding]:
    accepted = 0
    for name, key in _project_keys(settings, beside):
        status, _ = _get(served, key)
        if status in (401, 403):
            what = f"{beside or 'the provider'} refuses the key of project {name} ({status})"
            command = "update ID --openai-key -" if beside is None else f"set-key ID {beside}"
            yield fault("provider.key-refused", what, f"llm-proxy manage project {command}")
        elif status == 429:
            yield warning("provider.rate-limited", f"the provider limits {name} (429)", "wait, or check its plan")
        elif status < 400:
            accepted += 1
    if accepted:
        yield good("provider.keys", f"{beside or 'the provider'} accepts the keys of {accepted} projects")


def _project_keys(settings: Settings, beside: str | None) -> Sequence[tuple[str, str]]:
    """Names and keys of the first active projects; none where the database does not give them (said by its check)."""
    ring, found = KeyRing.from_settings(settings.storage), []
    try:
        engine = create_engine(settings.storage)
        with read_transaction(engine) as connection:
            query = text(_OWN_KEYS if beside is None else _KEYS_BESIDE)
            rows = connection.execute(query, {} if beside is None else {"provider": beside}).fetchmany(_KEYS_TRIED)
        engine.dispose()
    except (DatabaseFault, SQLAlchemyError, OSError):
        return []
    for row_id, name, stored in rows:
        if not stored:
            continue
        try:
            found.append((str(name), ring.open(stored, row_id)))
        except UnopenableValue:
            continue  # said by the database's check
    return found


def _get(served: Provider, key: str | None) -> tuple[int, float | None]:
    """Status, and the Date field in seconds since 1970."""
    fields = {} if key is None else {served.auth_header: f"{served.credential_prefix}{key}"}
    session = requests.Session()
    session.auth = lambda request: request  # a netrc file must not add a password
    paths = (endpoint for endpoint in served.allowed_endpoints if endpoint.rstrip("/").endswith("/models"))
    url = served.origin + served.base_path + next(paths, _PATH)
    if served.auth_header.lower() == _AZURE:
        url += _AZURE_QUERY
    if served.error_shape == "anthropic":
        fields["anthropic-version"] = "2023-06-01"  # it refuses requests without
    with session, session.get(url, headers=fields, timeout=_TIMEOUT_S, allow_redirects=False, stream=True) as response:
        try:
            date = parsedate_to_datetime(response.headers["Date"]).timestamp()
        except (KeyError, ValueError, TypeError):
            return response.status_code, None
        return response.status_code, date
