"""What a release publishes is what the documents install."""

import re
import subprocess
from pathlib import Path
from typing import Any

import yaml

from chart.engine import CHART

ROOT = CHART.parents[1]
WORKFLOWS: dict[str, dict[str, Any]] = {
    path.stem: yaml.safe_load(path.read_text()) for path in (ROOT / ".github" / "workflows").glob("*.yaml")
}


def scripts(workflow: str, job: str) -> str:
    """All `run` steps of a job, in one text."""
    return "\n".join(step.get("run", "") for step in WORKFLOWS[workflow]["jobs"][job]["steps"])


def test_the_released_version_is_the_charts(tmp_path: Path) -> None:
    """The release's own check takes this tree's version as a tag, and no other."""
    version = yaml.safe_load((CHART / "Chart.yaml").read_text())["version"]
    for tag, is_taken in ((f"v{version}", True), ("v0.0.0", False)):
        variables = {"GITHUB_REF_NAME": tag, "GITHUB_OUTPUT": str(tmp_path / tag), "PATH": "/usr/bin:/bin"}
        done = subprocess.run(["bash", "-e", "-c", scripts("release", "version")], cwd=ROOT, env=variables)
        assert (done.returncode == 0) is is_taken
    assert (tmp_path / f"v{version}").read_text() == f"version={version}\n"


def test_chart_and_image_go_where_the_documents_look_for_them() -> None:
    """The owner in lower case, `charts/llm-proxy`, the image beside it; nothing is pushed before the suite passed."""
    address = re.search(r"charts=(oci://\S+)", scripts("release", "chart"))
    assert address
    folder = address[1].replace("${GITHUB_REPOSITORY_OWNER,,}", "sofatutor")
    assert f"{folder}/llm-proxy --version" in (CHART / "README.md").read_text()
    assert "ghcr.io/${GITHUB_REPOSITORY_OWNER,,}/llm-proxy" in scripts("release", "image")
    jobs = WORKFLOWS["release"]["jobs"]
    assert jobs["ci"]["uses"] == "./.github/workflows/ci.yaml"
    assert "ci" in jobs["image"]["needs"]
    assert "image" in jobs["chart"]["needs"]


def test_the_checks_of_a_push_are_the_repositorys_own() -> None:
    """One script judges everywhere; Helm's own command renders the chart in several versions."""
    assert ".ci/run" in scripts("ci", "test")
    assert "bin/validate-chart" in scripts("ci", "chart")
    assert len(WORKFLOWS["ci"]["jobs"]["chart"]["strategy"]["matrix"]["helm"]) > 1


def test_image_and_chart_are_signed_as_the_identity_that_the_documents_verify() -> None:
    """Both are signed by digest; the documented check names this workflow, and the jobs may ask for its identity."""
    jobs = WORKFLOWS["release"]["jobs"]
    for job in ("image", "chart"):
        assert jobs[job]["permissions"]["id-token"] == "write"
        assert "cosign sign --yes" in scripts("release", job)
    assert "@${{ steps.build.outputs.digest }}" in str(jobs["image"]["steps"])
    page = (ROOT / "docs/how-to/upgrade.md").read_text()
    identity = re.search(r"--certificate-identity-regexp '(\S+)'", page)
    assert identity
    workflow = "https://github.com/sofatutor/llm-proxy/.github/workflows/release.yaml"
    assert re.match(identity[1], f"{workflow}@refs/tags/v1.0.0")
    assert not re.match(identity[1], f"{workflow}@refs/heads/main")
