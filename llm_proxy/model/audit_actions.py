"""Every action of the audit trail. docs/reference/audit-actions.md is made from this list."""

from enum import StrEnum
from typing import Self


class AuditAction(StrEnum):
    """An action's name as it is stored, and when it is recorded."""

    meaning: str

    def __new__(cls, name: str, meaning: str) -> Self:
        """Return the member, a string equal to its name."""
        member = str.__new__(cls, name)
        member._value_ = name
        member.meaning = meaning
        return member

    ADMIN_ACCESS = (
        "admin.access",
        "A management call came with wrong credentials, or its role does not allow it.",
    )
    ADMIN_LOGIN = "admin.login", "A person signed in to the admin UI, or could not."
    ADMIN_LOGOUT = "admin.logout", "A person signed out of the admin UI."
    AUDIT_ANCHOR = (
        "audit.anchor",
        "Old records were removed, or a file was rotated; it proves what is gone.",
    )
    AUDIT_LIST = "audit.list", "Audit records were listed."
    AUDIT_SHOW = "audit.show", "One audit record was read."
    AUDIT_VERIFY = "audit.verify", "The chains of the audit trail were verified; `faults` names what is broken."
    CACHE_PURGE = "cache.purge", "Stored responses were purged."
    CACHE_READ = "cache.read", "The cache's figures were to be read, and could not be."
    DEAD_LETTER_DROP = "dead_letter.drop", "A dead letter was deleted."
    DEAD_LETTER_LIST = "dead_letter.list", "Dead letters were listed, without their events."
    DEAD_LETTER_REPLAY = "dead_letter.replay", "A dead letter was put back on the event bus."
    DISPATCHER_READ = "dispatcher.read", "The state of the event bus was to be read, and could not be."
    DOCTOR_READ = "doctor.read", "The findings of doctor were to be read, and could not be."
    EVENTS_TAIL = "events.tail", "A caller began to watch events."
    KEY_CREATE = "key.create", "A management key was created."
    KEY_LIST = "key.list", "Management keys were listed."
    KEY_READ = "key.read", "One management key was read."
    KEY_REVOKE = "key.revoke", "A management key was revoked."
    KEY_ROLL = "key.roll", "A management key got a new secret."
    KEY_UPDATE = "key.update", "A management key was changed."
    OUTCOME_LIST = "outcome.list", "Outcomes were to be read, and could not be."
    PROJECT_CREATE = "project.create", "A project was created."
    PROJECT_DELETE = "project.delete", "The deletion of a project was asked for, which is refused."
    PROJECT_LIST = "project.list", "Projects were listed."
    PROVIDER_KEY_DELETE = "project.provider_key.delete", "A project's key for a provider was removed."
    PROVIDER_KEY_LIST = "project.provider_key.list", "A project's keys for providers were listed."
    PROVIDER_KEY_UPDATE = "project.provider_key.update", "A project's key for a provider was set."
    PROJECT_READ = "project.read", "One project was read."
    PROJECT_UPDATE = "project.update", "A project was changed; with `tokens_revoked`, its tokens were revoked as well."
    PROXY_REQUEST = (
        "proxy_request",
        "A request was refused because its project is inactive or not known.",
    )
    SESSION_END = "session.end", "A session of a person was ended by another one or by a key."
    SESSION_LIST = "session.list", "Sessions of people were listed."
    SETTINGS_READ = "settings.read", "The settings in force were read."
    STATS_READ = "stats.read", "Totals were to be read, and could not be."
    STREAM_CUT = "stream.cut", "A running request was cut."
    STREAM_LIST = "stream.list", "Running requests were to be listed, and could not be."
    SYSTEM_CLEANUP = "system.cleanup", "Housekeeping, or a command that prunes, revoked or deleted rows."
    SYSTEM_ENCRYPT = "system.encrypt", "Provider keys or tokens at rest were sealed or hashed."
    SYSTEM_MIGRATE = "system.migrate", "The database was migrated."
    TOKEN_ACCESS = (
        "token.access",
        "A request was refused: token unknown, revoked, expired, idle for too long, or exhausted.",
    )
    TOKEN_CREATE = "token.create", "A token was issued."
    TOKEN_LIST = "token.list", "Tokens were listed."
    TOKEN_READ = "token.read", "One token was read."
    TOKEN_REFUSALS = "token.refusals", "The refusals of a token were to be read, and could not be."
    TOKEN_REVOKE = "token.revoke", "A token was revoked."
    TOKEN_REVOKE_BATCH = "token.revoke_batch", "All tokens of a project were revoked."
    TOKEN_ROLL = "token.roll", "A token was replaced by one with the same limits."
    TOKEN_UPDATE = "token.update", "A token was changed."
    TRAFFIC_READ = "traffic.read", "Traffic was to be read, and could not be."
    USAGE_LIST = "usage.list", "Usage was read."
