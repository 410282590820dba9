"""Every answer of our own that is not a success: a class per distinct answer; status, type and code on the class.

The renderer (`llm_proxy.web.errors`) needs no knowledge of single errors. On /v1 an error becomes OpenAI's object with
`code` and `description` beside it (data-plane decision 1); on /manage the flat form of MP-8.
"""

from collections.abc import Iterable, Mapping
from typing import Any, ClassVar


class LlmProxyError(Exception):
    """Root of every error that we answer with; never raised itself.

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
    fields: tuple[tuple[str, str], ...] = ()  # response fields that belong to this answer

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


# -- refused by validation (accounting row 14) ----------------------------------------------------------------------


class InvalidRequest(LlmProxyError):
    """Root of the 4xx answers that name what is wrong with the request."""

    status, type, code, message = 400, "invalid_request_error", "invalid_request", "Invalid request"


class MalformedRequest(InvalidRequest):
    """The message breaks HTTP's framing or syntax; the connection is closed (data-plane decision 17)."""

    code, message = "malformed_request", "Malformed HTTP request"
    fields = (("Connection", "close"),)


class UriTooLong(InvalidRequest):
    """Request line beyond the server's bound (RFC 9110 §15.5.15)."""

    status, code, message = 414, "uri_too_long", "Request target too long"
    fields = (("Connection", "close"),)


class HeaderFieldsTooLarge(InvalidRequest):
    """Header section beyond the server's bound (RFC 6585 §5)."""

    status, code, message = 431, "header_fields_too_large", "Request header fields too large"
    fields = (("Connection", "close"),)


class MethodNotAllowed(InvalidRequest):
    """The provider file does not list the method; `allow` goes into `Allow` (DP-65, RFC 9110 §15.5.6)."""

    status, code, message = 405, "method_not_allowed", "Method not allowed"

    def __init__(self, message: str | None = None, *, allow: tuple[str, ...] = ()) -> None:
        super().__init__(message)
        if allow:
            self.fields = (("Allow", ", ".join(allow)),)


class EndpointNotFound(InvalidRequest):
    """Path outside the provider's allow-list, or written so that it could mean another one (DP-66, DP-15)."""

    status, code, message = 404, "endpoint_not_found", "Endpoint not found"


class NotFound(InvalidRequest):
    """No such route outside the proxy (DP-83)."""

    status, code, message = 404, "not_found", "Not found"


class OriginRequired(InvalidRequest):
    """`required_headers` names origin and the request has none (DP-67)."""

    code, message = "origin_required", "Origin header required"


class OriginNotAllowed(LlmProxyError):
    """Origin outside the provider's `allowed_origins` (DP-67)."""

    status, type, code, message = 403, "permission_error", "origin_not_allowed", "Origin not allowed"


class RequiredHeaderMissing(InvalidRequest):
    """A name of `required_headers` is absent or empty (DP-21)."""

    code, message = "required_header_missing", "Required header missing"


class ParamNotAllowed(InvalidRequest):
    """A parameter's value matches none of its patterns (DP-19)."""

    code, message = "param_not_allowed", "Parameter is not allowed"


class InvalidJson(InvalidRequest):
    """The body is not one JSON object or one form, where parameter rules or a budget of money need to read it."""

    code, message = "invalid_json", "Request body is not a JSON object"


class RequestTooLarge(InvalidRequest):
    """Body beyond MAX_REQUEST_SIZE or MAX_INSPECTED_BODY (DP-80)."""

    status, code, message = 413, "request_too_large", "Request body too large"


class StreamingDisabled(InvalidRequest):
    """ENABLE_STREAMING=false and the request asks for a stream (DP-98)."""

    code, message = "streaming_disabled", "Streaming is disabled"


class UpgradeNotSupported(InvalidRequest):
    """Upgrade or WebSocket (DP-107)."""

    status, code, message = 501, "upgrade_not_supported", "Upgrade not supported"


class UnsupportedParameter(InvalidRequest):
    """A field that this version knows but cannot honour yet."""

    code, message = "unsupported_parameter", "Parameter is not supported"


# -- the client's own connection -------------------------------------------------------------------------------------


class ClientConnectionError(Exception):
    """Root of what goes wrong between the client and us while its body is read; never answered through Flask.

    Raised by `wsgi.input`, settled by the forwarding, let out to the server layer on both lanes.
    """


class ClientGone(ClientConnectionError):
    """The client closed its connection before its request body was whole (rows 9 and 28). Nothing can be sent."""


class MalformedBody(MalformedRequest, ClientConnectionError):
    """The body's chunks break HTTP's framing: 400 and close, by the server layer (data-plane decision 17)."""


