"""The stock OpenAI client for Node, through the proxy."""

import json
import subprocess
from pathlib import Path

from support.gateway import Gateway
from support.npm import installed

OPENAI = "openai@7.59.0"  # pinned, so that a release for newer Nodes does not break Debian's


def test_the_stock_client_for_node(gateway: Gateway, checkout: Path, tmp_path: Path) -> None:
    """Chat, streamed chat, embeddings, models, file upload and audio bytes arrive as the provider made them."""
    script = checkout / "tests" / "cases" / "openai_client.mjs"
    env = installed(tmp_path, OPENAI, script=script, timeout_s=90)
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
