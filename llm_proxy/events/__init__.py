"""Every exchange as one event: captured in passing, queued, and carried to whoever wants it (docs/events.md)."""
