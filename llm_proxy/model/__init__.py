"""Facts that several capabilities share: records of tokens and projects, a token's life, audit actions."""
