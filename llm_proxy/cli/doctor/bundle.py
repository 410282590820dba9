"""One file for a bug report: everything that helps, nothing that is secret."""

import json
import os
import platform
import sys
from collections.abc import Sequence
from dataclasses import asdict
from importlib import metadata
from pathlib import Path
from typing import Any

from llm_proxy import __version__
from llm_proxy.cli.doctor.finding import CheckContext, Finding
from llm_proxy.redaction import REDACTOR, learn_settings
from llm_proxy.settings import variables
from llm_proxy.settings.formatting import shown

_LOG_TAIL_BYTES = 64 * 1024


def write(path: Path, context: CheckContext, findings: Sequence[Finding]) -> None:
    """Write it, readable by its owner alone. Raises OSError, FileExistsError when there is a file already."""
    learn_settings(context.settings)
    text = json.dumps(REDACTOR.value(_content(context, findings)), indent=2, ensure_ascii=False)
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w") as file:
        file.write(text + "\n")


def _content(context: CheckContext, findings: Sequence[Finding]) -> dict[str, Any]:
    settings = context.settings
    return {
        "version": __version__,
        "python": sys.version,
        "platform": platform.platform(),
        "packages": {d.metadata["Name"]: d.version for d in metadata.distributions() if d.metadata["Name"]},
        "findings": [asdict(finding) for finding in findings],
        "settings": {
            variable.env: {"value": shown(settings, path), "from": context.loaded.sources.get(variable.env, "default")}
            for path, variable in variables().items()
        },
        "log": _log_tail(settings.operation.log_file),
    }


def _log_tail(path: Path | None) -> list[str]:
    """Return the last lines of the log; a tail may begin inside a line, which is left out."""
    if path is None or not path.is_file():
        return []
    with path.open("rb") as file:
        size = file.seek(0, os.SEEK_END)
        file.seek(max(0, size - _LOG_TAIL_BYTES))
        lines = file.read().decode("utf-8", "replace").splitlines()
    return lines if size <= _LOG_TAIL_BYTES else lines[1:]
