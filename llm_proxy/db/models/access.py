"""Management keys, sessions of the admin UI, and sign-ins that are under way at an OpenID provider."""

from datetime import datetime

from sqlalchemy import Boolean, CheckConstraint, Index, UniqueConstraint
from sqlalchemy.orm import Mapped, mapped_column

from llm_proxy.db.models.base import MYSQL_TABLE, Base
from llm_proxy.db.types import UtcTime, ascii_fixed, ascii_text, exact_text, long_text

_ROLE = "role IN ('issuer','viewer','operator','admin')"


class ManagementKeyRow(Base):
    """A key of a program. Secrets are kept as SHA-256; `projects` is a JSON list of ids, null for all projects.

    `previous_hash` opens, too, until `previous_until`: the overlap after a roll.
    """

    __tablename__ = "management_keys"
    __table_args__ = (
        UniqueConstraint("name", name="uq_management_keys_name"),
        UniqueConstraint("secret_hash", name="uq_management_keys_secret_hash"),
        CheckConstraint(_ROLE, name="role"),
        Index("idx_management_keys_previous_hash", "previous_hash"),
        MYSQL_TABLE,
    )

    id: Mapped[str] = mapped_column(ascii_text(36), primary_key=True)
    name: Mapped[str] = mapped_column(exact_text(255))
    secret_hash: Mapped[str] = mapped_column(ascii_fixed(64))
    previous_hash: Mapped[str | None] = mapped_column(ascii_fixed(64))
    previous_until: Mapped[datetime | None] = mapped_column(UtcTime())
    role: Mapped[str] = mapped_column(ascii_text(16))
    projects: Mapped[str | None] = mapped_column(long_text())
    expires_at: Mapped[datetime | None] = mapped_column(UtcTime())
    created_at: Mapped[datetime] = mapped_column(UtcTime())
    created_by: Mapped[str] = mapped_column(exact_text(255))
    last_used_at: Mapped[datetime | None] = mapped_column(UtcTime())


class AdminSessionRow(Base):
    """A signed-in person. The session's id is kept as a hash only.

    `fingerprint` is the hash of the credential that began the session: it ends when that one is not good any more.
    """

    __tablename__ = "admin_sessions"
    __table_args__ = (
        CheckConstraint(_ROLE, name="role"),
        CheckConstraint("method IN ('token','key','oidc')", name="method"),
        Index("idx_admin_sessions_expires_at", "expires_at"),
        MYSQL_TABLE,
    )

    id_hash: Mapped[str] = mapped_column(ascii_fixed(64), primary_key=True)
    method: Mapped[str] = mapped_column(ascii_text(16))
    actor: Mapped[str] = mapped_column(exact_text(255))
    role: Mapped[str] = mapped_column(ascii_text(16))
    projects: Mapped[str | None] = mapped_column(long_text())
    key_id: Mapped[str | None] = mapped_column(ascii_text(36))
    fingerprint: Mapped[str] = mapped_column(ascii_fixed(64))
    id_token: Mapped[str | None] = mapped_column(long_text())
    remember: Mapped[bool] = mapped_column(Boolean())
    client_ip: Mapped[str | None] = mapped_column(exact_text(45))
    user_agent: Mapped[str | None] = mapped_column(exact_text(255))
    created_at: Mapped[datetime] = mapped_column(UtcTime())
    last_seen_at: Mapped[datetime] = mapped_column(UtcTime())
    expires_at: Mapped[datetime] = mapped_column(UtcTime())


class SignInRow(Base):
    """A sign-in at an OpenID provider between the redirect there and the way back; used once."""

    __tablename__ = "admin_sign_ins"
    __table_args__ = (Index("idx_admin_sign_ins_expires_at", "expires_at"), MYSQL_TABLE)

    state_hash: Mapped[str] = mapped_column(ascii_fixed(64), primary_key=True)
    browser_hash: Mapped[str] = mapped_column(ascii_fixed(64))
    nonce: Mapped[str] = mapped_column(ascii_text(64))
    code_verifier: Mapped[str] = mapped_column(ascii_text(128))
    return_to: Mapped[str] = mapped_column(long_text())
    expires_at: Mapped[datetime] = mapped_column(UtcTime())
