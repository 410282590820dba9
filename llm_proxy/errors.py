"""The proxy's own error responses: a class per distinct response, with status, type and code on the class.

The renderer (`llm_proxy.web.errors`) needs no knowledge of single errors. On /v1 an error becomes OpenAI's error
object with `code` and `description` beside it; on /manage it is a flat object. `docs/reference/errors.md` is made from
this file.
"""

from collections.abc import Iterable, Mapping
from typing import Any, ClassVar


class LlmProxyError(Exception):
    """Base of every error response; never raised itself.

    Args:
        message: Replaces the class's sentence. Shown to the caller: never a secret, a path or a library's words.
        description: A second sentence for the caller, in the body's `description`.
        param: The field or parameter at fault.
        retry_after_s: Whole seconds for `Retry-After` (RFC 9110 §10.2.3).
    """

    status: ClassVar[int] = 500
    type: ClassVar[str] = "server_error"  # OpenAI's error.type
    code: str | None = "internal_error"  # None: the flat form of /manage leaves it out
    message: str = "Internal server error"
    description: str | None = None
    fields: tuple[tuple[str, str], ...] = ()  # response fields that belong to this response

    def __init__(
        self,
        message: str | None = None,
        *,
        description: str | None = None,
        param: str | None = None,
        retry_after_s: int | None = None,
    ) -> None:
        if message is not None:
            self.message = message
        if description is not None:
            self.description = description
        super().__init__(self.message)
        self.param = param
        self.retry_after_s = retry_after_s


# -- rejected by validation ----------------------------------------------------------------------------------------


class InvalidRequest(LlmProxyError):
    """The request is invalid; the message or `param` names the fault."""

    status, type, code, message = 400, "invalid_request_error", "invalid_request", "Invalid request"


class MalformedRequest(InvalidRequest):
    """The message violates HTTP framing or syntax (RFC 9112). The connection is closed."""

    code, message = "malformed_request", "Malformed HTTP request"
    fields = (("Connection", "close"),)


class UriTooLong(InvalidRequest):
    """The request line exceeds the server's limit (RFC 9110 §15.5.15)."""

    status, code, message = 414, "uri_too_long", "Request target too long"
    fields = (("Connection", "close"),)


class HeaderFieldsTooLarge(InvalidRequest):
    """The header section exceeds the server's limit (RFC 6585 §5)."""

    status, code, message = 431, "header_fields_too_large", "Request header fields too large"
    fields = (("Connection", "close"),)


class MethodNotAllowed(InvalidRequest):
    """The provider file does not allow the method. `Allow` lists what it allows (RFC 9110 §15.5.6)."""

    status, code, message = 405, "method_not_allowed", "Method not allowed"

    def __init__(self, message: str | None = None, *, allow: tuple[str, ...] = ()) -> None:
        super().__init__(message)
        if allow:
            self.fields = (("Allow", ", ".join(allow)),)


class TokenInQuery(InvalidRequest):
    """A token in the address, where servers and browsers log it (RFC 6750 §2.3)."""

    code, message = "token_in_query", "Send the token in the field Authorization: Bearer, not in the query"


class EndpointNotFound(InvalidRequest):
    """The path is outside the provider's allow-list, or is spelled so that it could mean another path."""

    status, code, message = 404, "endpoint_not_found", "Endpoint not found"


class NotFound(InvalidRequest):
    """No such route exists outside the proxied paths."""

    status, code, message = 404, "not_found", "Not found"

    def __init__(self, message: str | None = None, *, param: str | None = None) -> None:
        super().__init__(message, param=param)
        self.more: dict[str, str] = {}  # further members of the body


class OriginRequired(InvalidRequest):
    """`required_headers` names `origin` and the request has no Origin field."""

    code, message = "origin_required", "Origin header required"


class OriginNotAllowed(LlmProxyError):
    """The Origin is not among the provider's `allowed_origins`."""

    status, type, code, message = 403, "permission_error", "origin_not_allowed", "Origin not allowed"


class RequiredHeaderMissing(InvalidRequest):
    """A field named in `required_headers` is absent or empty."""

    code, message = "required_header_missing", "Required header missing"


class ParamNotAllowed(InvalidRequest):
    """A parameter's value matches none of the patterns in `param_whitelist`."""

    code, message = "param_not_allowed", "Parameter is not allowed"


