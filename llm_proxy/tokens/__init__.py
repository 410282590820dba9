"""Withering tokens: issue, authenticate, change, revoke."""
