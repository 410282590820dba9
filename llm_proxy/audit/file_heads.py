"""Where the chains of audit files end, kept in the database: a file does not show what is missing at its end."""

import socket
from dataclasses import dataclass

from sqlalchemy import Connection, insert, select, update
from sqlalchemy.exc import IntegrityError

from llm_proxy.audit.chain import Link
from llm_proxy.db.models import AuditFileRow
from llm_proxy.runtime.clock import utc_now

_WIDTH = 255


@dataclass(frozen=True, slots=True)
class FileHead:
    """What is known of a file's chain: where the file is, and the newest line that was told."""

    place: str
    last: Link


def place_of(path: str) -> str:
    """Host and path, as far as the column reaches."""
    return f"{socket.gethostname()}:{path}"[-_WIDTH:]


def record_head(connection: Connection, path: str, writer: str, link: Link) -> None:
    """Remember that the chain has come so far; what another worker has told already stays when it is further."""
    values = {"place": place_of(path), "last_seq": link.seq, "last_hash": link.hash, "updated_at": utc_now()}
    mine = (AuditFileRow.writer == writer, AuditFileRow.last_seq <= link.seq)
    if connection.execute(update(AuditFileRow).where(*mine).values(values)).rowcount:
        return
    if connection.execute(select(AuditFileRow.writer).where(AuditFileRow.writer == writer)).first() is not None:
        return
    try:
        with connection.begin_nested():
            connection.execute(insert(AuditFileRow).values(writer=writer, **values))
    except IntegrityError:  # another worker was first; the next turn tells it
        return


def file_heads(connection: Connection) -> dict[str, FileHead]:
    """Writer → what is known."""
    rows = connection.execute(select(AuditFileRow.__table__))
    return {row.writer: FileHead(row.place, Link(row.last_seq, row.last_hash)) for row in rows}
