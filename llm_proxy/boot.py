"""What a server's master does before anything is served, and again before a reload (data-plane decision 12)."""

from llm_proxy.audit import file as audit_file
from llm_proxy.db.engine import create_engine
from llm_proxy.db.errors import DatabaseFault
from llm_proxy.db.prepare import prepare as prepare_database
from llm_proxy.providers import ProviderFileError, load_provider
from llm_proxy.settings import Loaded, Settings
from llm_proxy.transport import check_certificates, check_proxies


class StartRefused(Exception):
    """The start must stop; the text is the line to say."""


def check(loaded: Loaded) -> list[str]:
    """Everything that would make a worker fail or serve wrongly, a line each. Changes nothing."""
    settings = loaded.settings
    faults = list(loaded.faults)
    if not settings.management_token:
        faults.append("MANAGEMENT_TOKEN=: expected a secret of your own")
    try:
        provider = load_provider(settings).provider
    except ProviderFileError as exc:
        faults += exc.faults
    else:
        faults += check_proxies([provider.origin])
        if provider.origin.startswith("https:"):
            faults += check_certificates()
    fault = audit_file.fault(settings)
    if fault is not None:
        faults.append(fault)
    return faults


def notes(settings: Settings) -> tuple[list[str], list[str]]:
    """Warnings and notes of the provider file, for the log at the start. Raises ProviderFileError."""
    loaded = load_provider(settings)
    return loaded.warnings, loaded.notes


def prepare(settings: Settings) -> None:
    """Migrate, and see that every sealed row has its key. Raises StartRefused."""
    try:
        engine = create_engine(settings)
        try:
            prepare_database(engine, settings)
        finally:
            engine.dispose()
    except DatabaseFault as exc:
        raise StartRefused(str(exc)) from None
