"""Other gateways beside llm-proxy and nginx, each in its own folder, in one interleaved run.

LiteLLM and ferrogw come from PyPI, Portkey from npm, in the versions below; any other by `--peer NAME=COMMAND`. Each is
set up as its documentation says for one worker without a database, with its key in front of a canned provider. What
cannot be installed or does not serve is left out, with a line on stderr that says why.
"""

import os
import random
import shlex
import shutil
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from contestants import Contestant, Direct, Gateway, Upstream, nginx_proxy
from machine import Process, free_port, proportional_bytes, tree
from measure import Bench, Samples, middle, percentile
from payload import BODY, PATH, request_fields

LITELLM, PORTKEY, FERROGW = "1.108.7", "1.15.2", "1.5.10"
TOKEN = "sk-bench-peer-key-00000001"
UNEQUAL = {
    "nginx": "keeps no count, reads no body and checks no credential",
    "llm-proxy": "counts the token's quota, usage and cost; access log, cache look-up and metrics are on",
    "litellm": "has no database, so it knows its master key alone and keeps no usage; rebuilds the response",
    "portkey": "checks no key, keeps no count; passes the caller's key to the provider",
    "ferrogw": "keys in memory; rebuilds the response, so that members it does not know are lost",
}
_START_S = 120.0


@dataclass(frozen=True, slots=True)
class Peer:
    """How a gateway is started.

    Attributes:
        name: Its name in the table.
        version: Of its package; `given` for one of `--peer`.
        command: Its words, with {port} and {upstream} (the provider's URL without a path) in them.
        env: More variables, with the same placeholders.
        fields: More fields of each request, with the same placeholders.
    """

    name: str
    version: str
    command: Sequence[str]
    env: Mapping[str, str] = field(default_factory=dict)
    fields: Mapping[str, str] = field(default_factory=dict)


class Unavailable(Exception):
    """The peer cannot be had here; the text says why."""


def given(text: str) -> Peer:
    """Read NAME=COMMAND. Raises ValueError naming what is wrong."""
    name, equals, command = text.partition("=")
    if not (name and equals and command.strip()):
        raise ValueError(f"{text}: expected NAME=COMMAND, with {{port}} and {{upstream}} in the command")
    if "{port}" not in command:
        raise ValueError(f"{name}: the command must say where to listen: {{port}}")
    return Peer(name, "given", shlex.split(command), {"OPENAI_BASE_URL": "{upstream}/v1", "OPENAI_API_KEY": TOKEN})


def known(folder: Path) -> dict[str, Callable[[], Peer]]:
    """Return what installs and describes each of the known peers, in this folder."""
    return {make.__name__.strip("_"): partial(make, folder / make.__name__) for make in (_litellm, _portkey, _ferrogw)}


def _installed(command: Sequence[str], folder: Path) -> None:
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, stdin=subprocess.DEVNULL)
    if done.returncode:
        lines = (done.stderr or done.stdout).strip().splitlines()
        raise Unavailable(lines[-1] if lines else f"{command[0]} ended with {done.returncode}")


def _venv(folder: Path, package: str) -> Path:
    """Return the folder of a virtual environment's programs, with the package in it."""
    programs = folder / "venv" / "bin"
    mark = folder / package.replace("/", "-")
    if not mark.exists():
        folder.mkdir(parents=True, exist_ok=True)
        _installed([sys.executable, "-m", "venv", str(folder / "venv")], folder)
        _installed([str(programs / "python"), "-m", "pip", "install", "--quiet", package], folder)
        mark.touch()
    return programs


def _litellm(folder: Path) -> Peer:
    programs = _venv(folder, f"litellm[proxy]=={LITELLM}")
    config = folder / "config.yaml"
    config.write_text(
        "model_list:\n- model_name: gpt-4o\n  litellm_params:\n    model: openai/gpt-4o\n"
        "    api_base: os.environ/BENCH_UPSTREAM\n    api_key: os.environ/BENCH_KEY\n"
        f"general_settings:\n  master_key: {TOKEN}\n"
    )
    command = [str(programs / "litellm"), "--config", str(config), "--host", "127.0.0.1", "--port", "{port}"]
    env = {"LITELLM_MODE": "PRODUCTION", "LITELLM_LOG": "ERROR", "BENCH_KEY": TOKEN, "BENCH_UPSTREAM": "{upstream}/v1"}
    return Peer("litellm", LITELLM, [*command, "--num_workers", "1", "--telemetry", "False"], env)


