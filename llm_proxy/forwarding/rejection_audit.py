"""Audit records of refused requests; queued and throttled by the writer."""

from typing import Any, Protocol

from llm_proxy.accounting.outcomes import Row
from llm_proxy.audit.record import AuditEvent
from llm_proxy.errors import LlmProxyError, ServiceUnavailable
from llm_proxy.forwarding.exchange import Exchange
from llm_proxy.model.audit_actions import AuditAction

ACTORS = {AuditAction.TOKEN_ACCESS: "anonymous", AuditAction.PROXY_REQUEST: "system"}


class Queue(Protocol):
    """Takes records without waiting or raising."""

    def offer(self, event: AuditEvent) -> None:
        """Queue it, or count it as one too many."""


class RejectionAudit:
    """Turns a refusal into a record.

    Args:
        queue: The audit writer.
    """

    def __init__(self, queue: Queue) -> None:
        self._queue = queue

    def report(self, exchange: Exchange, row: Row, error: BaseException | None) -> None:
        """Queue a record where the row has one."""
        action = row.audit
        if not action or error is None:
            return
        request, token = exchange.request, exchange.token
        reason = error.code if isinstance(error, LlmProxyError) else type(error).__name__
        details: dict[str, Any] = {
            "reason": reason,
            "http_method": request.method,
            "endpoint": request.path,
            "user_agent": request.values.get("USER-AGENT"),
            "token_id": None if token is None else token.id,
            "token": exchange.bearer_hint if token is None else token.hint,
        }
        self._queue.offer(
            AuditEvent(
                action,
                ACTORS.get(action, "system"),
                "error" if isinstance(error, ServiceUnavailable) else "denied",
                project_id=None if token is None else token.project_id,
                request_id=request.request_id,
                correlation_id=request.correlation_id,
                client_ip=request.client_addr,
                details={name: value for name, value in details.items() if value is not None},
            )
        )
