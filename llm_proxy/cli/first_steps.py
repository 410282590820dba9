"""What `setup` and bin/up share: secrets that are missing, and a first request."""

import json
from pathlib import Path

from sqlalchemy import select
from sqlalchemy.exc import DBAPIError

from llm_proxy.cli import envfile
from llm_proxy.crypto import SEALED
from llm_proxy.db.engine import create_engine
from llm_proxy.db.errors import DatabaseFault
from llm_proxy.db.models import ProjectRow
from llm_proxy.db.session import read_transaction
from llm_proxy.settings import Loaded, StorageSettings

_MODEL = "gpt-4o-mini"


def missing_secrets(loaded: Loaded) -> list[str]:
    """Return the variables of `envfile.SECRETS` that no source has.

    ENCRYPTION_KEY does not count as missing where the database holds keys that another one has sealed: a new one would
    open none of them, and the start says what is wrong.
    """
    missing = [name for name in envfile.SECRETS if not {name, f"{name}_FILE"} & loaded.sources.keys()]
    if "ENCRYPTION_KEY" in missing and _holds_sealed_keys(loaded.settings.storage):
        missing.remove("ENCRYPTION_KEY")
    return missing


def _holds_sealed_keys(settings: StorageSettings) -> bool:
    """Return whether the database has provider keys that some ENCRYPTION_KEY has sealed."""
    if settings.driver == "sqlite" and not Path(settings.path).exists():
        return False
    try:
        engine = create_engine(settings)
        with read_transaction(engine) as connection:
            query = select(ProjectRow.id).where(ProjectRow.api_key.startswith(SEALED)).limit(1)
            found = connection.execute(query).first()
        engine.dispose()
    except (DatabaseFault, DBAPIError):
        return False  # not there yet, or no schema yet: the start tells what is wrong with it
    return found is not None


def first_request(url: str, bearer: str, options: str = "") -> str:
    """Return a curl line that streams a completion when it is pasted."""
    asked = {"model": _MODEL, "stream": True, "messages": [{"role": "user", "content": "Say hello."}]}
    return (
        f"curl -N {options}{url}/v1/chat/completions -H 'Authorization: Bearer {bearer}' "
        f"-H 'Content-Type: application/json' -d '{json.dumps(asked)}'"
    )
