"""Projects: who owns tokens, and which provider key they stand for."""
