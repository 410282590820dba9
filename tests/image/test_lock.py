"""The image's locked requirements are what setup.cfg asks for, each with its hashes, and name no index."""

import configparser
import re

from image.dockerfile import ROOT
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

LOCKED = (ROOT / "docker" / "requirements.txt").read_text()
BUILD = (ROOT / "docker" / "requirements-build.txt").read_text()


def pinned(text: str) -> dict[str, str]:
    return {canonicalize_name(m[1]): m[2] for m in re.finditer(r"^([a-z0-9._-]+)==(\S+) \\$", text, re.M)}


def asked_for() -> list[Requirement]:
    config = configparser.ConfigParser()
    config.read(ROOT / "setup.cfg")
    lines = config["options"]["install_requires"].split("\n")
    for extra in ("fast", "otlp", "tiktoken"):
        lines += config["options.extras_require"][extra].split("\n")
    return [Requirement(line) for line in lines if line.strip()]


def test_every_requirement_is_locked_to_a_version_that_is_allowed() -> None:
    """After a change of setup.cfg: docker/lock."""
    found = pinned(LOCKED)
    for requirement in asked_for():
        version = found.get(canonicalize_name(requirement.name))
        assert version is not None, f"{requirement.name}: run docker/lock"
        assert requirement.specifier.contains(version), f"{requirement}: {version} is locked; run docker/lock"


def test_every_line_has_hashes_and_none_names_an_index() -> None:
    """A builder uses another index, and gets the same files."""
    for text in (LOCKED, BUILD):
        blocks = re.split(r"^(?=[a-z0-9._-]+==)", text, flags=re.M)[1:]
        assert blocks
        assert all("--hash=sha256:" in block for block in blocks)
        assert not re.search(r"https?://|--index-url|--find-links|--trusted-host", text)


def test_both_architectures_are_locked() -> None:
    """Packages that come as machine code have hashes of more than one file, for amd64 and arm64."""
    for name in ("gevent", "psycopg2-binary", "cryptography", "orjson", "httptools", "tiktoken"):
        block = re.search(rf"^{name}==.*?(?=^[a-z])", LOCKED, re.M | re.S)
        assert block is not None
        assert block[0].count("--hash") > 4, name


def test_the_build_needs_what_the_projects_file_says() -> None:
    """setuptools of pyproject.toml's range."""
    assert int(pinned(BUILD)["setuptools"].split(".")[0]) >= 77
