"""The WebSocket protocol as it passes by: frames (RFC 6455), messages, and the turns that API dialects make of them."""