class InvalidJson(InvalidRequest):
    """A rule or budget must read the body, and it is not one JSON object or form."""

    code, message = "invalid_json", "Request body is not a JSON object"


class RequestTooLarge(InvalidRequest):
    """The body exceeds MAX_REQUEST_SIZE, MAX_INSPECTED_BODY or MAX_HELD_BODIES; `description` names which."""

    status, code, message = 413, "request_too_large", "Request body too large"

    @classmethod
    def of_limit(cls, name: str, max_bytes: int) -> "RequestTooLarge":
        """Return the error for a limit, named as its setting is."""
        return cls(description=f"{name} is {max_bytes} bytes")


class StreamingDisabled(InvalidRequest):
    """The request asks for a stream and ENABLE_STREAMING is false."""

    code, message = "streaming_disabled", "Streaming is disabled"


class UpgradeNotSupported(InvalidRequest):
    """A WebSocket handshake on a path that has none; clients go on over HTTP at once (RFC 9110 §15.5.22)."""

    status, code, message = 426, "upgrade_not_supported", "WebSocket is not available here: use HTTP/1.1"
    fields = (("Upgrade", "HTTP/1.1"), ("Connection", "Upgrade"))


# -- the client's own connection -------------------------------------------------------------------------------------


class ClientConnectionError(Exception):
    """Base of failures on the client's connection while its body is read; never rendered by Flask.

    Raised by `wsgi.input`, settled by the forwarding, let out to the server layer on both lanes.
    """


class ClientGone(ClientConnectionError):
    """The client closed its connection before its request body was complete. Nothing can be sent."""


class MalformedBody(MalformedRequest, ClientConnectionError):
    """The body's chunked coding is malformed (RFC 9112 §7.1). The server layer responds and closes."""


class RequestTimeout(LlmProxyError, ClientConnectionError):
    """The header section or body did not arrive in time. The connection is closed."""

    status, type, code, message = 408, "invalid_request_error", "request_timeout", "Request timeout"
    fields = (("Connection", "close"),)


# -- authentication and permission -----------------------------------------------------------------------------------


class AuthenticationError(LlmProxyError):
    """The credential is not accepted (RFC 6750 §3.1)."""

    token_id: str | None = None  # of the token that was refused, where it is known
    project_id: str | None = None
    status, type, code, message = 401, "authentication_error", "invalid_token", "Invalid token"
    fields = (("WWW-Authenticate", "Bearer"),)


class InvalidToken(AuthenticationError):
    """No usable bearer, several Authorization fields, or a string that cannot be a token."""


class TokenNotFound(AuthenticationError):
    """The token is well formed, but was never issued or has been deleted."""

    code, message = "token_not_found", "Token not found"


class TokenInactive(AuthenticationError):
    """The token has been revoked."""

    code, message = "token_inactive", "Token is inactive"


class TokenExpired(AuthenticationError):
    """The token is past its `expires_at`. A retry cannot succeed."""

    code, message = "token_expired", "Token has expired"


class TokenIdleExpired(AuthenticationError):
    """The token was unused for longer than its `idle_timeout_minutes`."""

    code, message = "token_idle_expired", "Token has expired because it was not used"


class AmbiguousCredentials(AuthenticationError):
    """The request carries two different tokens of this proxy in the fields that may hold one."""

    code, message = "ambiguous_credentials", "Two different tokens in one request"


class ProviderNotConfigured(LlmProxyError):
    """The token's project has no key for the provider that the request is for."""

    status, type, code = 403, "permission_error", "provider_not_configured"
    message = "The project has no key for this provider"


class ProviderNotAllowed(LlmProxyError):
    """The token is not good for the provider that the request is for."""

    status, type, code = 403, "permission_error", "provider_not_allowed"
    message = "The token is not valid for this provider"


class ProjectInactive(LlmProxyError):
    """The token's project is deactivated."""

    status, type, code, message = 403, "permission_error", "project_inactive", "Project is inactive"


class ModelNotPriced(LlmProxyError):
    """A money budget applies and the model has no price."""

    status, type, code, message = 403, "permission_error", "model_not_priced", "Model has no price"


class EndpointNotBudgeted(LlmProxyError):
    """The token has a budget, and BUDGETS_REFUSE_UNSEEN refuses what its budget cannot see: batches, for one."""

    status, type, code = 403, "permission_error", "endpoint_not_budgeted"
    message = "Not available to tokens with a budget"


