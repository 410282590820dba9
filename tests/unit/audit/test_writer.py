"""The queue, its bound and the throttle; the file that is followed by name."""

import json
import os
from pathlib import Path

import pytest
from support.clock import Clock

from llm_proxy.audit.file import AuditFile, fault
from llm_proxy.audit.record import AuditEvent
from llm_proxy.audit.throttle import PER_MINUTE, SERVER_PER_MINUTE
from llm_proxy.audit.verify_file import verify_file
from llm_proxy.audit.writer import QUEUE, AuditWriter
from llm_proxy.settings import OperationSettings, Settings


def _event(ip: str = "10.0.0.1", action: str = "token.access") -> AuditEvent:
    return AuditEvent(action, "anonymous", "denied", client_ip=ip, details={"reason": "token_not_found"})


def _lines(path: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_one_address_fills_no_disk(tmp_path: Path) -> None:
    """60 records a minute of one address and action; the rest are one record with their number."""
    clock, path = Clock(0.0), tmp_path / "audit.log"
    writer = AuditWriter(file=AuditFile(path), clock=clock)
    for _ in range(PER_MINUTE + 40):
        writer.offer(_event())
    writer.offer(_event("10.0.0.2"))
    writer.offer(_event(action="proxy_request"))
    clock.now = 61.0
    writer.offer(_event())
    writer.flush()
    lines = _lines(path)
    assert len(lines) == PER_MINUTE + 4
    suppressed = [line for line in lines if "suppressed" in line["details"]]  # type: ignore[operator]
    assert [line["details"] for line in suppressed] == [{"reason": "suppressed", "suppressed": 40}]
    assert suppressed[0]["client_ip"] == "10.0.0.1"


def test_many_addresses_fill_no_disk(tmp_path: Path) -> None:
    """All addresses together have a budget; an IPv6 address counts as its /64; chosen texts are cut."""
    clock, path = Clock(0.0), tmp_path / "audit.log"
    writer = AuditWriter(file=AuditFile(path), clock=clock)
    for number in range(PER_MINUTE + 10):
        writer.offer(_event(f"2001:db8::{number:x}"))
    writer.flush()
    assert len(_lines(path)) == PER_MINUTE
    for number in range(SERVER_PER_MINUTE):
        writer.offer(_event(f"10.0.{number}.1"))
    writer.close()
    suppressed = [line["details"] for line in _lines(path)[SERVER_PER_MINUTE:]]
    assert suppressed == [{"reason": "suppressed", "suppressed": 10 + PER_MINUTE}]


def test_a_refusal_is_a_bounded_record(tmp_path: Path) -> None:
    """Path and agent are the client's to choose; secrets are hidden before the cut."""
    path = tmp_path / "audit.log"
    writer = AuditWriter(file=AuditFile(path))
    key = "sk-" + "A" * 40
    details = {"endpoint": "/" + "a" * 250 + "/" + key + "b" * 8000, "user_agent": "c" * 8000, "token_id": "t"}
    writer.offer(AuditEvent("token.access", "anonymous", "denied", details=details))
    writer.close()
    line = path.read_text()
    assert len(line) < 1200
    assert "sk-AAAAAA" not in line


def test_closing_says_how_many_were_left_out(tmp_path: Path) -> None:
    """What is queued and what was suppressed is written at the end."""
    path = tmp_path / "audit.log"
    writer = AuditWriter(file=AuditFile(path))
    for _ in range(PER_MINUTE + 1):
        writer.offer(_event())
    writer.close()
    assert len(_lines(path)) == PER_MINUTE + 1
    assert _lines(path)[-1]["details"] == {"reason": "suppressed", "suppressed": 1}


def test_a_full_queue_counts_and_does_not_wait(tmp_path: Path) -> None:
    """Beyond its bound the queue drops and counts."""
    lost: list[str] = []
    clock = Clock(0.0)
    writer = AuditWriter(file=AuditFile(tmp_path / "audit.log"), failed=lost.append, clock=clock)
    for n in range(QUEUE + 5):
        clock.now += 61
        writer.offer(_event(f"10.{n // 65536}.{n // 256 % 256}.{n % 256}"))
    assert lost == ["queue"] * 5


def test_the_file_is_the_owners_alone(tmp_path: Path) -> None:
    """0600, whatever the umask."""
    before = os.umask(0)
    try:
        AuditFile(tmp_path / "audit.log")
    finally:
        os.umask(before)
    assert (tmp_path / "audit.log").stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize("how", ["renamed", "removed", "truncated"])
def test_rotation_by_others_is_followed(tmp_path: Path, how: str) -> None:
    """A file that was renamed, removed or emptied in place gets the next record under its name."""
    path = tmp_path / "audit.log"
    writer = AuditWriter(file=AuditFile(path))
    writer.record(_event())
    if how == "renamed":
        path.rename(tmp_path / "audit.log.1")
    elif how == "removed":
        path.unlink()
    else:
        os.truncate(path, 0)
    writer.record(_event("10.0.0.9"))
    anchor, record = _lines(path)
    assert (anchor["action"], anchor["details"]["removed_seq"]) == ("audit.anchor", 1)  # type: ignore[index]
    assert record["client_ip"] == "10.0.0.9"


def test_a_signal_begins_the_new_file_with_its_anchor(tmp_path: Path) -> None:
    """After SIGUSR1 the file that has the name now says at once where it continues, also one emptied in place."""
    path = tmp_path / "audit.log"
    writer = AuditWriter(file=AuditFile(path))
    writer.record(_event())
    path.rename(tmp_path / "old")
    for seq in (1, 2):
        writer.reopen()
        writer.flush()
        [anchor] = _lines(path)
        assert (anchor["action"], anchor["details"]["removed_seq"]) == ("audit.anchor", seq)  # type: ignore[index]
        os.truncate(path, 0)


def test_a_file_that_is_full_is_rotated(tmp_path: Path) -> None:
    """Past its size the file moves on, as many as asked for are kept."""
    path = tmp_path / "audit.log"
    file = AuditFile(path, max_bytes=5000, backups=2)
    writer = AuditWriter(file=file)
    for _ in range(40):
        writer.record(_event())
    names = ["audit.log", "audit.log.1", "audit.log.2"]
    assert sorted(found.name for found in tmp_path.iterdir()) == [".audit.log.chain", *names]
    assert all(found.stat().st_size <= 5000 for found in tmp_path.iterdir())
    assert verify_file([tmp_path / name for name in reversed(names)], None).faults == []
    assert verify_file([path], None).faults == []


def test_nothing_configured_writes_nothing() -> None:
    """Without sinks, records and offers are accepted and gone."""
    writer = AuditWriter()
    writer.record(_event())
    writer.offer(_event())
    writer.close()


def test_a_path_that_cannot_be_written_is_found_before_the_start(tmp_path: Path) -> None:
    """A folder in the file's place, or a missing folder that must not be made, is one line; nothing is made."""
    assert fault(OperationSettings(audit_log_file=str(tmp_path / "new" / "audit.log"))) is None
    assert not (tmp_path / "new").exists()
    missing = Settings(
        operation=OperationSettings(audit_log_file=str(tmp_path / "new" / "audit.log"), audit_create_dir=False)
    )
    assert "AUDIT_CREATE_DIR" in (fault(missing.operation) or "")
    assert "AUDIT_LOG_FILE" in (fault(OperationSettings(audit_log_file=str(tmp_path))) or "")
    (tmp_path / "file").touch()
    assert "AUDIT_LOG_FILE" in (fault(OperationSettings(audit_log_file=str(tmp_path / "file" / "audit.log"))) or "")
    assert fault(OperationSettings(audit_log_file="")) is None


def test_a_record_hides_secrets_and_queries() -> None:
    """Bearers and keys in any value are obfuscated; addresses lose their query."""
    bearer = "sk-AAAAAAAAAAAAAAAAAAAAAA"
    event = AuditEvent(
        "a", "b", "success", request_id=bearer,
        details={"endpoint": f"/manage/tokens/{bearer}?x={bearer}", "user_agent": f"x Bearer {bearer}", "n": [bearer]},
    ).redacted()  # fmt: skip
    assert bearer not in event.line().decode() + str(event.row())
    assert event.details["endpoint"] == "/manage/tokens/sk-AAAAA...AAAA"
