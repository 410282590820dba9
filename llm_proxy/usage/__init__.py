"""Model tokens and money: read from the provider's own answers after they have passed, priced, and summed by day."""
