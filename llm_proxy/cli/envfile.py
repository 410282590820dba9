"""Changing an env file in place: what is not mentioned stays as it is, and its owner alone can read it."""

import io
import os
import re
import secrets
from base64 import b64encode
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from dotenv.parser import parse_stream

_PLAIN = re.compile(r"[A-Za-z0-9_./:@%+=,~-]*")
_MODE = 0o600


@dataclass(frozen=True, slots=True)
class Secret:
    """A variable that is made when it is missing, and the comment above its line."""

    make: Callable[[], str]
    comment: str


SECRETS = {
    "MANAGEMENT_TOKEN": Secret(lambda: secrets.token_urlsafe(32), "Bearer of the management API under /manage."),
    "ENCRYPTION_KEY": Secret(
        lambda: b64encode(secrets.token_bytes(32)).decode(),
        "Seals provider keys in the database. Lost key, lost provider keys: keep a copy.",
    ),
}


def comments() -> dict[str, str]:
    """Return the comment of each secret, by its variable."""
    return {name: secret.comment for name, secret in SECRETS.items()}


def edit(path: Path, changes: Mapping[str, str], comments: Mapping[str, str] | None = None) -> None:
    """Set variables: in their line where they have one, else at the end, under their comment.

    The file is replaced at once or not at all; what it was before is kept beside it as `.bak`. Raises OSError.
    """
    before = path.read_text() if path.exists() else ""
    if path.exists():
        write(path.with_name(path.name + ".bak"), before)
    write(path, edited(before, changes, comments or {}))


def edited(before: str, changes: Mapping[str, str], comments: Mapping[str, str]) -> str:
    """Return the text with the changes made."""
    left, parts = dict(changes), []
    for binding in parse_stream(io.StringIO(before)):
        original = binding.original.string
        if binding.key is None or binding.error or binding.key not in changes:
            parts.append(original)
            continue
        lead = original[: len(original) - len(original.lstrip())]
        left.pop(binding.key, None)
        parts.append(f"{lead}{binding.key}={_quoted(changes[binding.key])}\n")
    text = "".join(parts)
    text += "\n" if text and not text.endswith("\n") else ""
    for name, value in left.items():
        text += f"# {comments[name]}\n" if name in comments else ""
        text += f"{name}={_quoted(value)}\n"
    return text


def _quoted(value: str) -> str:
    if _PLAIN.fullmatch(value):
        return value
    return "'" + value.replace("\\", "\\\\").replace("'", "\\'") + "'"


def write(path: Path, text: str) -> None:
    """Replace a file by one that was never readable by others."""
    new = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    descriptor = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL, _MODE)
    try:
        with os.fdopen(descriptor, "w") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        os.replace(new, path)
    except BaseException:
        new.unlink(missing_ok=True)
        raise
