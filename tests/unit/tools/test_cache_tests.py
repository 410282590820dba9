"""bin/cache-tests complains where it should; the suite itself is not run here, it wants npm and a minute."""

from pathlib import Path

import pytest
import yaml
from cache_tests.__main__ import (
    BEGIN,
    BEGIN_SOURCE,
    END,
    END_SOURCE,
    HERE,
    Report,
    Result,
    engine,
    judge,
    proxys_own,
    reason_of,
)

MARKS = ((BEGIN, END), (BEGIN_SOURCE, END_SOURCE))


def report(ours: str, *others: str, kind: str = "required") -> Report:
    """A run of one test."""
    return Report("0", ("nginx", "Varnish"), (Result("a-test", "Group", "name", kind, ours, "", others),))


@pytest.mark.parametrize(
    ("kind", "ours", "others", "is_worse"),
    [
        ("required", "fail", ("pass", "fail"), True),
        ("required", "setup", ("fail", "pass"), True),
        ("optimal", "not optimal", ("pass", "pass"), True),
        ("required", "fail", ("fail", "dependency"), False),
        ("check", "no", ("yes", "yes"), False),
        ("required", "pass", ("fail", "fail"), False),
    ],
)
def test_worse_than_a_published_column_is_a_complaint(
    kind: str, ours: str, others: tuple[str, ...], is_worse: bool
) -> None:
    """Only where the suite judges, and only without a reason."""
    reports = {"alone": report(ours, *others, kind=kind)}
    assert bool(judge(reports, {"alone": {}, "proxy": {}})) is is_worse
    assert judge(reports, {"alone": {"a-*": "why"}, "proxy": {}}) == []


def test_a_reason_for_what_passes_is_a_complaint() -> None:
    """Reasons do not outlive what they explain."""
    assert judge({"alone": report("pass", "pass")}, {"alone": {"a-test": "why"}, "proxy": {}}) != []


def test_the_proxy_is_held_to_what_the_component_does_with_authorization() -> None:
    """What both lose is RFC 9111 §3.5's; what only the proxy loses wants a reason."""
    both = {"authorized": report("fail", "pass"), "proxy": report("fail", "pass")}
    assert (proxys_own(both), judge(both, {"alone": {}, "proxy": {}})) == ([], [])
    proxy_alone = {"authorized": report("pass", "pass"), "proxy": report("fail", "pass")}
    assert len(judge(proxy_alone, {"alone": {}, "proxy": {}})) == 1


def test_the_longest_beginning_explains() -> None:
    """`*` stands for the rest of a name."""
    assert reason_of("stale-close-x", {"*": "any", "stale-*": "stale", "other": "no"}) == "stale"
    assert reason_of("fresh", {"stale-*": "stale"}) is None


def test_the_page_shows_results_that_are_all_explained() -> None:
    """docs/cache.md has both sections, nothing in them is without a reason, and every reason explains something."""
    page = (HERE.parents[1] / "docs" / "cache.md").read_text()
    sections = [page.partition(begin)[2].partition(end)[0] for begin, end in MARKS]
    for section in sections:
        assert "| required |" in section
        assert "not explained" not in section
    for reasons in yaml.safe_load((HERE / "reasons.yaml").read_text()).values():
        assert all(" ".join(reason.split()) in "".join(sections) for reason in reasons.values())


def test_a_copy_of_the_source_is_told_from_the_package(tmp_path: Path) -> None:
    """The source has its programs in a folder, the npm package beside its tests."""
    assert engine(tmp_path) == tmp_path
    (tmp_path / "test-engine").mkdir()
    assert engine(tmp_path) == tmp_path / "test-engine"
