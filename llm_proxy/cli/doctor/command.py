"""The command."""

import os
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click

from llm_proxy.cli import output
from llm_proxy.cli.base import Command
from llm_proxy.cli.doctor import bundle as bundles
from llm_proxy.cli.doctor import files, host, settings
from llm_proxy.cli.doctor.database import database, reachable
from llm_proxy.cli.doctor.finding import Check, CheckContext, Finding, fault
from llm_proxy.cli.doctor.provider import provider
from llm_proxy.cli.doctor.redis import redis
from llm_proxy.cli.environment import ENV_FILE, env_file, load_settings
from llm_proxy.cli.errors import CommandError
from llm_proxy.settings import Loaded

CHECKS: tuple[Check, ...] = (
    settings.variables,
    settings.provider_file,
    settings.secret_files,
    files.written,
    files.database_file,
    files.tls,
    host.address,
    host.limits,
    host.speed,
    host.clock,
    database,
    redis,
    provider,
)
CHEAP: tuple[Check, ...] = (  # for a server that runs: neither long, nor through the network to the provider
    settings.variables,
    settings.provider_file,
    settings.secret_files,
    files.written,
    files.tls,
    host.limits,
    host.clock,
    reachable,
    redis,
)
_MARKS = {"fault": "FAULT", "warning": "warn ", "good": "ok   "}


@click.command("doctor", cls=Command)
@click.option("--bundle", type=click.Path(), metavar="PATH", help="Write a redacted file for a bug report.")
@output.output_options
def doctor(bundle: str | None) -> None:
    """Look for faults, and say what to do about each.

    Looks at settings, provider file, file permissions, database, migrations, keys at rest, Redis, the provider and the
    projects' keys, and clocks. Changes nothing. Exits with 1 if there is a fault.
    """
    context = CheckContext(load_settings(), env_file() or os.environ.get(ENV_FILE) or ".env")
    findings = list(examine(context))
    output.emit([asdict(finding) for finding in findings], lambda: "\n".join(_lines(findings)))
    if bundle is not None:
        try:
            bundles.write(Path(bundle), context, findings)
        except OSError as exc:
            raise CommandError(f"cannot write {bundle}: {exc.strerror}") from None
        output.note(f"Bundle written to {bundle}")
    if any(finding.level == "fault" for finding in findings):
        click.get_current_context().exit(1)


def examine(context: CheckContext, checks: Sequence[Check] = CHECKS) -> Iterator[Finding]:
    """Every finding of every check; a check that fails itself is a finding, too."""
    for check in checks:
        try:
            yield from check(context)
        except Exception as exc:  # one side that cannot be looked at must not hide the others
            what = f"the check {check.__module__.rpartition('.')[2]}.{check.__name__} ended with {type(exc).__name__}"
            yield fault("doctor.check-failed", what, "report it, with --bundle")


def examine_running(loaded: Loaded) -> list[dict[str, Any]]:
    """Return the findings of the cheap checks, for the server that these settings started."""
    context = CheckContext(loaded, os.environ.get(ENV_FILE) or ".env")
    return [asdict(finding) for finding in examine(context, CHEAP)]


def _lines(findings: list[Finding]) -> Iterator[str]:
    for finding in findings:
        yield f"{_MARKS[finding.level]}  {finding.code}: {finding.what}"
        if finding.remedy:
            yield f"       -> {finding.remedy}"
    faults = sum(finding.level == "fault" for finding in findings)
    yield f"{faults} fault{'' if faults == 1 else 's'} found." if faults else "Nothing is wrong."
