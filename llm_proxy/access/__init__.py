"""Management access: keys, roles, callers, and sessions of people."""
