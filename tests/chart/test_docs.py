"""Every command and every values file of the chart's documents renders."""

import re
import shlex
from pathlib import Path
from typing import Any

import pytest
import yaml

from chart import invariants
from chart.engine import CHART, flags, render
from chart.profiles import profiles

DOCUMENTS = [CHART / name for name in ("README.md", "EXAMPLES.md", "dashboards/README.md")]
DOCUMENTS += [CHART.parents[1] / "docs" / "operations.md"]
_BLOCK = re.compile(r"^```(\w+)\n(.*?)^```", re.M | re.S)
_TAKES_A_VALUE = {"--set", "--set-string", "-f", "--values", "--version", "--namespace", "-n", "--timeout"}
_ALONE = {"--install", "--reuse-values", "--create-namespace", "--wait", "--atomic"}


def blocks(language: str) -> list[tuple[str, str]]:
    """(document, text) of every code block in that language."""
    found = []
    for document in DOCUMENTS:
        if document.exists():
            found += [(document.name, m[2]) for m in _BLOCK.finditer(document.read_text()) if m[1] == language]
    return found


def helm_commands() -> list[tuple[str, list[str]]]:
    """(document, words) of every command that installs, upgrades or renders the chart."""
    found = []
    for name, text in blocks("bash"):
        for line in text.replace("\\\n", " ").splitlines():
            if re.match(r"helm (install|upgrade|template) ", line):
                found.append((name, shlex.split(line.replace("$(openssl rand -base64 32)", "q/1+Z=9wpw=="))))
    return found


COMMANDS = helm_commands()
FILES = [(name, text) for name, text in blocks("yaml") if "kind:" not in text]


@pytest.mark.parametrize(("document", "words"), COMMANDS, ids=[f"{d}-{n}" for n, (d, _) in enumerate(COMMANDS)])
def test_a_documented_command_renders(document: str, words: list[str]) -> None:
    """Its flags are known, its files exist, and what it renders is valid."""
    left, given = [], []
    rest = words[2:]
    while rest:
        word = rest.pop(0)
        if word in _TAKES_A_VALUE:
            given += [word, rest.pop(0)]
        elif word not in _ALONE or word == "--reuse-values":
            left.append(word)
    assert left[0] == "llm-proxy"
    assert left[1] in ("charts/llm-proxy", "oci://ghcr.io/sofatutor/charts/llm-proxy"), left
    pairs = list(zip(given[::2], given[1::2], strict=True))
    values = flags([w for pair in pairs if pair[0] in ("--set", "--set-string", "-f", "--values") for w in pair])
    rendering = render(values)
    invariants.check(rendering, values, versions=invariants.VERSIONS[-1:])
    if "--reuse-values" not in left:
        assert rendering.container()["image"].startswith("ghcr.io/sofatutor/llm-proxy:"), "the image has no registry"


@pytest.mark.parametrize(("document", "text"), FILES, ids=[f"{d}-{n}" for n, (d, _) in enumerate(FILES)])
def test_a_documented_values_file_renders(document: str, text: str) -> None:
    """What is shown as YAML can be used as it stands."""
    values: dict[str, Any] = yaml.safe_load(text)
    invariants.check(render(values), values, versions=invariants.VERSIONS[-1:])


def test_the_documents_hold_enough_to_check() -> None:
    """The parser of the documents finds what it is for."""
    assert len(COMMANDS) > 25
    assert len(FILES) > 5
    assert {p.stem.removeprefix("values-") for p in (CHART / "examples").iterdir()} <= set(profiles())


def test_every_example_is_named_in_a_document() -> None:
    """A file of examples/ that no page links to is of no use."""
    text = "".join(d.read_text() for d in DOCUMENTS if d.exists())
    for path in (CHART / "examples").iterdir():
        assert f"examples/{path.name}" in text, path.name


def test_the_examples_are_numbered_in_order() -> None:
    """1, 2, 3 … without a number twice."""
    numbers = re.findall(r"^## (\d+)\. ", (CHART / "EXAMPLES.md").read_text(), re.M)
    assert numbers == [str(n) for n in range(1, len(numbers) + 1)]


def test_relative_links_lead_to_files() -> None:
    """Each link of the chart's documents that stays in the repository has a target."""
    for document in DOCUMENTS:
        if not document.exists():
            continue
        for target in re.findall(r"\]\((?!https?:|#)([^)#]+)", document.read_text()):
            assert (document.parent / target).resolve().exists(), f"{document.name}: {target}"


def test_no_secret_of_a_documented_command_is_in_a_values_file() -> None:
    """Examples name Secrets; the only passwords are on command lines, made up at random."""
    for path in (CHART / "examples").iterdir():
        assert not re.search(
            r"(?i)^ *(password|token|managementToken|encryptionKey): *[^\s{]", path.read_text(), re.M
        ), path


def test_metrics_of_the_readme_exist() -> None:
    """The README's table names no metric that the program does not have."""
    from chart.metric_names import known

    names = set(re.findall(r"`(llm_proxy_[a-z_]+)", (CHART / "README.md").read_text()))
    assert names
    assert names <= known()


def test_every_path_of_this_test_is_relative() -> None:
    """Documents never name a folder of one machine."""
    for document in DOCUMENTS:
        if document.exists():
            assert "/work/" not in document.read_text()
            assert str(Path.home()) not in document.read_text()
