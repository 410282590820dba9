"""From samples to targets: ratios within one run beside what they should be, as a table and as JSON."""

from dataclasses import asdict, dataclass
from typing import Any

from comparing import lines as feature_lines
from measure import Checks, Samples, middle, percentile
from peers import lines as peer_lines

DIRECT, NGINX, SERVER, GATEWAY, STREAMING = "direct", "nginx", "server alone", "llm-proxy", "llm-proxy, streaming"
PAIR = "llm-proxy, 2 workers"
UNACCOUNTED = "llm-proxy, nothing counted"
FEW, MANY = 200, 1000  # streams at once


@dataclass(frozen=True, slots=True)
class Target:
    """One line of the verdict. `is_met` is None where this machine cannot tell."""

    id: str
    what: str
    reached: str
    wanted: str
    is_met: bool | None


def summary(samples: dict[str, Samples]) -> dict[str, dict[str, Any]]:
    """Medians over the rounds, by contestant. Added latency is beside the direct path's median."""
    direct_p50 = middle([percentile(values, 50) for values in samples[DIRECT].latency_us])
    found: dict[str, dict[str, Any]] = {}
    for name, own in samples.items():
        entry: dict[str, Any] = {}
        for percent in (50, 95, 99):
            if own.latency_us:
                value = middle([percentile(values, percent) for values in own.latency_us])
                entry[f"p{percent}_us"] = round(value, 1)
                entry[f"added_p{percent}_us"] = round(value - direct_p50, 1)
        if own.rps:
            entry["rps"] = round(middle(own.rps), 1)
            entry["cpu_us_per_request"] = round(middle(own.cpu_us), 2)
        if own.price_us:
            entry["accounting_us"] = round(middle(own.price_us), 1)
        if own.round_trips:
            entry["round_trips_per_request"] = round(middle(own.round_trips), 5)
        for streams, runs in own.streams.items():
            entry[f"streams_{streams}"] = _streams(runs)
        found[name] = entry
    for streams in (FEW, MANY):
        base = found[DIRECT][f"streams_{streams}"]
        for entry in found.values():
            if (own_streams := entry.get(f"streams_{streams}")) is not None:
                for percent in (50, 95, 99):
                    added = own_streams[f"delay_p{percent}_us"] - base["delay_p50_us"]
                    own_streams[f"added_p{percent}_us"] = round(added, 1)
    return found


def _streams(runs: list[dict[str, Any]]) -> dict[str, Any]:
    entry: dict[str, Any] = {}
    for percent in (50, 95, 99):
        entry[f"delay_p{percent}_us"] = round(middle([percentile(run["delays_us"], percent) for run in runs]), 1)
    entry["head_p50_ms"] = round(middle([percentile(run["heads_us"], 50) for run in runs]) / 1000, 2)
    entry["head_p99_ms"] = round(middle([percentile(run["heads_us"], 99) for run in runs]) / 1000, 2)
    entry["cpu_us_per_event"] = round(middle([run["cpu_us"] for run in runs]), 1)
    entry["kib_each"] = round(max(run["bytes_each"] for run in runs) / 1024, 1)
    entry["events"] = sum(run["events"] for run in runs)
    entry["whole"] = sum(run["whole"] for run in runs)
    entry["streams"] = sum(run["streams"] for run in runs)
    return entry


def targets(found: dict[str, dict[str, Any]], *, has_two_each: bool) -> list[Target]:
    """T1, T2, T4 to T8."""
    nginx, gateway, server = found[NGINX], found[GATEWAY], found[SERVER]
    lines = [
        _ratio("T1", "CPU per request / server layer alone", gateway, server, "cpu_us_per_request", 2.8, "µs"),
        _ratio("T2", "added latency p50, c=1 / nginx's", gateway, nginx, "added_p50_us", 3.0, "µs"),
        _bound("T2", "added latency p99, c=1", gateway["added_p99_us"] / 1000, 8.0, "ms"),
    ]
    few, many = f"streams_{FEW}", f"streams_{MANY}"
    ours, theirs = found[STREAMING][few], nginx[few]
    lines += [
        _ratio("T4", f"{FEW} streams: added delay p50 / nginx's", ours, theirs, "added_p50_us", 3.0, "µs"),
        _bound("T4", f"{FEW} streams: time to head p50", ours["head_p50_ms"], 2.0, "ms"),
        _ratio("T4", f"{FEW} streams: CPU per event / nginx's", ours, theirs, "cpu_us_per_event", 4.5, "µs"),
    ]
    ours = found[STREAMING][many]
    lost = ours["streams"] - ours["whole"]
    lines += [
        Target("T5", f"{MANY} streams: not whole", str(lost), "0", lost == 0),
        _bound("T5", f"{MANY} streams: memory each", ours["kib_each"], 25.0, "KiB"),
    ]
    trips = found[PAIR]["round_trips_per_request"]
    return [
        *lines,
        _pair(found, has_two_each),
        _bound("T7", "accounting: added latency p50, c=1", gateway["accounting_us"] / 1000, 0.1, "ms"),
        Target("T8", "database round trips per request, hot token", f"{trips:.4f}", "≤ 0.1", trips <= 0.1),
    ]


