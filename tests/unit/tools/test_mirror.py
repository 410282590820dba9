"""Unit tests mirror the code file by file; what is tested elsewhere is listed with the reason."""

from pathlib import Path

import pytest

SMALL = 100  # lines; a module below may be tested through those that use it
MIRRORED = {"": "llm_proxy", "simulator": "llm_proxy_simulator", "tools": "tools"}
WITHOUT_MODULE = {
    "test_linear.py": "parsers of all packages, by one rule",
    "tools/test_language.py": "texts of the whole checkout",
    "tools/test_mirror.py": "the tests themselves",
    "tools/test_module_size.py": "all modules, by one rule",
    "tools/test_package_data.py": "the files that the wheel holds",
    "tools/test_scripts.py": "the shell scripts of the checkout",
}
ELSEWHERE = (  # the tests that run modules, why no unit test of their name does, and the modules
    (
        "tests/integration/access",
        "keys, sessions and sign-ins are rows of a database",
        "access/directory access/flows access/oidc access/service access/sessions",
    ),
    (
        "tests/integration/accounting",
        "their partners are other workers and a database",
        "accounting/lease_settlement accounting/lease_sync accounting/reconcile accounting/rows",
    ),
    (
        "tests/e2e/proxy",
        "the application is tried as a server",
        "app",
    ),
    (
        "tests/integration/audit",
        "chains are rows of three databases and files of several processes",
        "audit/file audit/pruning audit/query audit/record audit/rows audit/table audit/verify audit/verify_file",
    ),
    (
        "tests/integration/cache",
        "one suite runs against every store",
        "cache/engine cache/entry cache/l1 cache/lookup cache/memory cache/redis cache/singleflight",
    ),
    (
        "tests/e2e/cli",
        "commands are run as processes",
        "cli/chat cli/database cli/dev_server cli/dispatcher cli/events cli/keys cli/management_client "
        "cli/reconcile cli/sealing cli/usage cli/verify cli/watching cli/doctor/database "
        "cli/doctor/files cli/doctor/provider",
    ),
    (
        "tests/e2e/proxy",
        "wiring is tried by the servers that it makes",
        "container/process container/proxy container/storage",
    ),
    (
        "tests/integration/db",
        "three databases, with their drivers",
        "db/errors db/idempotency db/maintenance db/mysql db/pagination db/postgres db/raw db/sealing db/sqlite",
    ),
    (
        "tests/integration/dispatcher",
        "buses and services are servers",
        "dispatcher/backends/helicone dispatcher/backends/http dispatcher/backends/lunary "
        "dispatcher/backends/otlp dispatcher/health dispatcher/loop dispatcher/process",
    ),
    (
        "tests/unit/tools/test_reference_pages.py",
        "declarations, which the page of error codes is made from",
        "errors",
    ),
    (
        "tests/integration/events",
        "one suite runs against every bus",
        "events/bus events/dead_letters events/list_source events/queue events/redis_streams "
        "events/stream_source events/tail",
    ),
    (
        "tests/unit/usage/test_meter.py",
        "read through the meter and the cases",
        "formats/request_body",
    ),
    (
        "tests/unit/formats/test_streams.py",
        "one suite over recorded streams",
        "formats/streams/chat",
    ),
    (
        "tests/unit/formats/test_reading_cases.py",
        "one suite over recorded bodies",
        "formats/texts formats/usage",
    ),
    (
        "tests/unit/forwarding/test_pipeline.py",
        "steps and endings are tried as one pipeline",
        "forwarding/build forwarding/exchange forwarding/reporters forwarding/response_cache forwarding/settlement",
    ),
    (
        "tests/e2e/websocket",
        "WebSockets are tried over sockets",
        "forwarding/sockets forwarding/turns",
    ),
    (
        "tests/e2e/server",
        "hooks of a running server",
        "gunicorn_conf",
    ),
    (
        "tests/integration/test_housekeeping.py",
        "needs a database",
        "housekeeping",
    ),
    (
        "tests/integration/limits",
        "one suite runs against every store",
        "limits/redis",
    ),
    (
        "tests/integration/management/test_operations.py",
        "read through the management API",
        "operations/bus_state operations/outcomes operations/stats operations/streams operations/tail",
    ),
    (
        "tests/e2e/server",
        "what happens before a server starts",
        "preflight",
    ),
    (
        "tests/integration/management",
        "rows of a database, changed through the API",
        "projects/provider_keys projects/service tokens/authenticator tokens/service tokens/token",
    ),
    (
        "tests/unit/providers/test_load.py",
        "read by the loader",
        "providers/schema",
    ),
    (
        "tests/unit/test_metrics.py",
        "files of the workers' metrics",
        "runtime/metric_files",
    ),
    (
        "tests/e2e/server",
        "the server layer is tried over sockets",
        "server/connection server/fresh_worker server/response server/worker",
    ),
    (
        "tests/unit/settings",
        "declarations, read by the loader",
        "settings/events settings/operation settings/server settings/storage",
    ),
    (
        "tests/integration/transport",
        "scripted sockets on the other side",
        "transport/adapter transport/body transport/connect transport/exchange transport/head "
        "transport/origin transport/upload transport/upstream",
    ),
    (
        "tests/integration/usage",
        "sums are rows of three databases",
        "usage/rollup",
    ),
    (
        "tests/browser",
        "pages are tried in a browser",
        "web/admin/__init__ web/admin/api web/admin/audit web/admin/confirm web/admin/frame web/admin/keys "
        "web/admin/project_actions web/admin/provider_keys web/admin/sign_in "
        "web/admin/standalone web/admin/token_forms web/admin/tokens web/admin/usage",
    ),
    (
        "tests/integration/management",
        "views need the application and a database",
        "web/context web/proxy web/management/audit web/management/audited web/management/keys "
        "web/management/pagination web/management/projects web/management/rendering web/management/routing "
        "web/management/tokens",
    ),
)


