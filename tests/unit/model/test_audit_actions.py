"""Audit actions are members of the enumeration everywhere."""

import re
from pathlib import Path

import orjson
import pytest

from llm_proxy.audit.record import AuditEvent
from llm_proxy.model.audit_actions import AuditAction

_LITERAL = re.compile(r"(?:attempt|AuditEvent|\.event|audited)\(\s*\"([a-z_.]+)\"")


def test_no_action_is_spelled_where_it_is_recorded(checkout: Path) -> None:
    """A record names a member, so that the reference page holds every action."""
    files = (checkout / "llm_proxy").rglob("*.py")
    assert {str(path): found for path in files if (found := _LITERAL.findall(path.read_text()))} == {}


@pytest.mark.parametrize("action", AuditAction)
def test_an_action_is_stored_as_its_name(action: AuditAction) -> None:
    """A plain string in the row, the same in the line, at most as wide as its column."""
    event = AuditEvent(action, "tester", "success")
    assert type(event.row()["action"]) is str
    assert event.row()["action"] == action.value == orjson.loads(event.line())["action"]
    assert len(action) <= 64
    assert action.meaning.endswith(".")
