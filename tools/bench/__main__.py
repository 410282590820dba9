"""The bench: the proxy beside its own server layer, nginx, and nothing at all, in one interleaved run."""

import argparse
import json
import os
import platform
import random
import resource
import shutil
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import document
import features
import peers
from comparing import regressions
from contestants import (
    Contestant,
    Direct,
    Gateway,
    Upstream,
    http_parser,
    nginx_proxy,
    server_alone,
    streaming_gateway,
)
from machine import Cores
from measure import Bench, Checks, Samples, percentile
from report import (
    DIRECT,
    FEW,
    GATEWAY,
    MANY,
    PAIR,
    STREAMING,
    UNACCOUNTED,
    as_json,
    features_table,
    peers_table,
    table,
    targets,
)
from report import summary as summarise

DOCUMENT = Path(__file__).parents[2] / "docs" / "performance.md"
DESCRIPTION = """\
Starts a canned provider and a streaming one, nginx as reverse proxy, the server layer around an
application that calls no other server, the whole proxy (gunicorn, one worker, one unlimited token), the same
without accounting, and with two workers, a limited token and its database's round trips counted; holds
the contestants on one core and load and providers on another; measures them in random order, round
by round. Besides the clock it checks the counts: what the load got answered, what the provider saw,
and what the token was charged. Targets are ratios within this run, so the machine matters little;
one that does something else meanwhile matters a lot.

Added latency is a percentile beside the direct path's median. CPU is that of all the contestant's
processes divided by the requests (or events) that it carried.
"""


@dataclass(frozen=True, slots=True)
class Sizes:
    """How much of everything."""

    rounds: int
    requests: int  # a round, one after the other
    seconds: int  # of throughput, a round and contestant
    events: dict[int, int]  # FEW, MANY → events of each stream
    pairs: int  # of slices with and without accounting, a round
    share: float = 1.0  # of the streams that FEW and MANY name

    @classmethod
    def of(cls, name: str) -> "Sizes":
        """`full`, `quick` (about a minute) or `tiny` (seconds; shows that it runs and nothing else)."""
        return {
            "full": cls(4, 3000, 8, {FEW: 200, MANY: 40}, 8),
            "quick": cls(2, 1000, 3, {FEW: 60, MANY: 16}, 6),
            "tiny": cls(1, 50, 1, {FEW: 5, MANY: 3}, 1, share=0.02),
        }[name]


INTERVAL_MS = {FEW: 50.0, MANY: 250.0}  # between two events of a stream
GAP_MS = {FEW: 5.25, MANY: 1.75}  # between two streams' beginnings: their events then fall on their own slots


