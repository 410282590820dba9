"""Every file that the program reads beside its code is in the wheel."""

import configparser
from pathlib import Path

ROOT = Path(__file__).resolve().parents[3]


def test_every_file_of_a_package_is_package_data() -> None:
    """Templates and styles lie in folders that are no packages: a pattern has to reach into them."""
    config = configparser.ConfigParser()
    config.read(ROOT / "setup.cfg")
    packed: set[Path] = set()
    for package, text in config["options.package_data"].items():
        patterns = [pattern.strip() for pattern in text.split(",")]
        folders = [p.parent for p in ROOT.glob("llm_proxy*/**/__init__.py")] if package == "*" else []
        folders += [] if package == "*" else [ROOT / package.replace(".", "/")]
        packed |= {file for folder in folders for pattern in patterns for file in folder.glob(pattern)}
    files = {f for top in ("llm_proxy", "llm_proxy_simulator") for f in (ROOT / top).rglob("*") if f.is_file()}
    left = {f for f in files if f.suffix not in (".py", ".pyc")} - packed
    assert not left, sorted(map(str, left))