def _modules(top: Path) -> dict[str, int]:
    """Return the modules below a folder, and their lines; migrations are numbered and tried as a whole."""
    found = {path: path.relative_to(top).as_posix() for path in top.rglob("*.py") if "migrations" not in path.parts}
    return {name: len(path.read_text().splitlines()) for path, name in found.items()}


def _home(test: str) -> tuple[str, str]:
    """Return the folder of code that a test file mirrors, and the test's folder below it."""
    first = test.split("/", 1)[0]
    top = first if first in MIRRORED else ""
    inner = test.removeprefix(f"{top}/") if top else test
    return MIRRORED[top], inner.rpartition("/")[0]


def _is_named_after(checkout: Path, test: str) -> bool:
    """Whether the name begins with that of a module or folder beside which the test would lie."""
    top, folder = _home(test)
    words = Path(test).stem.removeprefix("test_").split("_")
    names = ["_".join(words[:count]) for count in range(1, len(words) + 1)]
    place = checkout / top / folder
    return any((place / f"{name}.py").exists() or (place / name).is_dir() for name in names)


def _tests(checkout: Path) -> list[str]:
    top = checkout / "tests" / "unit"
    return sorted(path.relative_to(top).as_posix() for path in top.rglob("test_*.py"))


def test_each_test_file_names_its_module(checkout: Path) -> None:
    """`tests/unit/a/test_b.py` and `test_b_of_a_kind.py` belong to `llm_proxy/a/b.py`, or to the folder `a/b`."""
    strange = [test for test in _tests(checkout) if not _is_named_after(checkout, test)]
    assert strange == sorted(WITHOUT_MODULE)


def test_each_module_has_a_test_or_a_reason(checkout: Path) -> None:
    """A module of more than 100 lines has a test file of its name, or is named with what tests it."""
    tests = set(_tests(checkout))
    large = {name for name, lines in _modules(checkout / "llm_proxy").items() if lines > SMALL}
    untested = {name for name in large if f"{Path(name).parent}/test_{Path(name).name}".removeprefix("./") not in tests}
    named = {f"{name}.py" for _, _, names in ELSEWHERE for name in names.split()}
    assert sorted(untested - named) == []


@pytest.mark.parametrize(("tests", "names"), [(tests, names) for tests, _, names in ELSEWHERE])
def test_what_is_tested_elsewhere_is_there(checkout: Path, tests: str, names: str) -> None:
    """The modules and the tests that run them exist, and no unit test of the same name has come since."""
    assert (checkout / tests).exists()
    for name in names.split():
        folder, _, module = name.rpartition("/")
        assert (checkout / "llm_proxy" / f"{name}.py").exists(), name
        assert not (checkout / "tests" / "unit" / folder / f"test_{module}.py").exists(), name
