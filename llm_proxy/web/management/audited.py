"""One management call: its caller, where it comes from, and the audit record of how it ended."""

import logging
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from types import TracebackType
from typing import Any, Self

from flask import g, request
from werkzeug.exceptions import HTTPException

from llm_proxy.access.caller import CLI, ROLE_REQUIRED, Caller
from llm_proxy.audit.record import AuditEvent
from llm_proxy.audit.writer import AuditWriter
from llm_proxy.db.errors import is_unavailable
from llm_proxy.db.mutation import Mutation, mutation
from llm_proxy.errors import ClientGone, DatabaseUnavailable, LlmProxyError, ManagementError, ManagementFault
from llm_proxy.model.audit_actions import AuditAction
from llm_proxy.web import context
from llm_proxy.web.management import parsing

_LOG = logging.getLogger(__name__)

ANONYMOUS = "anonymous"
_CUT = 1024  # characters of what a client says about itself


class Call:
    """The call that is being answered.

    Attributes:
        is_inside: Whether it was made in this process, by a command.
        client_ip: The client's address.
    """

    def __init__(self, audit: AuditWriter, caller: Caller | None = None) -> None:
        self._audit = audit
        self._caller: Caller | None = None
        self.is_inside = context.INSIDE in request.environ
        self.client_ip = None if self.is_inside else context.client_ip()
        self._about: dict[str, Any] = {
            "http_method": request.method,
            "endpoint": request.path,
            "user_agent": request.headers.get("User-Agent", "")[:_CUT] or None,
        }
        if caller is not None or self.is_inside:
            self.admit(caller or CLI)

    @property
    def caller(self) -> Caller:
        """The caller. Raises RuntimeError before it was admitted."""
        if self._caller is None:
            raise RuntimeError("no caller was admitted")
        return self._caller

    def admit(self, caller: Caller) -> None:
        """Remember the caller, for audit records and the access line."""
        self._caller = g.caller = caller
        if caller.key_id is not None:
            self._about["actor_key_id"] = caller.key_id

    def trust_origin(self) -> None:
        """Take what the admin UI says of its own client; only once the caller is known."""
        if request.headers.get("X-Admin-Origin") != "1":
            return
        self._about["origin"] = "admin-ui"
        for name, header in (("user_agent", "X-Forwarded-User-Agent"), ("referer", "X-Forwarded-Referer")):
            if request.headers.get(header):
                self._about[name] = request.headers[header][:_CUT]

    def event(
        self,
        action: AuditAction,
        outcome: str,
        details: Mapping[str, Any],
        *,
        project_id: str | None = None,
        actor: str | None = None,
    ) -> AuditEvent:
        """Return a record of this call."""
        return AuditEvent(
            action,
            actor or (ANONYMOUS if self._caller is None else self._caller.actor),
            outcome,
            project_id=project_id,
            request_id=context.request_id(),
            correlation_id=context.correlation_id(),
            client_ip=self.client_ip,
            details={**self._about, **details},
        )

    def denied(self, error: LlmProxyError) -> None:
        """Record a wrong credential; through the throttled queue, so that guessing fills no disk."""
        event = self.event(AuditAction.ADMIN_ACCESS, "denied", {"reason": error.message}, actor=ANONYMOUS)
        self._audit.offer(event)

    def attempt(
        self,
        action: AuditAction,
        fault: str,
        *,
        project_id: str | None = None,
        details: Mapping[str, Any] | None = None,
    ) -> "AuditedAction":
        """Return what the view is about to do."""
        return AuditedAction(self, self._audit, action, fault, project_id, dict(details or {}))


class AuditedAction:
    """An action from its first check to its record; a failure is recorded on the way out.

    An error of the database becomes 503, an unexpected one 500 with the text `fault`.
    """

    def __init__(
        self,
        call: Call,
        audit: AuditWriter,
        action: AuditAction,
        fault: str,
        project_id: str | None,
        details: dict[str, Any],
    ) -> None:
        self._call, self._audit, self._action, self._fault = call, audit, action, fault
        self.project_id, self._details = project_id, details

    @contextmanager
    def transaction(self, tag_of: Callable[[Any], str] | None = None) -> Iterator[Mutation]:
        """Open the transaction of a change on behalf of the caller; its audit entries are committed with it.

        Args:
            tag_of: Makes the entity tag of what is changed, for `If-Match`; None where the field has no meaning.

        Raises:
            AuditUnavailable: Records are required and cannot be written: nothing is changed.
        """
        caller = self._call.caller
        check = parsing.if_match(tag_of)
        engine = context.services().engine
        with mutation(engine, actor=caller.actor, within=caller.projects, precondition=check) as change:
            yield change
            for entry in change.entries:
                self._audit.record(self._success(entry.details, entry.project_id), change.connection)

    def succeeded(self, **details: Any) -> None:
        """Record the success of a call that changes nothing."""
        self._audit.record(self._success(details, self.project_id))

    def _success(self, details: Mapping[str, Any], project_id: str | None) -> AuditEvent:
        return self._call.event(self._action, "success", {**self._details, **details}, project_id=project_id)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if not isinstance(error, Exception) or isinstance(error, ClientGone | HTTPException):
            return
        if isinstance(error, LlmProxyError):
            outcome = "error" if error.status >= 500 else "denied" if error.code == ROLE_REQUIRED else "failure"
            details = error.audit if isinstance(error, ManagementError) else {}
            self._failed(outcome, details or {"error": error.message})
            return
        if is_unavailable(error):
            _LOG.warning("%s: the database is unavailable: %s", self._action, type(error).__name__)
            refusal: ManagementError = DatabaseUnavailable()
        else:
            _LOG.error("%s failed", self._action, exc_info=error)
            refusal = ManagementFault(self._fault)
        self._failed("error", {"error": refusal.message})
        raise refusal from error

    def _failed(self, outcome: str, details: Mapping[str, Any]) -> None:
        # Queued: when the database is unavailable, its part of the record must not hold up the response.
        event = self._call.event(self._action, outcome, {**self._details, **details}, project_id=self.project_id)
        if outcome == "error":
            self._audit.offer(event)
        else:
            self._audit.record(event)


def current() -> Call:
    """Return the call that this request is; made by the blueprint before its views."""
    return g.management_call  # type: ignore[no-any-return]
