"""The order of files among several processes: the longest first, so that none of them is left alone at the end.

xdist's own order is by number of tests, which puts last the files that start a server or a command for each of few.
"""

from collections import Counter

import pytest

_LONGEST = (  # by measured time; a file that is not named counts by its tests, and follows
    "integration/management/test_openapi.py",
    "e2e/cli/test_commands.py",
    "integration/audit/test_chain.py",
    "e2e/cli/test_manage.py",
    "integration/dispatcher/test_process.py",
    "integration/db/test_migrations.py",
    "integration/accounting/test_quota_workers.py",
    "e2e/audit/test_verify.py",
    "e2e/cli/test_up.py",
    "e2e/proxy/test_accounting.py",
    "e2e/bench/test_bench.py",
    "integration/management/test_audit.py",
    "integration/management/test_tokens.py",
    "integration/management/test_keys.py",
    "e2e/proxy/test_providers.py",
    "integration/cli/test_doctor.py",
    "e2e/events/test_events.py",
    "e2e/operations/test_running.py",
    "e2e/proxy/test_operation.py",
    "e2e/access/test_matrix.py",
    "e2e/usage/test_usage.py",
    "e2e/server/test_start.py",
    "e2e/websocket/test_ends.py",
    "e2e/limits/test_limits.py",
    "e2e/accounting/test_loss.py",
    "e2e/proxy/test_time.py",
    "integration/transport/test_patched.py",
    "integration/audit/test_file_races.py",
)


def ordered(names: list[str]) -> list[str]:
    """Return the files of these tests in the order in which they begin; a name stands once for each of its tests."""
    number = Counter(names)
    rank = {name: place for place, name in enumerate(_LONGEST)}
    return sorted(number, key=lambda name: (rank.get(name, len(rank)), -number[name], name))


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Put the longest files first in each of xdist's processes; `--no-loadscope-reorder` keeps that order."""
    if not hasattr(config, "workerinput"):
        return
    tests = config.rootpath / "tests"
    names = [str(item.path.relative_to(tests)) for item in items]
    place = {name: number for number, name in enumerate(ordered(names))}
    in_order = sorted(zip(names, items, strict=True), key=lambda pair: place[pair[0]])
    items[:] = [item for _, item in in_order]
