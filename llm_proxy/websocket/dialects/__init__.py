"""What the messages of an API mean for accounting."""
