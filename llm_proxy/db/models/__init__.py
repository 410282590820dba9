"""Models of every table, by part. Importing this package fills `Base.metadata`."""

from llm_proxy.db.models.access import AdminSessionRow, ManagementKeyRow, SignInRow
from llm_proxy.db.models.audit import AuditFileRow, AuditRow, AuditWriterRow
from llm_proxy.db.models.base import Base
from llm_proxy.db.models.outcome import OutcomeRow, RefusalRow
from llm_proxy.db.models.project import ProjectKeyRow, ProjectRow
from llm_proxy.db.models.system import CachePurgeRow, IdempotencyRow, InstanceRow, LockRow
from llm_proxy.db.models.token import TokenRow
from llm_proxy.db.models.traffic import TRAFFIC
from llm_proxy.db.models.usage import UsageObjectRow, UsageRow

__all__ = [
    "TRAFFIC",
    "AdminSessionRow",
    "AuditFileRow",
    "AuditRow",
    "AuditWriterRow",
    "Base",
    "CachePurgeRow",
    "IdempotencyRow",
    "InstanceRow",
    "LockRow",
    "ManagementKeyRow",
    "OutcomeRow",
    "ProjectKeyRow",
    "ProjectRow",
    "RefusalRow",
    "SignInRow",
    "TokenRow",
    "UsageObjectRow",
    "UsageRow",
]
