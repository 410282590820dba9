"""The provider of usage."""

import sqlalchemy as sa

from llm_proxy.db.migrations.steps import change_primary_key, merge_rows
from llm_proxy.db.types import exact_text

revision, down_revision = "0013", "0012"

HOLDS = ("usage_daily.provider",)

_KEY = ("day", "project_id", "token_id", "model")
_SUMS = ("requests", "prompt_tokens", "completion_tokens", "cached_tokens", "reasoning_tokens")


def upgrade() -> None:
    """Add the provider to the key; it is empty in the rows that are there."""
    provider = sa.Column("provider", exact_text(255), nullable=False, server_default=sa.text("''"))
    change_primary_key("usage_daily", [*_KEY, "provider"], add=provider)


def downgrade() -> None:
    """Add up what several providers have, and drop the provider."""
    merge_rows("usage_daily", _KEY, (*_SUMS, "cost_nano_usd", "estimated"), "provider")
    change_primary_key("usage_daily", [*_KEY], drop="provider")