def parse_arguments(arguments: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        "bin/bench", description=DESCRIPTION, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_const", const="quick", dest="size", help="about a minute")
    parser.add_argument(
        "--tiny", action="store_const", const="tiny", dest="size", help="seconds; says only that it runs"
    )
    parser.add_argument("--rounds", type=int, help="instead of 4 (--quick: 2)")
    parser.add_argument(
        "--features",
        nargs="*",
        metavar="NAME",
        help="what each feature costs (these only), beside the noise of two gateways that are the same",
    )
    parser.add_argument(
        "--peers", action="store_true", help="LiteLLM, Portkey, ferrogw and nginx beside llm-proxy; installs them once"
    )
    parser.add_argument(
        "--peer",
        action="append",
        default=[],
        type=_peer,
        metavar="NAME=CMD",
        help="this gateway as well; {port} and {upstream} in CMD are filled in, OPENAI_BASE_URL is set",
    )
    parser.add_argument(
        "--compare",
        type=Path,
        metavar="PATH",
        help="an older --json: end with 1 when a CPU figure is worse beyond noise",
    )
    parser.add_argument("--json", type=Path, metavar="PATH", help="write everything there as well")
    parser.add_argument(
        "--document", action="store_true", help="write the table of --features or --peers into docs/performance.md"
    )
    parser.add_argument("--seed", type=int, default=None, help="of the random order")
    parser.add_argument("--strict", action="store_true", help="end with 1 when a target is missed")
    parser.add_argument("--keep", action="store_true", help="leave the working folder, with all logs")
    parser.set_defaults(size="full")
    return parser.parse_args(arguments)


def _peer(text: str) -> peers.Peer:
    try:
        return peers.given(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def main(arguments: list[str]) -> int:
    options = parse_arguments(arguments)
    missing = [name for name in ("nginx", "wrk", "taskset") if not shutil.which(name, path=_search_path())]
    if missing:
        print(
            f"bin/bench: missing: apt-get install {' '.join(missing).replace('taskset', 'util-linux')}", file=sys.stderr
        )
        return 2
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    folder = Path(tempfile.mkdtemp(prefix="llm-proxy-bench-"))
    folder.chmod(0o755)
    try:
        measured, told = _kind(options)
        report = measured(folder, options)
    finally:
        if options.keep:
            print(f"bin/bench: logs are in {folder}", file=sys.stderr)
        else:
            shutil.rmtree(folder, ignore_errors=True)
    print(told(report))
    if options.document:
        document.update(DOCUMENT, report)
    if options.json is not None:
        options.json.write_text(json.dumps(report, indent=2, ensure_ascii=False) + "\n")
    worse = regressions(json.loads(options.compare.read_text()), report) if options.compare is not None else []
    for line in worse:
        print(f"worse: {line}")
    is_missed = any(target["is_met"] is False for target in report["targets"])
    return 1 if report["checks"]["failed"] or worse or (options.strict and is_missed) else 0


def _kind(options: argparse.Namespace) -> tuple[Callable[..., dict[str, Any]], Callable[..., str]]:
    """Return what measures, and what makes its table."""
    if options.features is not None:
        return run_features, features_table
    if options.peers or options.peer:
        return run_peers, peers_table
    return run, table


def _search_path() -> str:
    return os.pathsep.join((os.environ.get("PATH", ""), "/usr/sbin"))


def run(folder: Path, options: argparse.Namespace) -> dict[str, Any]:
    """Start, measure, stop. Raises RuntimeError when something does not serve."""
    sizes = Sizes.of(options.size)
    rounds = options.rounds or sizes.rounds
    cores, checks, order = Cores.here(), Checks(), random.Random(options.seed)
    serving = cores.serving[:1]
    with ExitStack() as stack:
        upstream = Upstream(folder, cores.loading, serving)
        stack.callback(upstream.stop)
        bench = Bench(folder, cores.loading, upstream, checks)
        found = _start(stack, folder, serving, cores, upstream)
        samples = {one.name: Samples() for one in found}
        streaming = [one for one in found if one.name in (DIRECT, "nginx", STREAMING)]
        _warm_up(bench, found, sizes)
        _streams(bench, order, streaming, samples, MANY, sizes)  # first: memory is what a fresh worker takes
        for number in range(1, rounds + 1):
            print(f"round {number} of {rounds} …", file=sys.stderr)
            _round(bench, order, found, samples, sizes)
            _price(bench, order, found, samples[GATEWAY], sizes)
            _streams(bench, order, streaming, samples, FEW, sizes)
        for one in found:
            if isinstance(one, Gateway) and one.name != UNACCOUNTED:
                _check_charge(bench, checks, one)
    numbers = summarise(samples)
    verdict = targets(numbers, has_two_each=cores.has_two_each)
    return as_json(_machine(cores, options.size, rounds), numbers, verdict, checks)


def run_features(folder: Path, options: argparse.Namespace) -> dict[str, Any]:
    """Start, measure, stop: what each feature costs. Raises RuntimeError when something does not serve."""
    sizes = Sizes.of(options.size)
    rounds = options.rounds or 2 * sizes.rounds
    cores, checks = Cores.here(), Checks()
    with ExitStack() as stack:
        upstream = Upstream(folder, cores.loading, cores.serving[:1])
        stack.callback(upstream.stop)
        bench = Bench(folder, cores.loading, upstream, checks)
        seconds = max(1, sizes.seconds // 3)
        found = features.measure(
            bench, cores.serving[:1], random.Random(options.seed), rounds, seconds, options.features
        )
    return as_json(_machine(cores, options.size, rounds), {}, [], checks) | {"features": found}


def run_peers(folder: Path, options: argparse.Namespace) -> dict[str, Any]:
    """Start, measure, stop: other gateways. Raises RuntimeError when the proxy or nginx does not serve."""
    sizes = Sizes.of(options.size)
    rounds = options.rounds or sizes.rounds
    cores, checks = Cores.here(), Checks()
    with ExitStack() as stack:
        upstream = Upstream(folder, cores.loading, cores.serving[:1])
        stack.callback(upstream.stop)
        bench = Bench(folder, cores.loading, upstream, checks)
        found = peers.measure(
            bench,
            cores.serving[:1],
            random.Random(options.seed),
            rounds,
            (sizes.requests // 2, max(1, sizes.seconds // 3)),
            options.peer,
            has_known=options.peers,
        )
    return as_json(_machine(cores, options.size, rounds), {}, [], checks) | {"peers": found}


def _start(
    stack: ExitStack, folder: Path, serving: tuple[int, ...], cores: Cores, upstream: Upstream
) -> list[Contestant]:
    found: list[Contestant] = [Direct(upstream)]

    def add(contestant: Contestant) -> None:
        stack.callback(contestant.stop)
        found.append(contestant)

    add(nginx_proxy(folder, serving, upstream))
    add(server_alone(folder, serving))
    add(Gateway(folder / "gateway", serving, upstream.port, GATEWAY))
    add(streaming_gateway(folder / "streaming", serving, upstream, STREAMING))
    add(Gateway(folder / "uncounted", serving, upstream.port, UNACCOUNTED, app="unaccounted:app"))
    pair = {"workers": 2, "app": "counted:app", "max_requests": 10**9}  # limited: that is the dearer token
    add(Gateway(folder / "pair", cores.serving, upstream.port, PAIR, **pair))
    return found


def _warm_up(bench: Bench, found: list[Contestant], sizes: Sizes) -> None:
    for one in found:
        if one.name == STREAMING:
            bench.streams(one, 10, 3, 20.0, 2.0)
        else:
            bench.latency(one, min(200, sizes.requests))


def _round(
    bench: Bench, order: random.Random, found: list[Contestant], samples: dict[str, Samples], sizes: Sizes
) -> None:
    work = [(one, kind) for one in found if one.name != STREAMING for kind in ("latency", "throughput")]
    order.shuffle(work)
    for one, kind in work:
        own = samples[one.name]
        if kind == "throughput":
            before = one.round_trips() if one.name == PAIR else 0
            rps, cpu_us = bench.throughput(one, sizes.seconds)
            own.rps.append(rps)
            own.cpu_us.append(cpu_us)
            if one.name == PAIR:
                own.round_trips.append((one.round_trips() - before) / max(1.0, rps * sizes.seconds))
        elif one.name != PAIR:
            own.latency_us.append(bench.latency(one, sizes.requests))


def _price(bench: Bench, order: random.Random, found: list[Contestant], own: Samples, sizes: Sizes) -> None:
    """Measure what accounting adds, by slices in turn: the machine's speed varies for longer than a slice."""
    two = [one for one in found if one.name in (GATEWAY, UNACCOUNTED)]
    for _ in range(sizes.pairs):
        p50 = {one.name: percentile(bench.latency(one, sizes.requests // 4), 50) for one in order.sample(two, 2)}
        own.price_us.append(p50[GATEWAY] - p50[UNACCOUNTED])


def _streams(
    bench: Bench,
    order: random.Random,
    found: list[Contestant],
    samples: dict[str, Samples],
    streams: int,
    sizes: Sizes,
) -> None:
    opened = int(streams * sizes.share)
    for one in order.sample(found, len(found)):
        run = bench.streams(one, opened, sizes.events[streams], INTERVAL_MS[streams], GAP_MS[streams])
        samples[one.name].streams.setdefault(streams, []).append(run)


def _check_charge(bench: Bench, checks: Checks, gateway: Gateway) -> None:
    """Check that the token is charged what the provider saw; counts are written later, so it waits for them."""
    seen, deadline = bench.charged.get(gateway.name, 0), time.monotonic() + 10
    while (charged := gateway.request_count()) < seen and time.monotonic() < deadline:
        time.sleep(0.2)
    slack = bench.slack.get(gateway.name, 0)
    checks.expect(
        seen <= charged <= seen + slack, f"{gateway.name}: the provider saw {seen}, the token was charged {charged}"
    )


def _machine(cores: Cores, size: str, rounds: int) -> dict[str, Any]:
    return {
        "cores": cores.count,
        "contestants_on": list(cores.serving),
        "load_on": list(cores.loading),
        "python": platform.python_version(),
        "http_parser": http_parser(),
        "size": size,
        "rounds": rounds,
    }


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except RuntimeError as exc:
        sys.exit(f"bin/bench: {exc}")
    except KeyboardInterrupt:
        sys.exit(130)
