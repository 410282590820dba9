"""What browsers are told: preflight responses and the fields of real ones."""

from collections.abc import Sequence
from typing import Final

OWN_NAMES: Final = "X-Request-ID, X-Proxy-ID, X-LLM-Proxy-Remote-Duration, X-LLM-Proxy-Remote-Duration-Ms"
EXPOSED: Final = ", ".join(
    (
        OWN_NAMES,
        *("X-Correlation-ID", "X-Upstream-Request-ID", "X-PROXY-CACHE", "Age", "ETag", "Link", "Location"),
        *("Retry-After", "retry-after-ms", "x-should-retry", "RateLimit", "RateLimit-Policy"),  # read by SDKs
        *("x-ratelimit-limit-requests", "x-ratelimit-limit-tokens", "x-ratelimit-remaining-requests"),
        *("x-ratelimit-remaining-tokens", "x-ratelimit-reset-requests", "x-ratelimit-reset-tokens"),
        *("openai-organization", "openai-processing-ms", "openai-version", "request-id", "apim-request-id"),
        "*",  # and what else a provider sends: requests here carry no cookies, so it means all (Fetch standard)
    )
)

Fields = list[tuple[str, str]]


class Cors:
    """The rules of one provider and the settings behind it. An empty list of origins allows every one."""

    __slots__ = ("_headers", "_max_age", "_methods", "_origins")

    def __init__(
        self,
        provider_origins: Sequence[str],
        *,
        origins: Sequence[str] = ("*",),
        methods: Sequence[str] = ("GET", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"),
        headers: Sequence[str] = ("Authorization", "Content-Type", "X-Requested-With"),
        max_age_s: float = 86400,
    ) -> None:
        """Take the settings CORS_* as keyword arguments; their origins count where the provider lists none."""
        self._origins = frozenset(provider_origins or (() if "*" in origins else origins))
        self._methods = ", ".join(methods)
        self._headers = ", ".join(headers)
        self._max_age = str(int(max_age_s))

    def preflight(self, origin: str | None, requested_headers: str | None) -> Fields:
        """Return the fields of the 204; none without an origin.

        `requested_headers` is Access-Control-Request-Headers as it came: it is granted, whatever it names.
        """
        if not origin:
            return []
        fields: Fields = []
        if not self._origins:
            fields.append(("Access-Control-Allow-Origin", "*"))
        elif origin in self._origins:
            fields.append(("Access-Control-Allow-Origin", origin))
        fields += [
            ("Access-Control-Allow-Methods", self._methods),
            ("Access-Control-Allow-Headers", requested_headers or self._headers),
            ("Access-Control-Expose-Headers", OWN_NAMES),
            ("Access-Control-Max-Age", self._max_age),
        ]
        if self._origins:
            fields.append(("Vary", "Origin"))
        return fields

    def response(self, origin: str | None) -> Fields:
        """Return the fields of a real response, errors included; never stored with it. None without an origin.

        An origin outside the list gets no permission, so the refusal of it is unreadable to its page.
        """
        if not origin:
            return []
        if self._origins and origin not in self._origins:
            return [("Vary", "Origin")]
        return [
            ("Access-Control-Allow-Origin", origin),
            ("Access-Control-Expose-Headers", EXPOSED),
            ("Vary", "Origin"),
        ]