# -- limits ---------------------------------------------------------------------------------------------------------


class RateLimitExceeded(LlmProxyError):
    """A rate limit is reached, or `max_requests` is used up. Retry-After is present for rate limits alone."""

    status, type, code, message = 429, "rate_limit_error", "rate_limit_exceeded", "Rate limit exceeded"


class TooManySockets(RateLimitExceeded):
    """The token has as many open WebSockets as it may have (WS_MAX_SOCKETS_PER_TOKEN)."""

    code, message = "too_many_websockets", "Too many open WebSockets"


class QuotaExhausted(RateLimitExceeded):
    """`max_requests` is used up. A retry cannot succeed."""

    fields = (("x-should-retry", "false"),)


class TokenBudgetExceeded(QuotaExhausted):
    """`max_total_tokens` is used up. A retry cannot succeed."""

    code, message = "token_budget_exceeded", "Token budget exceeded"


class CostBudgetExceeded(QuotaExhausted):
    """A money budget of the token or project is used up."""

    code, message = "cost_budget_exceeded", "Cost budget exceeded"


# -- the proxy cannot serve the request ------------------------------------------------------------------------------


class ServiceUnavailable(LlmProxyError):
    """The database is unavailable, or a quota could not be settled in time. Retry after the given time."""

    status, type, code = 503, "server_error", "service_unavailable"
    message = "Service temporarily unavailable"

    def __init__(self, message: str | None = None, *, description: str | None = None, retry_after_s: int = 1) -> None:
        super().__init__(message, description=description, retry_after_s=retry_after_s)


class UpstreamAuthError(LlmProxyError):
    """The project's provider key is missing, empty or cannot be decrypted."""

    status, type, code = 503, "upstream_error", "upstream_auth_error"
    message, description = "Upstream authentication error", "failed to load upstream API key"


class CircuitOpen(LlmProxyError):
    """The provider failed too often; nothing was sent."""

    status, type, code = 503, "upstream_error", "circuit_open"
    message = "Upstream unavailable (circuit breaker open)"


class Draining(LlmProxyError):
    """The server is shutting down and this request came after the signal. Retry on a new connection."""

    status, type, code, message = 503, "server_error", "draining", "Server is shutting down"
    fields = (("Connection", "close"),)

    def __init__(self) -> None:
        super().__init__(retry_after_s=1)


class Overloaded(LlmProxyError):
    """All of MAX_CONCURRENT_REQUESTS, MAX_HELD_BODIES or WS_MAX_SOCKETS is in use."""

    status, type, code, message = 503, "server_error", "overloaded", "Server is at capacity"

    def __init__(self, description: str | None = None) -> None:
        super().__init__(description=description, retry_after_s=1)


class EventBusUnavailable(LlmProxyError):
    """LLM_PROXY_EVENTS_REQUIRED is set and there is no room for an event."""

    status, type, code, message = 503, "server_error", "event_bus_unavailable", "Event bus unavailable"


class InsufficientStorage(LlmProxyError):
    """The temporary folder is full while an upload is checked."""

    status, type, code, message = 507, "server_error", "insufficient_storage", "Insufficient storage"


class NotCached(LlmProxyError):
    """The request said `only-if-cached` and no usable response is stored (RFC 9111 §5.2.1.7)."""

    status, type, code, message = 504, "invalid_request_error", "not_cached", "No stored response"


# -- the provider ---------------------------------------------------------------------------------------------------


class UpstreamError(LlmProxyError):
    """The exchange with the provider failed.

    `is_sent` tells whether a byte of the request may have been sent: only when it is False is the unit returned.
    `phase` is one of `connect`, `send`, `head`, `body`. Both are set by the transport.
    """

    status, type, code, message = 502, "upstream_error", "bad_gateway", "Proxy error"
    is_sent: bool = True
    phase: str = "head"
    cause: str | None = None  # which host was not reached and why; never a secret

    def at(self, phase: str, *, is_sent: bool) -> "UpstreamError":
        """Record where it happened, and return the error itself for `raise`."""
        self.phase, self.is_sent = phase, is_sent
        return self


class UpstreamConnectError(UpstreamError):
    """Name resolution, TCP, proxy or TLS failed; nothing was sent."""

    is_sent, phase = False, "connect"


