"""The public suite `http-cache-tests` against the cache component alone, and through the whole proxy with a token.

Every request to the proxy has Authorization. What that alone changes (RFC 9111 §3.5) is seen in a run against the
component whose requests all have it; the proxy is compared with that run.

Wants node. `bin/cache-tests` starts it and fetches the suite.
"""

import argparse
import json
import os
import re
import secrets
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
DOCUMENT = ROOT / "docs" / "cache.md"
BEGIN, END = "<!-- cache-tests -->", "<!-- end of cache-tests -->"
BEGIN_SOURCE, END_SOURCE = "<!-- cache-tests source -->", "<!-- end of cache-tests source -->"
START_LIMIT_S = 30.0
MANAGEMENT_TOKEN = secrets.token_urlsafe(24)
METHODS = ("GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS")
GOOD = ("pass", "yes")
_JUDGED = ("required", "optimal")


@dataclass(frozen=True)
class Result:
    """One test: the proxy's result and the published columns'. `kind`: required, optimal, or check (no judgement)."""

    id: str
    group: str
    name: str
    kind: str
    ours: str
    detail: str
    others: tuple[str, ...]

    @property
    def is_passed(self) -> bool:
        """Whether the suite is content."""
        return self.ours in GOOD

    @property
    def is_worse(self) -> bool:
        """Whether a published column passes what the proxy does not, where the suite judges."""
        return self.kind in _JUDGED and self.ours not in GOOD and any(other in GOOD for other in self.others)


@dataclass(frozen=True)
class Report:
    """One run."""

    suite: str
    columns: tuple[str, ...]
    results: tuple[Result, ...]

    def count(self, kind: str) -> list[int]:
        """Return the passed tests of a kind: the proxy's, then the columns'."""
        chosen = [result for result in self.results if result.kind == kind]
        ours = sum(result.ours in GOOD for result in chosen)
        return [ours, *(sum(result.others[i] in GOOD for result in chosen) for i in range(len(self.columns)))]


# -- what is started --------------------------------------------------------------------------------------------------


@contextmanager
def process(
    command: Sequence[str], env: dict[str, str], log: Path, **options: Any
) -> Iterator[subprocess.Popen[bytes]]:
    """Run a process until the block ends."""
    with log.open("wb") as out:
        running = subprocess.Popen(command, env=env, stdout=out, stderr=out, **options)
    try:
        yield running
    finally:
        running.terminate()
        try:
            running.wait(20)
        except subprocess.TimeoutExpired:
            running.kill()
            running.wait()


def environment(**variables: str) -> dict[str, str]:
    """Return this process's environment, without settings of this machine."""
    kept = {name: os.environ[name] for name in ("PATH", "HOME", "LANG") if name in os.environ}
    return kept | variables


def engine(suite: Path) -> Path:
    """Return where the suite's programs are: in a folder of its source, beside the tests of its npm package."""
    folder = suite / "test-engine"
    return folder if folder.exists() else suite


@contextmanager
def origin(suite: Path, folder: Path) -> Iterator[str]:
    """Serve the suite's own server; yields its URL."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]  # the suite's server can't be handed a socket
    env = environment(npm_config_protocol="http", npm_config_port=str(port), npm_config_pidfile=str(folder / "pid"))
    command = ["node", "--no-warnings", str(engine(suite) / "server" / "server.mjs")]
    with process(command, env, folder / "origin.log", cwd=suite) as running:
        wait_for_http(f"http://127.0.0.1:{port}/", running, folder / "origin.log")
        yield f"http://127.0.0.1:{port}"


@contextmanager
def gunicorn(application: str, folder: Path, env: dict[str, str]) -> Iterator[str]:
    """Serve an application under the project's server; yields its URL."""
    (folder / "data").mkdir(exist_ok=True)
    env = env | {
        "MANAGEMENT_TOKEN": MANAGEMENT_TOKEN,
        "DATABASE_PATH": str(folder / "data" / "llm-proxy.db"),
        "AUDIT_LOG_FILE": "",
        "PYTHONPATH": os.pathsep.join((str(ROOT / "tools"), str(ROOT / "tests"))),
    }
    log = folder / f"{application.partition(':')[0]}.log"
    with socket.create_server(("127.0.0.1", 0), backlog=512) as listener:
        command = [sys.executable, "-m", "gunicorn", "-c", "python:llm_proxy.gunicorn_conf"]
        command += ["-b", f"fd://{listener.fileno()}", application]
        with process(command, env, log, pass_fds=[listener.fileno()], cwd=folder) as running:
            url = f"http://127.0.0.1:{listener.getsockname()[1]}"
            wait_for_http(url, running, log)
            yield url


def wait_for_http(url: str, running: "subprocess.Popen[bytes]", log: Path) -> None:
    """Until any response comes."""
    deadline = time.monotonic() + START_LIMIT_S
    while True:
        try:
            urllib.request.urlopen(url, timeout=2).close()
        except urllib.error.HTTPError:
            return
        except OSError:
            if time.monotonic() > deadline or running.poll() is not None:
                raise SystemExit(f"nothing answers at {url}:\n{log.read_text(errors='replace')}") from None
            time.sleep(0.1)
        else:
            return


