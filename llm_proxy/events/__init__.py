"""Every exchange as one event: captured in passing, queued, and carried to its consumers (docs/events.md)."""