def _portkey(folder: Path) -> Peer:
    node, npm = shutil.which("node"), shutil.which("npm")
    if node is None or npm is None:
        raise Unavailable("node and npm are not installed")
    package = folder / "node_modules" / "@portkey-ai" / "gateway"
    if not package.exists():
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "package.json").write_text("{}")
        _installed([npm, "install", "--silent", f"@portkey-ai/gateway@{PORTKEY}"], folder)
    command = [node, str(package / "build" / "start-server.js"), "--headless", "--port={port}"]
    fields = {"x-portkey-provider": "openai", "x-portkey-custom-host": "{upstream}/v1"}
    return Peer("portkey", PORTKEY, command, {"NODE_ENV": "production"}, fields)


def _ferrogw(folder: Path) -> Peer:
    programs = _venv(folder, f"ferrogw=={FERROGW}")
    config = folder / "config.yaml"
    config.write_text("strategy:\n  mode: fallback\ntargets:\n  - virtual_key: openai\n")
    env = {
        "PORT": "{port}",
        "GATEWAY_CONFIG": str(config),
        "GATEWAY_ENV": "production",
        "MASTER_KEY": TOKEN,
        "OPENAI_API_KEY": TOKEN,
        "OPENAI_BASE_URL": "{upstream}",
        "RATE_LIMIT_RPS": "100000000",
        "RATE_LIMIT_BURST": "100000000",
        "GOMAXPROCS": "1",
    }
    return Peer("ferrogw", FERROGW, [str(programs / "ferrogw"), "serve"], env)


class PeerContestant(Contestant):
    """A started peer. Raises Unavailable when a chat request does not get 200 within two minutes."""

    token = TOKEN
    is_counted = False  # some ask the provider for its models as well

    def __init__(self, peer: Peer, folder: Path, cores: tuple[int, ...], upstream: Upstream) -> None:
        folder.mkdir()
        port = free_port()
        places = {"port": str(port), "upstream": f"http://127.0.0.1:{upstream.port}"}
        command = [_filled(word, places) for word in peer.command]
        env = dict(os.environ) | {name: _filled(value, places) for name, value in peer.env.items()}
        process = Process(command, cores, folder / "output.log", cwd=folder, env=env)
        super().__init__(peer.name, process, port)
        self._fields = [(name, _filled(value, places)) for name, value in peer.fields.items()]
        try:
            process.wait_until(self._serves, limit_s=_START_S)
        except RuntimeError as error:
            process.stop()
            raise Unavailable(str(error).strip().splitlines()[-1]) from None

    @property
    def fields(self) -> Sequence[tuple[str, str]]:
        """Return what tells it where the provider is."""
        return self._fields

    def _serves(self) -> bool:
        fields = dict([*request_fields(self.token), *self.fields])
        request = urllib.request.Request(f"http://127.0.0.1:{self.port}{PATH}", BODY, fields)
        try:
            with urllib.request.urlopen(request, timeout=10) as response:
                return bool(response.status == 200)
        except (OSError, urllib.error.HTTPError):
            return False


def _filled(text: str, places: Mapping[str, str]) -> str:
    for name, value in places.items():
        text = text.replace("{" + name + "}", value)
    return text


def measure(
    bench: Bench,
    cores: tuple[int, ...],
    order: random.Random,
    rounds: int,
    sizes: tuple[int, int],
    asked: Sequence[Peer],
    *,
    has_known: bool,
) -> dict[str, Any]:
    """Measure nginx, llm-proxy and peers; return a row of each, as JSON.

    Args:
        asked: Peers of the command line.
        has_known: Whether those of PyPI and npm are measured as well.
        sizes: Requests one after the other, and seconds of throughput, of each round.
    """
    requests, seconds = sizes
    folder, upstream = bench.folder, bench.upstream
    with ExitStack() as stack:
        found, versions, left_out = _start(stack, folder, cores, upstream, known(_cache()) if has_known else {}, asked)
        samples = {each.name: Samples() for each in found}
        for each in found:
            bench.latency(each, min(200, requests))
        for number in range(1, rounds + 1):
            print(f"peers: round {number} of {rounds} …", file=sys.stderr)
            for each in order.sample(found, len(found)):
                own = samples[each.name]
                own.latency_us.append(bench.latency(each, requests))
                rps, cpu_us = bench.throughput(each, seconds)
                own.rps.append(rps)
                own.cpu_us.append(cpu_us)
        memory = {each.name: _memory(each) for each in found}
    return {"rows": rows_of(samples, memory, versions), "left_out": left_out}


