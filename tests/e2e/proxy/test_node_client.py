"""The stock OpenAI client for Node, through the proxy."""

import json
import os
import shutil
import subprocess
from pathlib import Path

from support.gateway import Gateway

OPENAI = "openai@7.59.0"  # pinned, so that a release for newer Nodes does not break Debian's


def test_the_stock_client_for_node(gateway: Gateway, checkout: Path, tmp_path: Path) -> None:
    """Chat, streamed chat, embeddings, models, file upload and audio bytes arrive as the provider made them."""
    env = {"PATH": os.environ["PATH"], "HOME": str(tmp_path)}
    for name in ("npm_config_registry", "NPM_CONFIG_REGISTRY", "NODE_EXTRA_CA_CERTS", "HTTPS_PROXY", "NO_PROXY"):
        if name in os.environ:
            env[name] = os.environ[name]
    user_settings = Path.home() / ".npmrc"
    if user_settings.exists():
        shutil.copy(user_settings, tmp_path / ".npmrc")
    (tmp_path / "package.json").write_text('{"private": true, "type": "module"}')
    install = ["npm", "install", "--silent", "--no-audit", "--no-fund", OPENAI]
    subprocess.run(install, cwd=tmp_path, env=env, check=True, timeout=90)
    shutil.copy(checkout / "tests" / "cases" / "openai_client.mjs", tmp_path)
    env |= {"TOKEN": gateway.token().bearer, "BASE_URL": f"{gateway.url}/v1"}
    run = subprocess.run(
        ["node", "openai_client.mjs"], cwd=tmp_path, env=env, capture_output=True, text=True, timeout=60, check=False
    )
    assert run.returncode == 0, run.stderr
    found = json.loads(run.stdout)
    assert found["chat"]
    assert found["streamed"].strip() == found["chat"]
    assert found["dimensions"] > 0
    assert found["models"] > 0
    assert found["file"] == "a.jsonl"
    assert found["audio_bytes"] > 0
