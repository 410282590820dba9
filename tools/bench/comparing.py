"""Figures beside each other: features beside the base, and a report beside an older one, with the noise in view."""

from collections.abc import Mapping
from statistics import median
from typing import Any

BASE, AGAIN = "llm-proxy", "llm-proxy, again"  # two gateways that are the same
LEAST_NOISE_PERCENT = 5.0  # two processes of one build differ by as much for as long as they live


def figures(report: Mapping[str, Any]) -> dict[str, float]:
    """Return the report's CPU figures by name."""
    found: dict[str, float] = {}
    for name, entry in report.get("contestants", {}).items():
        if "cpu_us_per_request" in entry:
            found[f"{name}: CPU µs/request"] = entry["cpu_us_per_request"]
        for key, value in entry.items():
            if key.startswith("streams_"):
                found[f"{name}, {key[8:]} streams: CPU µs/event"] = value["cpu_us_per_event"]
    for name, row in report.get("features", {}).get("rows", {}).items():
        found[f"feature {name}: CPU µs/request"] = row["cpu_us_per_request"]
    return found


def noise_percent(*reports: Mapping[str, Any]) -> float:
    """Return the largest noise that the reports measured, at least 5 %."""
    measured = [report["features"]["noise_percent"] for report in reports if "features" in report]
    return float(max([LEAST_NOISE_PERCENT, *measured]))


def regressions(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    """Return a line for each figure that is worse than the old one by more than the noise."""
    before, noise = figures(old), noise_percent(old, new)
    worse = []
    for name, value in figures(new).items():
        was = before.get(name, 0.0)
        if was > 0 and 100 * (value / was - 1) > noise:
            worse.append(f"{name}: {was:.0f} → {value:.0f} ({100 * (value / was - 1):+.0f} %, noise {noise:.0f} %)")
    return worse


def prices(cpu: Mapping[str, list[float]]) -> dict[str, Any]:
    """Return each row's CPU and its price over the base's: the middle of the pairs, and what they span, in percent."""
    base = cpu[BASE]
    rows: dict[str, dict[str, Any]] = {}
    for name, own in cpu.items():
        ratios = sorted(100 * (mine / other - 1) for mine, other in zip(own, base, strict=True))
        rows[name] = {
            "cpu_us_per_request": round(median(own), 1),
            "price_percent": round(median(ratios), 1),
            "span_percent": [round(ratios[0], 1), round(ratios[-1], 1)],
        }
    noise = max(abs(each) for each in rows[AGAIN]["span_percent"])
    for row in rows.values():
        low, high = row["span_percent"]
        row["is_beyond_noise"] = low > noise or high < -noise
    return {"noise_percent": noise, "rows": rows}


def lines(found: Mapping[str, Any]) -> list[tuple[str, ...]]:
    """Return the table of `bin/bench --features`."""
    rows: list[tuple[str, ...]] = [("feature", "CPU µs/request", "price", "pairs span", "")]
    for name, row in found["rows"].items():
        low, high = row["span_percent"]
        told = "" if name == BASE else "beyond the noise" if row["is_beyond_noise"] else "within the noise"
        span = f"{low:+.0f}…{high:+.0f} %"
        rows.append((name, f"{row['cpu_us_per_request']:.0f}", f"{row['price_percent']:+.1f} %", span, told))
    return rows