class RequestTimeout(LlmProxyError, ClientConnectionError):
    """Header section or body stayed silent too long: 408 and close (data-plane decisions 17 and 19)."""

    status, type, code, message = 408, "invalid_request_error", "request_timeout", "Request timeout"
    fields = (("Connection", "close"),)


# -- authentication and permission (rows 15, 16) -------------------------------------------------------------------


class AuthenticationError(LlmProxyError):
    """Root of the 401 answers (RFC 6750 §3.1)."""

    status, type, code, message = 401, "authentication_error", "invalid_token", "Invalid token"
    fields = (("WWW-Authenticate", "Bearer"),)


class InvalidToken(AuthenticationError):
    """No usable bearer, several `Authorization` lines, or a string that cannot be a token (DP-68, DP-69)."""


class TokenNotFound(AuthenticationError):
    """Well formed, but nobody issued it (DP-70)."""

    code, message = "token_not_found", "Token not found"


class TokenInactive(AuthenticationError):
    """Revoked (DP-70)."""

    code, message = "token_inactive", "Token is inactive"


class TokenExpired(AuthenticationError):
    """The bearer is past `expires_at`. Retrying is useless."""

    code, message = "token_expired", "Token has expired"


class TokenIdleExpired(AuthenticationError):
    """Unused for longer than `idle_timeout_minutes` (data-plane 0.1)."""

    code, message = "token_idle_expired", "Token has expired because it was not used"


class ProjectInactive(LlmProxyError):
    """The token's project is deactivated (DP-73)."""

    status, type, code, message = 403, "permission_error", "project_inactive", "Project is inactive"


class ModelNotPriced(LlmProxyError):
    """A money budget applies and the model has no price (data-plane 0.1)."""

    status, type, code, message = 403, "permission_error", "model_not_priced", "Model has no price"


# -- limits (rows 17, 18, 30) ---------------------------------------------------------------------------------------


class RateLimitExceeded(LlmProxyError):
    """A window is full: carries `Retry-After` (DP-72)."""

    status, type, code, message = 429, "rate_limit_error", "rate_limit_exceeded", "Rate limit exceeded"


class QuotaExhausted(RateLimitExceeded):
    """`max_requests` is used up; final, so stock SDKs must not retry (DP-71, decision 15)."""

    fields = (("x-should-retry", "false"),)


class TokenBudgetExceeded(QuotaExhausted):
    """`max_total_tokens` is used up (data-plane 0.1)."""

    code, message = "token_budget_exceeded", "Token budget exceeded"


class CostBudgetExceeded(QuotaExhausted):
    """A money budget is used up (data-plane 0.1)."""

    code, message = "cost_budget_exceeded", "Cost budget exceeded"


# -- ours is not able to (rows 16, 19, 20, 23, 24, 30) --------------------------------------------------------------


class ServiceUnavailable(LlmProxyError):
    """The database does not answer, or a quota could not be settled in time; try again (DP-51, row 23)."""

    status, type, code = 503, "server_error", "service_unavailable"
    message = "Service temporarily unavailable"

    def __init__(self, message: str | None = None, *, description: str | None = None, retry_after_s: int = 1) -> None:
        super().__init__(message, description=description, retry_after_s=retry_after_s)


class UpstreamAuthError(LlmProxyError):
    """The project's provider key is missing, empty or does not open (DP-75)."""

    status, type, code = 503, "upstream_error", "upstream_auth_error"
    message, description = "Upstream authentication error", "failed to load upstream API key"


class CircuitOpen(LlmProxyError):
    """The provider failed too often in a row; nothing was sent (DP-79)."""

    status, type, code = 503, "upstream_error", "circuit_open"
    message = "Upstream unavailable (circuit breaker open)"


class Draining(LlmProxyError):
    """SIGTERM was received and this request came after it (DP-81)."""

    status, type, code, message = 503, "server_error", "draining", "Server is shutting down"
    fields = (("Connection", "close"),)

    def __init__(self) -> None:
        super().__init__(retry_after_s=1)


class Overloaded(LlmProxyError):
    """No concurrency slot is free (DP-81, DP-94)."""

    status, type, code, message = 503, "server_error", "overloaded", "Server is at capacity"

    def __init__(self) -> None:
        super().__init__(retry_after_s=1)


class EventBusUnavailable(LlmProxyError):
    """LLM_PROXY_EVENTS_REQUIRED and there is no room for an event (EV-24)."""

    status, type, code, message = 503, "server_error", "event_bus_unavailable", "Event bus unavailable"


