"""The caller of the management plane: the name it acts under, its role, and the projects it may see."""

from dataclasses import dataclass
from datetime import datetime

from llm_proxy.access.roles import Operation, Reach, Role
from llm_proxy.errors import Forbidden, ResourceNotFound

Projects = frozenset[str] | None  # ids; None: all, those that are made later too
NO_PROJECT = "project not found"
ROLE_REQUIRED = "role_required"


@dataclass(frozen=True, slots=True)
class Caller:
    """A credential that was accepted, as it is now.

    Attributes:
        actor: `root`, `cli`, `key:NAME` or `oidc:ADDRESS`; what audit records and `created_by` name.
        projects: Ids; None means all.
        key_id: The management key's id, for keys and for sessions that one of them began.
        expires_at: When the credential ends by itself; what it creates must not outlive that. None: never.
        identity: Tells callers apart whose `actor` is the same or changes; None: the actor does.
    """

    actor: str
    role: Role
    projects: Projects = None
    key_id: str | None = None
    expires_at: datetime | None = None
    identity: str | None = None

    @property
    def is_unlimited(self) -> bool:
        """Whether it may see all projects."""
        return self.projects is None

    def sees(self, project_id: str) -> bool:
        """Whether the project is its own one."""
        return self.projects is None or project_id in self.projects

    def covers(self, role: Role, projects: Projects) -> bool:
        """Whether a grant of this role for these projects is within its own."""
        is_within = self.projects is None or (projects is not None and projects <= self.projects)
        return role.included <= self.role.included and is_within

    def require_project(self, project_id: str) -> None:
        """Raise ResourceNotFound for a project that it may not see, as for one that does not exist."""
        if not self.sees(project_id):
            raise ResourceNotFound(NO_PROJECT, audit={"error_type": NO_PROJECT})

    def require_all_projects(self, role: Role) -> None:
        """Raise Forbidden when it is limited to some projects; `role` is what the operation needs."""
        if self.projects is not None:
            raise refused(f"this needs the role {role} for all projects; this caller is limited to some", role)

    def require(self, operation: Operation) -> None:
        """Raise Forbidden, naming the role that would do."""
        if not operation.allows(self.role):
            raise refused(
                f"this needs the role {operation.needed}; this caller has the role {self.role}", operation.needed
            )
        if operation.reach is Reach.ALL:
            self.require_all_projects(operation.needed)


def refused(message: str, role: Role) -> Forbidden:
    """Return a 403 that names the role that would do."""
    error = Forbidden(message, code=ROLE_REQUIRED, audit={"reason": message, "needed_role": role.value})
    error.more = {"needed_role": role.value}
    return error


ROOT = Caller("root", Role.ADMIN)
CLI = Caller("cli", Role.ADMIN)
