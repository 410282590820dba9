"""The process that carries events from a bus to where they are looked at (docs/events.md, "The dispatcher")."""
