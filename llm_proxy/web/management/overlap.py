"""How long a credential that is rolled lives on."""

from datetime import timedelta
from typing import Any

from llm_proxy.access.key import MAX_OVERLAP_MINUTES, whole
from llm_proxy.web.management import parsing


def overlap() -> timedelta:
    """Read `overlap_minutes` of the body, which may be empty; 0 is the default. Raises BadRequest."""
    wanted: dict[str, Any] = parsing.json_object() if parsing.raw_body().strip() else {}
    if wanted.get("overlap_minutes") is None:
        return timedelta(0)
    return timedelta(minutes=whole(wanted, "overlap_minutes", 0, MAX_OVERLAP_MINUTES))
