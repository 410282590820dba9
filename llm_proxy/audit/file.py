"""The audit file: JSON lines that several workers append to (MP-122, MP-123)."""

import os
from pathlib import Path

from llm_proxy.logs import FileSink
from llm_proxy.settings import Settings


class AuditFile(FileSink):
    """Appends each record with one write; follows the name when the file was renamed, removed or rotated.

    Args:
        fsync: Force each record to the disk.
    """

    def __init__(self, path: Path, *, max_bytes: int = 0, backups: int = 0, fsync: bool = False) -> None:
        super().__init__(path, max_bytes=max_bytes, backups=backups)
        self._fsync = fsync

    @classmethod
    def of(cls, settings: Settings) -> "AuditFile | None":
        """The file that the settings ask for; None for none. Raises OSError when it cannot be opened."""
        if not settings.audit_enabled or not settings.audit_log_file:
            return None
        path = Path(settings.audit_log_file)
        if settings.audit_create_dir:
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        elif not path.parent.is_dir():
            raise FileNotFoundError(path.parent)
        return cls(
            path,
            max_bytes=settings.audit_log_max_size_mb * 1024 * 1024,
            backups=settings.audit_log_max_backups,
            fsync=settings.audit_fsync,
        )

    def _open(self) -> int:
        return os.open(self._path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)

    def write(self, lines: bytes) -> None:
        """As `FileSink`, and on the disk when it returns if that was asked for."""
        super().write(lines)
        if self._fsync:
            os.fsync(self._descriptor)


def fault(settings: Settings) -> str | None:
    """One line when records could not be written to the audit file; the start then stops. Makes nothing (MP-122)."""
    if not settings.audit_enabled or not settings.audit_log_file:
        return None
    path = Path(settings.audit_log_file)
    shown = f"AUDIT_LOG_FILE={path}: expected"
    if path.exists():
        return None if path.is_file() and os.access(path, os.W_OK) else f"{shown} a file that can be written"
    folder = path.parent
    if not folder.exists() and not settings.audit_create_dir:
        return f"{shown} its folder to exist, because AUDIT_CREATE_DIR is false"
    while not folder.exists():
        folder = folder.parent
    return None if folder.is_dir() and os.access(folder, os.W_OK | os.X_OK) else f"{shown} a folder that can be written"