def _start(
    stack: ExitStack,
    folder: Path,
    cores: tuple[int, ...],
    upstream: Upstream,
    makers: Mapping[str, Callable[[], Peer]],
    asked: Sequence[Peer],
) -> tuple[list[Contestant], dict[str, str], dict[str, str]]:
    from llm_proxy import __version__

    found: list[Contestant] = [Direct(upstream), nginx_proxy(folder, cores, upstream)]
    found.append(Gateway(folder / "gateway", cores, upstream.port, "llm-proxy", max_requests=10**9))
    for each in found[1:]:
        stack.callback(each.stop)
    versions, left_out = {"llm-proxy": __version__}, {}
    for name, make in {**makers, **{peer.name: partial(_same, peer) for peer in asked}}.items():
        try:
            peer = make()
            contestant = PeerContestant(peer, folder / f"peer-{name}", cores, upstream)
        except Unavailable as error:
            left_out[name] = str(error)
            print(f"peers: {name} is left out: {error}", file=sys.stderr)
            continue
        stack.callback(contestant.stop)
        found.append(contestant)
        versions[name] = peer.version
    return found, versions, left_out


def _same(peer: Peer) -> Peer:
    return peer


def _cache() -> Path:
    """Return where installed peers are kept between runs."""
    base = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    return Path(base) / "llm-proxy-bench"


def _memory(contestant: Contestant) -> float:
    """Return MiB of all its processes, shared pages divided among those that share them."""
    if isinstance(contestant, Direct):
        return 0.0
    return sum(proportional_bytes(pid) for pid in tree(contestant.process.pid)) / 2**20


def rows_of(
    samples: Mapping[str, Samples], memory: Mapping[str, float], versions: Mapping[str, str]
) -> dict[str, dict[str, Any]]:
    """Return the figures of each contestant but the direct path; CPU also as a ratio of each round to llm-proxy's."""
    direct = middle([percentile(values, 50) for values in samples["direct"].latency_us])
    ours = samples["llm-proxy"].cpu_us
    rows: dict[str, dict[str, Any]] = {}
    for name, own in samples.items():
        if name == "direct":
            continue
        ratios = sorted(theirs / mine for theirs, mine in zip(own.cpu_us, ours, strict=True))
        rows[name] = {
            "version": versions.get(name, "of this machine"),
            **{
                f"added_p{percent}_us": round(middle([percentile(v, percent) for v in own.latency_us]) - direct, 1)
                for percent in (50, 95, 99)
            },
            "rps": round(middle(own.rps), 1),
            "cpu_us_per_request": round(middle(own.cpu_us), 1),
            "cpu_over_llm_proxy": round(middle(ratios), 2),
            "cpu_over_llm_proxy_span": [round(ratios[0], 2), round(ratios[-1], 2)],
            "memory_mib": round(memory[name], 1),
            "unequal": UNEQUAL.get(name, ""),
        }
    return rows


def lines(found: Mapping[str, Any]) -> list[tuple[str, ...]]:
    """Return the table of `bin/bench --peers`."""
    titles = ("gateway", "version", "added p50/p95/p99 µs, c=1", "requests/s, c=32", "CPU µs/request")
    rows: list[tuple[str, ...]] = [(*titles, "CPU / llm-proxy's", "MiB")]
    for name, row in found["rows"].items():
        added = "/".join(f"{row[f'added_p{p}_us']:.0f}" for p in (50, 95, 99))
        low, high = row["cpu_over_llm_proxy_span"]
        ratio = f"{row['cpu_over_llm_proxy']:.2f} ({low:.2f}…{high:.2f})"
        figures = (f"{row['rps']:,.0f}", f"{row['cpu_us_per_request']:.0f}", ratio, f"{row['memory_mib']:.0f}")
        rows.append((name, row["version"], added, *figures))
    return rows