def _ratio(
    name: str, what: str, ours: dict[str, Any], theirs: dict[str, Any], key: str, limit: float, unit: str
) -> Target:
    base = theirs[key]
    ratio = ours[key] / base if base > 0 else float("inf")
    return Target(name, what, f"{ratio:.2f} × ({ours[key]:.0f} / {base:.0f} {unit})", f"≤ {limit:g} ×", ratio <= limit)


def _bound(name: str, what: str, value: float, limit: float, unit: str) -> Target:
    return Target(name, what, f"{value:.2f} {unit}", f"≤ {limit:g} {unit}", value <= limit)


def _pair(found: dict[str, dict[str, Any]], has_two_each: bool) -> Target:
    one, two = found[GATEWAY], found[PAIR]
    if has_two_each:
        ratio = two["rps"] / one["rps"]
        reached = f"{ratio:.2f} × ({two['rps']:.0f} / {one['rps']:.0f} requests/s)"
        return Target("T6", "2 workers on 2 cores / 1 worker", reached, "≥ 1.8 ×", ratio >= 1.8)
    ratio = two["cpu_us_per_request"] / one["cpu_us_per_request"]
    reached = f"not measurable here; CPU per request {ratio:.2f} ×"
    return Target("T6", "2 workers / 1 worker", reached, "≥ 1.8 ×", None)


def as_json(
    machine: dict[str, Any], found: dict[str, dict[str, Any]], verdict: list[Target], checks: Checks
) -> dict[str, Any]:
    """Everything, for programs."""
    return {
        "machine": machine,
        "contestants": found,
        "targets": [asdict(target) for target in verdict],
        "checks": {"passed": checks.passed, "failed": checks.failed},
    }


def table(report: dict[str, Any]) -> str:
    """Everything, for people."""
    machine = report["machine"]
    lines = [", ".join(f"{key.replace('_', ' ')}: {value}" for key, value in machine.items()), ""]
    rows: list[tuple[str, ...]] = [("contestant", "added p50/p95/p99 µs, c=1", "requests/s, c=32", "CPU µs/request")]
    for name, entry in report["contestants"].items():
        if "p50_us" in entry or "rps" in entry:
            added = "/".join(f"{entry[f'added_p{p}_us']:.0f}" for p in (50, 95, 99)) if "p50_us" in entry else "-"
            added = f"(p50 {entry['p50_us']:.0f})" if name == DIRECT else added
            cpu = "-" if name == DIRECT else f"{entry.get('cpu_us_per_request', 0):.0f}"
            rows.append((name, added, f"{entry.get('rps', 0):,.0f}", cpu))
    lines += [*_aligned(rows), ""]
    rows = [("streams", "added p50/p95/p99 µs", "head p50/p99 ms", "CPU µs/event", "KiB each", "whole")]
    for streams in (FEW, MANY):
        for name, entry in report["contestants"].items():
            if (own := entry.get(f"streams_{streams}")) is not None:
                added = "/".join(f"{own[f'added_p{p}_us']:.0f}" for p in (50, 95, 99))
                added = f"(p50 {own['delay_p50_us']:.0f})" if name == DIRECT else added
                whole = f"{own['whole']} of {own['streams']}"
                head = f"{own['head_p50_ms']:.1f}/{own['head_p99_ms']:.1f}"
                cpu = "-" if name == DIRECT else f"{own['cpu_us_per_event']:.0f}"
                kib = "-" if name == DIRECT else f"{own['kib_each']:.1f}"
                rows.append((f"{streams} · {name}", added, head, cpu, kib, whole))
    lines += [*_aligned(rows), ""]
    rows = [("target", "", "reached", "wanted", "")]
    for target in report["targets"]:
        met = {True: "met", False: "MISSED", None: ""}[target["is_met"]]
        rows.append((target["id"], target["what"], target["reached"], target["wanted"], met))
    lines += [*_aligned(rows), ""]
    failed = report["checks"]["failed"]
    lines += [f"counts: {report['checks']['passed']} checks passed, {len(failed)} failed", *(f"  {f}" for f in failed)]
    return "\n".join(lines)


def features_table(report: dict[str, Any]) -> str:
    """Return what each feature costs, for people."""
    machine, found = report["machine"], report["features"]
    head = ", ".join(f"{key.replace('_', ' ')}: {value}" for key, value in machine.items())
    noise = f"two gateways that are the same differ by up to {found['noise_percent']:.1f} % (A/A)"
    return "\n".join([head, "", *_aligned(feature_lines(found)), "", noise])


def peers_table(report: dict[str, Any]) -> str:
    """Other gateways beside llm-proxy, for people."""
    head = ", ".join(f"{key.replace('_', ' ')}: {value}" for key, value in report["machine"].items())
    found = report["peers"]
    unequal = [f"{name}: {row['unequal']}" for name, row in found["rows"].items() if row["unequal"]]
    left_out = [f"left out: {name}: {why}" for name, why in found["left_out"].items()]
    return "\n".join([head, "", *_aligned(peer_lines(found)), "", "What is not equal:", *unequal, *left_out])


def _aligned(rows: list[tuple[str, ...]]) -> list[str]:
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