@contextmanager
def alone(behind: str, folder: Path) -> Iterator[tuple[str, dict[str, str]]]:
    """Serve the component by itself."""
    with gunicorn("cache_tests.alone:app", folder, environment(ORIGIN=behind)) as url:
        yield url, {}


@contextmanager
def authorized(behind: str, folder: Path) -> Iterator[tuple[str, dict[str, str]]]:
    """Serve the same, for requests that all have Authorization."""
    with alone(behind, folder) as (url, _):
        yield url, {"BEARER": "of-the-suite"}


@contextmanager
def through_the_proxy(behind: str, folder: Path) -> Iterator[tuple[str, dict[str, str]]]:
    """Serve the whole proxy, with a token of its own project."""
    provider = {"base_url": behind, "allowed_endpoints": ["/test/", "/config/", "/state/"]}
    provider["allowed_methods"] = list(METHODS)
    file = folder / "provider.yaml"
    file.write_text(yaml.safe_dump({"default_api": "suite", "apis": {"suite": provider}}))
    with gunicorn("llm_proxy.wsgi:app", folder, environment(API_CONFIG_PATH=str(file))) as url:
        project = manage(url, "/manage/projects", name="cache-tests", api_key="sk-of-the-suite")
        token = manage(url, "/manage/tokens", project_id=project["id"], duration_minutes=60)
        yield url, {"BEARER": token["token"]}


def manage(url: str, path: str, **body: Any) -> Any:
    """One management call."""
    headers = {"Authorization": f"Bearer {MANAGEMENT_TOKEN}", "Content-Type": "application/json"}
    request = urllib.request.Request(url + path, data=json.dumps(body).encode(), headers=headers, method="POST")
    with urllib.request.urlopen(request, timeout=10) as response:
        return json.load(response)


WAYS = {"alone": alone, "authorized": authorized, "proxy": through_the_proxy}


def run(way: str, suite: Path, only: str | None) -> Report:
    """One run of the suite."""
    with tempfile.TemporaryDirectory(prefix="cache-tests-") as name:
        folder = Path(name)
        with origin(suite, folder) as behind, WAYS[way](behind, folder) as (base, more):
            env = environment(REPORT=str(folder / "report.json"), **more)
            command = ["node", "--no-warnings", str(HERE / "run.mjs"), str(suite), base, *([only] if only else [])]
            subprocess.run(command, env=env, check=True, cwd=suite)
        found = json.loads((folder / "report.json").read_text())
    results = tuple(Result(**{**test, "others": tuple(test["others"])}) for test in found["tests"])
    return Report(found["suite"], tuple(found["columns"]), results)


# -- what is said -----------------------------------------------------------------------------------------------------


Reasons = dict[str, dict[str, str]]


def judge(reports: dict[str, Report], reasons: Reasons) -> list[str]:
    """Complaints: where the proxy is worse than allowed without a reason for it, and reasons that are none any more."""
    found = []
    if "alone" in reports:
        found += _unexplained("alone", [result for result in reports["alone"].results if result.is_worse], reasons)
        passed = {result.id for result in reports["alone"].results if result.is_passed and result.kind in _JUDGED}
        found += [f"alone: {id_} has a reason, but passes" for id_ in reasons["alone"] if id_ in passed]
    if "authorized" in reports and "proxy" in reports:
        found += _unexplained("proxy", proxys_own(reports), reasons)
    return found


def _unexplained(way: str, results: Sequence[Result], reasons: Reasons) -> list[str]:
    named = [result for result in results if reason_of(result.id, reasons[way]) is None]
    return [f"{way}: {result.id}: {result.ours} ({result.detail})" for result in named]


def proxys_own(reports: dict[str, Report]) -> list[Result]:
    """Return what the proxy does not pass though the component does, of requests with Authorization."""
    passed = {result.id for result in reports["authorized"].results if result.is_passed and result.kind in _JUDGED}
    return [result for result in reports["proxy"].results if result.id in passed and not result.is_passed]


def table(reports: dict[str, Report], reasons: Reasons, name: str) -> str:
    """Return a section of docs/cache.md; `name` says which copy of the suite it is about."""
    first = reports["alone"]
    columns = ["component", "component, all requests with Authorization", "proxy", *first.columns]
    lines = [f"Tests of {name} that are not for browsers alone, and how many are passed:", ""]
    lines += ["| kind | tests | " + " | ".join(columns) + " |", "|---|---|" + "---|" * len(columns)]
    kinds = Counter(result.kind for result in first.results)
    for kind, meaning in (("required", "required"), ("optimal", "optimal"), ("check", "neither good nor bad: yes")):
        ours = [reports[way].count(kind)[0] for way in WAYS]
        lines.append("| " + " | ".join(map(str, [meaning, kinds[kind], *ours, *first.count(kind)[1:]])) + " |")
    lines += ["", "Required and optimal tests that the component does not pass:", ""]
    not_passed = [result for result in first.results if result.kind in _JUDGED and not result.is_passed]
    lines += explained(not_passed, reasons["alone"])
    lines += ["", *_section_3_5(reports)]
    if own := proxys_own(reports):
        lines += ["", "What the proxy does not pass beyond that:", "", *explained(own, reasons["proxy"])]
    return "\n".join(lines)