class InsufficientStorage(LlmProxyError):
    """The temporary folder is full while an upload is checked (data-plane decision 3)."""

    status, type, code, message = 507, "server_error", "insufficient_storage", "Insufficient storage"


class NotCached(LlmProxyError):
    """`only-if-cached` without a usable stored response (RFC 9111 §5.2.1.7)."""

    status, type, code, message = 504, "invalid_request_error", "not_cached", "No stored response"


# -- the provider (rows 4 to 7) -------------------------------------------------------------------------------------


class UpstreamError(LlmProxyError):
    """Root of what went wrong between us and the provider.

    `is_sent` tells whether a byte of the request may have left us: False is the only case in which a unit is returned
    (accounting A2). `phase` is one of `connect`, `send`, `head`, `body`. Both are set by the transport.
    """

    status, type, code, message = 502, "upstream_error", "bad_gateway", "Proxy error"
    is_sent: bool = True
    phase: str = "head"

    def at(self, phase: str, *, is_sent: bool) -> "UpstreamError":
        """Note where it happened; returns itself for `raise`."""
        self.phase, self.is_sent = phase, is_sent
        return self


class UpstreamConnectError(UpstreamError):
    """Look-up, TCP, proxy or TLS failed; nothing was sent (row 4)."""

    is_sent, phase = False, "connect"


class UpstreamBroken(UpstreamError):
    """The connection broke, or the answer is no acceptable HTTP, after the request began (rows 5 and 7)."""


class UpstreamTimeout(UpstreamError):
    """A time limit of data-plane decision 10 passed (rows 4, 6 and 7)."""

    status, code, message = 504, "timeout", "Request timeout"


class UpstreamRequestInvalid(UpstreamError):
    """The request cannot be written as one well-framed HTTP message: refused before connecting (row 24)."""

    status, type, code, message = 500, "server_error", "internal_error", "Internal server error"
    is_sent, phase = False, "connect"


class UpstreamCut(UpstreamError):
    """We cut the exchange ourselves; `reason` is `client gone`, `drain`, `revoked` or `closed` (rows 8, 10, 22, 29)."""

    def __init__(self, reason: str) -> None:
        super().__init__()
        self.reason = reason


# -- the management API: flat form, `code` only where a row gives one (MP-8) -----------------------------------------


class ManagementError(LlmProxyError):
    """Root of the answers of /manage; the message is the row's text. `audit` is for the record alone, never shown."""

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
    """400, naming the field."""

    status, type, message = 400, "invalid_request_error", "invalid request body"


class Unauthorized(ManagementError):
    """401 of the management plane (MP-17)."""

    status, type, message = 401, "authentication_error", "missing or invalid Authorization header"
    fields = (("WWW-Authenticate", "Bearer"),)


class Forbidden(ManagementError):
    """403 of the management plane (MP-7)."""

    status, type, message = 403, "permission_error", "forbidden"


class ResourceNotFound(ManagementError):
    """404 of the management plane."""

    status, type, message = 404, "invalid_request_error", "not found"


class WrongMethod(ManagementError):
    """405 of the management plane; `allow` are the real methods (MP-22)."""

    status, type, message = 405, "invalid_request_error", "method not allowed"

    def __init__(self, allow: Iterable[str]) -> None:
        super().__init__()
        self.fields = (("Allow", ", ".join(allow)),)


class Conflict(ManagementError):
    """409: the state, not the request, stands in the way."""

    status, type, message = 409, "invalid_request_error", "conflict"


class PreconditionFailed(ManagementError):
    """412: `If-Match` does not match (RFC 9110 §13.1.1)."""

    status, type, code, message = 412, "invalid_request_error", "precondition_failed", "precondition failed"


class PayloadTooLarge(ManagementError):
    """413 of the management plane (MP-24)."""

    status, type, message = 413, "invalid_request_error", "request body too large"


class TooManyFailures(ManagementError):
    """429 for wrong management tokens (MP-19)."""

    status, type, message = 429, "rate_limit_error", "too many failed attempts"


class ManagementFault(ManagementError):
    """500 with the row's text; the cause is in the log alone (MP-25)."""

    status, type, message = 500, "server_error", "internal error"


class DatabaseUnavailable(ManagementError):
    """503: the database does not answer (MP-25)."""

    status, type, message = 503, "server_error", "database unavailable"

    def __init__(self, message: str | None = None) -> None:
        super().__init__(message, retry_after_s=1)


class AuditUnavailable(ManagementError):
    """503: AUDIT_REQUIRED and the record cannot be written (MP-120)."""

    status, type, message = 503, "server_error", "audit unavailable"
