"""Alembic's folder: `env.py` runs, `versions/` holds a file a revision, `steps.py` what revisions share."""
