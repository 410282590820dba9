"""Packages of npm in a folder of a test, and the environment that programs run in there."""

import os
import shutil
import subprocess
from pathlib import Path

KEPT = ("PATH", "npm_config_registry", "NPM_CONFIG_REGISTRY", "NODE_EXTRA_CA_CERTS", "HTTPS_PROXY", "NO_PROXY")


def installed(folder: Path, *packages: str, script: Path, timeout_s: float = 100) -> dict[str, str]:
    """Install packages into `folder`, copy the script beside them, and return the environment that npm had."""
    env = {name: os.environ[name] for name in KEPT if name in os.environ} | {"HOME": str(folder)}
    if (settings := Path.home() / ".npmrc").exists():
        shutil.copy(settings, folder / ".npmrc")
    (folder / "package.json").write_text('{"private": true, "type": "module"}')
    install = ["npm", "install", "--silent", "--no-audit", "--no-fund", *packages]
    subprocess.run(install, cwd=folder, env=env, check=True, timeout=timeout_s)
    shutil.copy(script, folder)
    return env
