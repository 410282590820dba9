"""Quotas and counters: what a request may spend, and the record of what was spent."""
