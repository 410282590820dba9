"""A token and its project as the data plane reads them."""

from datetime import UTC, datetime
from typing import Any

from llm_proxy.model.project import ProjectSnapshot
from llm_proxy.model.token import TokenSnapshot


def token_snapshot(**changes: Any) -> TokenSnapshot:
    """Return an active token of the project `project-id`, without limits unless `changes` name some."""
    values: dict[str, Any] = {
        "id": "token-id",
        "hint": "sk-AbCd**************StUv",
        "project_id": "project-id",
        "is_active": True,
        "expires_at": None,
        "max_requests": None,
        "request_count": 0,
        "created_at": datetime(2026, 1, 1, tzinfo=UTC),
        "project": ProjectSnapshot("project-id", True, "provider-key"),
    }
    return TokenSnapshot(**values | changes)