class UpstreamBroken(UpstreamError):
    """The connection broke, or the response is not valid HTTP, after the request was sent."""


class UpstreamTimeout(UpstreamError):
    """The provider exceeded a time limit (connect, first byte, idle or total)."""

    status, code, message = 504, "timeout", "Request timeout"


class UpstreamRequestInvalid(UpstreamError):
    """The request cannot be written as one well-framed HTTP message; nothing was sent."""

    status, type, code, message = 500, "server_error", "internal_error", "Internal server error"
    is_sent, phase = False, "connect"


class UpstreamCut(UpstreamError):
    """The proxy ended the exchange; `reason` is `client gone`, `drain`, `revoked`, `operator` or `closed`."""

    def __init__(self, reason: str) -> None:
        super().__init__()
        self.reason = reason


# -- the management API: flat form, `code` only where the contract gives one -----------------------------------------


class ManagementError(LlmProxyError):
    """Base of the errors of /manage. `audit` holds details for the audit record alone; they are never shown."""

    code = None

    def __init__(
        self,
        message: str | None = None,
        *,
        code: str | None = None,
        param: str | None = None,
        retry_after_s: int | None = None,
        audit: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__(message, param=param, retry_after_s=retry_after_s)
        if code is not None:
            self.code = code
        self.audit: dict[str, Any] = dict(audit or {})
        self.more: dict[str, str] = {}  # further members of the body


class BadRequest(ManagementError):
    """The request is invalid; the message names the field."""

    status, type, message = 400, "invalid_request_error", "invalid request body"


class Unauthorized(ManagementError):
    """The management credential is missing or wrong."""

    status, type, message = 401, "authentication_error", "missing or invalid Authorization header"
    fields = (("WWW-Authenticate", "Bearer"),)


class ViewerEnded(Unauthorized):
    """What a person signed in to the admin UI with is revoked or replaced, or has fewer rights than at the sign-in."""

    code, message = "viewer_ended", "sign in again"


class ManagementUnavailable(ManagementError):
    """The management API cannot be reached by the admin UI's own process."""

    status, type, message = 502, "server_error", "the proxy's management API cannot be reached"


class Forbidden(ManagementError):
    """The operation is forbidden."""

    status, type, message = 403, "permission_error", "forbidden"


class ResourceNotFound(ManagementError):
    """The object or route does not exist."""

    status, type, message = 404, "invalid_request_error", "not found"


class WrongMethod(ManagementError):
    """The route does not support the method. `Allow` lists the methods that it supports."""

    status, type, message = 405, "invalid_request_error", "method not allowed"

    def __init__(self, allow: Iterable[str]) -> None:
        super().__init__()
        self.fields = (("Allow", ", ".join(allow)),)


class Conflict(ManagementError):
    """The current state of the object does not permit the change."""

    status, type, message = 409, "invalid_request_error", "conflict"


class PreconditionFailed(ManagementError):
    """`If-Match` does not match the current ETag (RFC 9110 §13.1.1)."""

    status, type, code, message = 412, "invalid_request_error", "precondition_failed", "precondition failed"


class PayloadTooLarge(ManagementError):
    """The request body exceeds the limit of the management API."""

    status, type, message = 413, "invalid_request_error", "request body too large"


class TooManyFailures(ManagementError):
    """Too many wrong management credentials came from this address."""

    status, type, message = 429, "rate_limit_error", "too many failed attempts"


class ManagementFault(ManagementError):
    """An unexpected error. The cause is in the log alone."""

    status, type, message = 500, "server_error", "internal error"


class DatabaseUnavailable(ManagementError):
    """The database is unavailable."""

    status, type, message = 503, "server_error", "database unavailable"

    def __init__(self, message: str | None = None) -> None:
        super().__init__(message, retry_after_s=1)


class BusUnreachable(ManagementError):
    """The event bus in Redis does not respond."""

    status, type, message = 503, "server_error", "event bus unavailable"


class TooManyTails(ManagementError):
    """Too many clients of this worker watch events. A retry may reach another worker."""

    status, type, message = 503, "server_error", "too many clients watch events"

    def __init__(self) -> None:
        super().__init__(retry_after_s=1)


class AuditUnavailable(ManagementError):
    """AUDIT_REQUIRED is set and the audit record cannot be written."""

    status, type, message = 503, "server_error", "audit unavailable"
