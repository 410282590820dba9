"""The audit trail: what is recorded, where it is written, how it is asked."""
