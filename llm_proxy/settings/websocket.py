"""Settings of WebSockets; they apply to the paths that the provider file opens under `websockets`."""

from dataclasses import dataclass

from llm_proxy.settings.variable import boolean, duration, integer, setting, size


@dataclass(frozen=True, kw_only=True)
class WebSocketSettings:
    """Bounds of open WebSockets."""

    max_sockets: int = setting("WS_MAX_SOCKETS", integer(1, 65536), "1000", "WebSockets open at once on a machine.")
    max_sockets_per_token: int = setting(
        "WS_MAX_SOCKETS_PER_TOKEN", integer(1, 65536), "20", "WebSockets of one token open at once on a machine."
    )
    idle_timeout_s: float = setting(
        "WS_IDLE_TIMEOUT", duration("1s", "24h"), "10m", "A WebSocket on which nothing moves for so long is closed."
    )
    max_age_s: float = setting(
        "WS_MAX_AGE", duration("1s", "30d"), "65m", "A WebSocket this old is closed when no turn runs on it."
    )
    max_message_bytes: int | None = setting(
        "WS_MAX_MESSAGE", size("1KB", "1GB"), None, "Longest message of a WebSocket; unset: MAX_INSPECTED_BODY."
    )
    allow_subprotocol_auth: bool = setting(
        "WS_ALLOW_SUBPROTOCOL_AUTH",
        boolean,
        "false",
        "Take a token from Sec-WebSocket-Protocol (openai-insecure-api-key.TOKEN), for browsers.",
    )
    ping_interval_s: float = setting(
        "WS_PING_INTERVAL", duration("1s", "1h", zero=True), "0", "Time between pings to the client; 0 = none."
    )