def _section_3_5(reports: dict[str, Report]) -> list[str]:
    """Which tests are lost by Authorization alone, by group."""
    kept = {result.id for result in reports["authorized"].results if result.is_passed}
    lost = [result for result in reports["alone"].results if result.is_passed and result.id not in kept]
    judged = [result for result in lost if result.kind in _JUDGED]
    groups = ", ".join(f"{group} {number}" for group, number in Counter(result.group for result in judged).items())
    text = "With `Authorization` in each request, RFC 9111 §3.5 forbids to store most of what the suite's origin sends"
    lost_in = f"{len(judged)} required and optimal tests wait for a hit in vain: {groups}."
    return [f"{text}: it hardly ever says `public`. {lost_in}"]


def explained(results: Sequence[Result], reasons: dict[str, str]) -> list[str]:
    """Return a line for each reason, with the tests that it explains."""
    by_reason: dict[str, list[str]] = {}
    for result in results:
        by_reason.setdefault(reason_of(result.id, reasons) or "not explained", []).append(f"`{result.id}`")
    return [f"- {reason}: {', '.join(ids)}" for reason, ids in by_reason.items()]


def reason_of(id_: str, reasons: dict[str, str]) -> str | None:
    """By the whole id, else by the longest beginning that ends in `*`."""
    if id_ in reasons:
        return reasons[id_]
    fitting = [name for name in reasons if name.endswith("*") and id_.startswith(name[:-1])]
    return reasons[max(fitting, key=len)] if fitting else None


def write(section: str, begin: str, end: str) -> None:
    """Put the section into docs/cache.md, between its two marks."""
    text = DOCUMENT.read_text()
    pattern = re.compile(re.escape(begin) + ".*?" + re.escape(end), re.DOTALL)
    assert pattern.search(text), f"{DOCUMENT} has no place for the results"
    DOCUMENT.write_text(pattern.sub(lambda found: f"{begin}\n{section}\n{end}", text))


def show(way: str, report: Report) -> None:
    """Print the run in a few lines."""
    print(f"{way}: passed of {len(report.results)}, beside {' and '.join(report.columns)}")
    for kind in (*_JUDGED, "check"):
        print(f"  {kind:9}", *report.count(kind))


def main() -> int:
    """0: nowhere worse than the published columns without a reason in reasons.yaml."""
    parser = argparse.ArgumentParser(prog="bin/cache-tests", description=__doc__)
    parser.add_argument("--suite", type=Path, required=True, help="folder of the suite")
    parser.add_argument("--way", choices=[*WAYS, "all"], default="all", help="what is judged")
    parser.add_argument("--test", metavar="ID", help="one test alone, told in detail")
    parser.add_argument("--failures", action="store_true", help="list what is not passed")
    parser.add_argument("--update", action="store_true", help="write the results into docs/cache.md")
    parser.add_argument("--commit", help="commit of a copy of the suite's source, for --update")
    asked = parser.parse_args()
    suite: Path = asked.suite.resolve()
    if not (engine(suite) / "client" / "runner.mjs").exists():
        parser.error(f"{suite}: expected the folder of http-cache-tests")
    if asked.update and (asked.test or asked.way != "all"):
        parser.error("--update: expected neither --test nor --way")
    is_source = engine(suite) != suite
    if asked.update and is_source != bool(asked.commit):
        parser.error("--commit: expected with --update of a copy of the suite's source, and with no other")
    reports = {way: run(way, suite, asked.test) for way in (WAYS if asked.way == "all" else (asked.way,))}
    for way, report in reports.items():
        show(way, report)
        for result in report.results if asked.test or asked.failures else ():
            if asked.test or not result.is_passed:
                print(f"  {result.kind:9} {result.id}: {result.ours} {result.detail} {result.others}")
    reasons: Reasons = yaml.safe_load((HERE / "reasons.yaml").read_text())
    if asked.update:
        if is_source:
            write(table(reports, reasons, f"the suite's source at commit {asked.commit}"), BEGIN_SOURCE, END_SOURCE)
        else:
            name = f"`http-cache-tests` {reports['alone'].suite}"
            write(table(reports, reasons, name), BEGIN, END)
    complaints = [] if asked.test else judge(reports, reasons)
    for complaint in complaints:
        print(complaint)
    return 1 if complaints else 0


if __name__ == "__main__":
    sys.exit(main())
