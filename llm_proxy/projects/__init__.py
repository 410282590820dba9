"""Projects: owners of tokens, and the provider key that the tokens stand for."""
