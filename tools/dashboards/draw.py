"""Draws the chart's dashboards as pictures for the documents: `python -m dashboards.draw FOLDER [SECONDS]`, by hand.

Grafana is in no package registry that this project uses. So the panels' own JSON (places, titles, queries, units,
legends) is drawn by uPlot, the library that Grafana draws with, from what a real Prometheus has scraped of a loaded
proxy; Chromium takes the picture. Wants npm, and Debian's chromium, fonts-inter, pngquant, prometheus,
prometheus-redis-exporter and redis-server.
"""

import json
import re
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from dashboards.stage import Prometheus, Stage, exporter, prometheus, stage, targets
from dashboards.traffic import traffic

HERE = Path(__file__).parent
BOARDS = HERE.parents[1] / "charts" / "llm-proxy" / "dashboards"
UPLOT = "uplot@1.6.32"
WIDTH = 1100
SCRAPE_S = 5
# Picture → dashboard and its rows, None for all.
PICTURES: dict[str, tuple[str, list[str] | None]] = {
    "dashboard": ("llm-proxy", ["Overview", "Request Metrics"]),
    "dashboard-cache-database": ("llm-proxy", ["Cache Performance", "Database, Redis and Accounting"]),
    "dashboard-runtime": ("llm-proxy", ["Runtime & Resources (Python)"]),
    "dashboard-events": ("llm-proxy", ["Events", "Dispatcher"]),
    "dashboard-redis": ("llm-proxy-redis", None),
}


def rows(board: dict[str, Any], wanted: list[str] | None) -> list[dict[str, Any]]:
    """Return the panels of these rows, moved up to the top."""
    kept, row = [], ""
    for panel in board["panels"]:
        row = panel["title"] if panel["type"] == "row" else row
        if wanted is None or row in wanted:
            kept.append(panel)
    top = min(panel["gridPos"]["y"] for panel in kept)
    return [panel | {"gridPos": panel["gridPos"] | {"y": panel["gridPos"]["y"] - top}} for panel in kept]


def filled(expression: str) -> str:
    """Return a query with Grafana's variables filled in as the dashboard does with All chosen."""
    return re.sub(r"\$(namespace|job|pod)\b", ".*", expression.replace("$__rate_interval", f"{SCRAPE_S * 4}s"))


def legend(template: str, labels: dict[str, str]) -> str:
    """Return a series' name."""
    return re.sub(r"{{\s*(\w+)\s*}}", lambda found: labels.get(found[1], ""), template)


def with_data(panel: dict[str, Any], server: Prometheus, times: list[int]) -> dict[str, Any]:
    """Return the panel with its `times` and `series` (name, values; None where there is no sample)."""
    series = []
    for target in panel.get("targets", []):
        for found in server.series(filled(target["expr"]), times[0], times[-1], SCRAPE_S):
            at = {int(instant): float(value) for instant, value in found["values"]}
            values = [None if t not in at or at[t] != at[t] else at[t] for t in times]
            if any(value is not None for value in values):
                series.append({"name": legend(target["legendFormat"], found["metric"]), "values": values})
    return panel | {"times": times, "series": series}


def page(folder: Path, panels: list[dict[str, Any]]) -> int:
    """Write data.js for the page; returns the page's height."""
    (folder / "data.js").write_text(f"const board = {json.dumps({'width': WIDTH, 'panels': panels})};\n")
    return 38 * max(int(p["gridPos"]["y"]) + int(p["gridPos"]["h"]) for p in panels) + 4


def photograph(folder: Path, height: int, picture: Path) -> None:
    """Write what Chromium shows of the page, in 128 colours."""
    words = ["chromium", "--headless=new", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--lang=en"]
    words += [f"--user-data-dir={folder}/profile", f"--window-size={WIDTH},{height}", f"--screenshot={picture}"]
    subprocess.run([*words, (folder / "page.html").as_uri()], check=True, capture_output=True, timeout=120)
    subprocess.run(["pngquant", "--force", "--output", picture, "128", picture], check=True, timeout=60)


def uplot(folder: Path) -> None:
    """Write the page and the library that it draws with."""
    subprocess.run(["npm", "install", "--silent", "--prefix", folder, UPLOT], check=True, timeout=120)
    for name in ("uPlot.iife.min.js", "uPlot.min.css"):
        shutil.copy(folder / "node_modules" / "uplot" / "dist" / name, folder)
    for name in ("page.html", "page.js"):
        shutil.copy(HERE / name, folder)


def incident(on: Stage, of_s: float) -> None:
    """Make some trouble on the way, so that panels show what they are for."""
    kept = {"path": "/v1/models", "delay": "80ms", "fields": [["Cache-Control", "public, max-age=30"]]}
    slow = {"path": "/v1/*", "delay": "180ms"}
    on.provider.set_rules(kept, slow)
    time.sleep(of_s * 0.55)
    on.provider.set_rules({"path": "/v1/chat/completions", "every": 3, "status": 503}, kept, slow)
    on.service.fault = lambda call, body: 503 if call % 2 else None
    time.sleep(of_s * 0.1)
    on.provider.set_rules({"path": "/v1/*", "cut": "head"})
    time.sleep(of_s * 0.08)
    on.provider.set_rules(kept, slow)
    on.service.fault = lambda call, body: None
    time.sleep(of_s * 0.27)


def main(target: Path, seconds: int = 480) -> None:
    """Run everything for a while, and draw."""
    boards = {path.stem: json.loads(path.read_text()) for path in BOARDS.glob("*.json")}
    target.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        uplot(folder)
        with (
            stage(folder, "--events", "24", "--interval", "60ms", WEB_CONCURRENCY="4") as on,
            exporter(on) as redis,
            prometheus(folder, [*targets(on), redis], SCRAPE_S) as server,
            traffic(on.proxy),
        ):
            began = time.time()
            incident(on, seconds)
            end = int(time.time()) // SCRAPE_S * SCRAPE_S
            times = list(range(int(began) // SCRAPE_S * SCRAPE_S + 20, end, SCRAPE_S))
            for picture, (board, wanted) in PICTURES.items():
                panels = [with_data(panel, server, times) for panel in rows(boards[board], wanted)]
                for panel in panels:
                    if panel["type"] != "row" and not panel["series"]:
                        print(f"no data: {panel['title']}", file=sys.stderr)
                photograph(folder, page(folder, panels), target / f"{picture}.png")


if __name__ == "__main__":
    main(Path(sys.argv[1]).absolute(), *map(int, sys.argv[2:]))
