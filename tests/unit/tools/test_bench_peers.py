"""Other gateways in the bench: how they are named, and what becomes of their figures."""

import sys
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).parents[3] / "tools" / "bench"))  # the programs of a folder import each other so

document: Any = import_module("document")
peers: Any = import_module("peers")
Samples: Any = import_module("measure").Samples


def test_a_peer_is_given_by_name_and_command() -> None:
    """The command is split into words as a shell does."""
    peer = peers.given("mine=./gateway --port {port} --name 'two words'")
    assert (peer.name, peer.command) == ("mine", ["./gateway", "--port", "{port}", "--name", "two words"])


@pytest.mark.parametrize("text", ["mine", "=./gateway {port}", "mine=", "mine=./gateway"])
def test_a_peer_that_cannot_be_started_is_refused(text: str) -> None:
    """A name, a command and the place to listen are needed."""
    with pytest.raises(ValueError, match=r"expected NAME=COMMAND|\{port\}"):
        peers.given(text)


def test_rows_compare_with_llm_proxy_round_by_round() -> None:
    """The ratio is the middle of the rounds' own ratios."""
    direct = Samples(latency_us=[[10.0], [10.0]])
    ours = Samples(latency_us=[[50.0], [60.0]], rps=[100, 100], cpu_us=[100.0, 200.0])
    other = Samples(latency_us=[[110.0], [110.0]], rps=[50, 50], cpu_us=[200.0, 800.0])
    samples = {"direct": direct, "llm-proxy": ours, "other": other}
    rows = peers.rows_of(samples, {"llm-proxy": 90.0, "other": 20.0}, {"other": "1.0"})
    assert (rows["other"]["cpu_over_llm_proxy"], rows["other"]["cpu_over_llm_proxy_span"]) == (3.0, [2.0, 4.0])
    assert (rows["other"]["added_p50_us"], rows["other"]["version"]) == (100.0, "1.0")
    assert [line[0] for line in peers.lines({"rows": rows})] == ["gateway", "llm-proxy", "other"]


def test_a_table_replaces_the_last_one(tmp_path: Path) -> None:
    """What stands between the marks of its kind goes, the rest of the page stays."""
    page = "before\n<!-- bench: peers -->\nold\n<!-- end -->\nafter\n"
    assert document.replaced(page, "peers", "new") == "before\n<!-- bench: peers -->\n\nnew\n\n<!-- end -->\nafter\n"
    with pytest.raises(ValueError, match="no <!-- bench: features -->"):
        document.replaced(page, "features", "new")
