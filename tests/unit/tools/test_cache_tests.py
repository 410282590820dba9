"""bin/cache-tests complains where it should; the suite itself is not run here, it wants npm and a minute."""

import pytest
import yaml
from cache_tests.__main__ import BEGIN, END, HERE, Report, Result, judge, proxys_own, reason_of


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
    """docs/cache.md has the section, and nothing in it is without a reason."""
    page = (HERE.parents[1] / "docs" / "cache.md").read_text()
    section = page.partition(BEGIN)[2].partition(END)[0]
    assert "| required |" in section
    assert "not explained" not in section
    for reasons in yaml.safe_load((HERE / "reasons.yaml").read_text()).values():
        assert all(" ".join(reason.split()) in section for reason in reasons.values())
