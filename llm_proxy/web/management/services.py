"""What the management plane needs of its process."""

from typing import Protocol

from llm_proxy.access.gate import Gate
from llm_proxy.access.service import KeyService
from llm_proxy.audit.query import AuditLog
from llm_proxy.audit.writer import AuditWriter
from llm_proxy.cache.scopes import Scope
from llm_proxy.db.idempotency import IdempotencyKeys
from llm_proxy.projects.provider_keys import ProviderKeyService
from llm_proxy.projects.service import ProjectService
from llm_proxy.settings import Settings
from llm_proxy.tokens.service import TokenService
from llm_proxy.usage.query import UsageLog


class Purge(Protocol):
    """A cache that can be emptied in part."""

    def purge(self, scope: Scope) -> int:
        """Take away what a scope covers, for every replica, and commit that; how many entries were here."""


class ManagementServices(Protocol):
    """The services behind the views."""

    @property
    def settings(self) -> Settings:
        """All settings."""

    @property
    def projects(self) -> ProjectService:
        """The rules of projects."""

    @property
    def provider_keys(self) -> ProviderKeyService:
        """The rules of keys for providers side by side."""

    @property
    def provider_names(self) -> tuple[str, ...]:
        """Names of the providers that are served, the default one first."""

    @property
    def wants_sk_keys(self) -> bool:
        """Whether provider keys must begin with `sk-`."""

    @property
    def tokens(self) -> TokenService:
        """The rules of tokens."""

    @property
    def audit(self) -> AuditWriter:
        """Writes the audit trail."""

    @property
    def audit_log(self) -> AuditLog:
        """Reads the audit trail."""

    @property
    def usage(self) -> UsageLog:
        """Reads what was used."""

    @property
    def idempotency(self) -> IdempotencyKeys:
        """Creations that are done once."""

    @property
    def gate(self) -> Gate:
        """Admits callers."""

    @property
    def keys(self) -> KeyService:
        """The rules of management keys."""

    @property
    def cache_purge(self) -> Purge | None:
        """The cache; None when caching is off."""
