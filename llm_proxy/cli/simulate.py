"""`llm-proxy simulate-provider`: the simulated provider as its own process."""

import signal
import sys
from pathlib import Path

import click
import gevent
from gevent.event import Event

from llm_proxy.cli.base import Command
from llm_proxy.cli.errors import CommandError
from llm_proxy.cli.options import DurationOption, plain_option, read_secret
from llm_proxy.settings.variable import address
from llm_proxy_simulator import PlanError, Rule, Simulator
from llm_proxy_simulator.kinds import KINDS
from llm_proxy_simulator.plan import Plan, read_rules_file


@click.command(
    "simulate-provider",
    cls=Command,
    examples=(
        "llm-proxy simulate-provider --listen 127.0.0.1:9000 --delay 200ms",
        "llm-proxy simulate-provider --kind anthropic --key canary",
        "llm-proxy simulate-provider --faults rules.yaml --log requests.jsonl",
    ),
)
@click.option("--kind", type=click.Choice(tuple(KINDS)), default="openai", help="Whose API it has (openai).")
@click.option("--listen", default="127.0.0.1:0", metavar="ADDRESS", help="Address to listen on (127.0.0.1:0).")
@click.option("--log", type=click.Path(dir_okay=False, path_type=Path), help="File for a JSON line per request.")
@click.option("--faults", type=click.Path(dir_okay=False, path_type=Path), help="Rules file, YAML or JSON.")
@click.option("--key", metavar="KEY|-|@FILE", help="Demand this provider key; - reads stdin, @ a file.")
@plain_option("--events", type=click.IntRange(0), metavar="N", help="Words of a response, events of a stream.")
@click.option("--interval", "interval_s", cls=DurationOption, default="20ms", help="Between events (20ms).")
@click.option("--delay", "delay_s", cls=DurationOption, default="0", help="Before each response (0).")
@click.option("--tls-cert", type=click.Path(dir_okay=False, path_type=Path), help="Serve HTTPS with this chain.")
@click.option("--tls-key", type=click.Path(dir_okay=False, path_type=Path), help="The chain's private key.")
def simulate_provider(
    kind: str,
    listen: str,
    log: Path | None,
    faults: Path | None,
    key: str | None,
    events: int | None,
    interval_s: float,
    delay_s: float,
    tls_cert: Path | None,
    tls_key: Path | None,
) -> None:
    """Serve a simulated provider with the API of OpenAI, Azure OpenAI, Anthropic, Google, Mistral, Groq or OpenRouter.

    Its URL is the first line on stdout. Responses come whole and streamed, with usage. Rules (--faults) or a request's
    own X-Simulate field make it fail in the ways that providers do; see docs/simulator.md of the project.
    """
    simulator = Simulator(
        address=_listen_on(listen),
        log=log,
        rules=[*_rules(faults), Rule(Plan(events=events, delay_s=delay_s))],
        key=read_secret("--key", key),
        interval_s=interval_s,
        tls=(tls_cert, tls_key) if tls_cert and tls_key else None,
        kind=kind,
    )
    try:
        url = simulator.start()
    except OSError as exc:
        raise CommandError(f"cannot listen on {listen}: {exc.strerror or 'address is not usable'}") from None
    click.echo(url)
    sys.stdout.flush()
    _wait_for_signal()
    simulator.stop()


def _listen_on(listen: str) -> tuple[str, int]:
    try:
        found = address(listen)
    except ValueError as exc:
        raise CommandError(f"--listen {listen}: expected {exc}") from None
    if found.path is not None:
        raise CommandError("--listen: expected host and port")
    return found.host, found.port


def _rules(faults: Path | None) -> list[Rule]:
    try:
        return [] if faults is None else read_rules_file(faults)
    except PlanError as exc:
        raise CommandError(f"--faults: {exc}") from None


def _wait_for_signal() -> None:
    stopped = Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        gevent.signal_handler(number, stopped.set)
    stopped.wait()
