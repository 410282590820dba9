"""Unit tests mirror the code file by file; what is tested elsewhere is listed with the reason."""

from fnmatch import fnmatch
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
ELSEWHERE = {  # modules, the tests that run them, and why no unit test of their name does
    "access/*": ("tests/integration/access", "keys, sessions and sign-ins are rows of a database"),
    "accounting/*": ("tests/integration/accounting", "their partners are other workers and a database"),
    "app.py": ("tests/e2e/proxy", "the application is tried as a server"),
    "audit/*": ("tests/integration/audit", "chains are rows of three databases and files of several processes"),
    "cache/*": ("tests/integration/cache", "one suite runs against every store"),
    "cli/*": ("tests/e2e/cli", "commands are run as processes"),
    "container/*": ("tests/e2e/proxy", "wiring is tried by the servers that it makes"),
    "db/*": ("tests/integration/db", "three databases, with their drivers"),
    "dispatcher/*": ("tests/integration/dispatcher", "buses and services are servers"),
    "errors.py": (
        "tests/unit/tools/test_reference_pages.py",
        "declarations, which the page of error codes is made from",
    ),
    "events/*": ("tests/integration/events", "one suite runs against every bus"),
    "formats/request_body.py": ("tests/unit/usage/test_meter.py", "read through the meter and the cases"),
    "formats/streams/*": ("tests/unit/formats/test_streams.py", "one suite over recorded streams"),
    "formats/texts.py": ("tests/unit/formats/test_reading_cases.py", "one suite over recorded bodies"),
    "formats/usage.py": ("tests/unit/formats/test_reading_cases.py", "one suite over recorded bodies"),
    "forwarding/*socket*.py": ("tests/e2e/websocket", "WebSockets are tried over sockets"),
    "forwarding/turns.py": ("tests/e2e/websocket", "WebSockets are tried over sockets"),
    "forwarding/*": ("tests/unit/forwarding/test_pipeline.py", "steps and endings are tried as one pipeline"),
    "gunicorn_conf.py": ("tests/e2e/server", "hooks of a running server"),
    "housekeeping.py": ("tests/integration/test_housekeeping.py", "needs a database"),
    "limits/*": ("tests/integration/limits", "one suite runs against every store"),
    "operations/*": ("tests/integration/management/test_operations.py", "read through the management API"),
    "preflight.py": ("tests/e2e/server", "what happens before a server starts"),
    "projects/*": ("tests/integration/management", "rows of a database, changed through the API"),
    "providers/schema.py": ("tests/unit/providers/test_load.py", "read by the loader"),
    "runtime/metric_files.py": ("tests/unit/test_metrics.py", "files of the workers' metrics"),
    "server/*": ("tests/e2e/server", "the server layer is tried over sockets"),
    "settings/*": ("tests/unit/settings", "declarations, read by the loader"),
    "tokens/*": ("tests/integration/management", "rows of a database, changed through the API"),
    "transport/*": ("tests/integration/transport", "scripted sockets on the other side"),
    "usage/*": ("tests/integration/usage", "sums are rows of three databases"),
    "web/admin/*": ("tests/browser", "pages are tried in a browser"),
    "web/*": ("tests/integration/management", "views need the application and a database"),
    "websocket/*": ("tests/unit/websocket", "one suite for each dialect"),
}


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
    assert [name for name in sorted(untested) if not any(fnmatch(name, pattern) for pattern in ELSEWHERE)] == []


@pytest.mark.parametrize("pattern", ELSEWHERE)
def test_what_is_tested_elsewhere_is_there(checkout: Path, pattern: str) -> None:
    """The pattern meets a module, and the tests that it names exist."""
    assert any(fnmatch(name, pattern) for name in _modules(checkout / "llm_proxy"))
    assert (checkout / ELSEWHERE[pattern][0]).exists()
