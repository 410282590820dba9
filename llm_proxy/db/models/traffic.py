"""Traffic by UTC hour, of each project and of all of them together."""

from typing import Final

from sqlalchemy import Column, Index, PrimaryKeyConstraint, Table, text

from llm_proxy.db.models.base import MYSQL_TABLE, Base
from llm_proxy.db.types import UtcTime, ascii_text, big_integer

BOUNDS_MS: Final = (100, 250, 500, 1000, 2000, 5000, 10_000, 30_000, 60_000)  # one class above the last one
COUNTS: Final = (
    "requests", "errors", "refused", "cache_hits", "cache_misses", "prompt_tokens", "completion_tokens",
    "cost_nano_usd",
)  # fmt: skip
FIRST_BYTE: Final = tuple(f"first_byte_{number}" for number in range(len(BOUNDS_MS) + 1))
DURATION: Final = tuple(f"duration_{number}" for number in range(len(BOUNDS_MS) + 1))
SUMMED: Final = (*COUNTS, *FIRST_BYTE, *DURATION)

# `project_id` is empty in the row of all projects. `duration_3` counts responses of the fourth class of BOUNDS_MS.
TRAFFIC: Final = Table(
    "traffic_hourly",
    Base.metadata,
    Column("project_id", ascii_text(36), nullable=False),
    Column("hour", UtcTime(), nullable=False),
    *(Column(name, big_integer(), nullable=False, server_default=text("0")) for name in SUMMED),
    PrimaryKeyConstraint("project_id", "hour"),
    Index("idx_traffic_hourly_hour", "hour"),
    **MYSQL_TABLE,
)
