"""Model tokens and money: read from the provider's own responses after they have passed, priced, and summed by day."""
