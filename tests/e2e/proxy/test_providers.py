"""Several providers side by side, over sockets: which one a request reaches, with what, and how refusals look."""

import json
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest
from support.gateway import eventually
from support.side_by_side import NAMES, SideBySide, canary, running_side_by_side

CHAT = {"model": "gpt-4o", "messages": [{"role": "user", "content": "hello"}]}
MESSAGE = {"model": "claude-sonnet-4-5", "max_tokens": 9, "messages": [{"role": "user", "content": "hello"}]}
CONTENTS = {"contents": [{"role": "user", "parts": [{"text": "hello"}]}]}
GENERATE = "/v1beta/models/gemini-2.5-flash:generateContent"
DEPLOYMENT = "/openai/deployments/gpt-4o/chat/completions?api-version=2024-10-21"
ASKED = {
    "openai": ("/v1/chat/completions", "Authorization", CHAT),
    "azure": (f"/azure{DEPLOYMENT}", "api-key", CHAT),
    "anthropic": ("/anthropic/v1/messages", "x-api-key", MESSAGE),
    "google": (f"/google{GENERATE}", "x-goog-api-key", CONTENTS),
    "mistral": ("/mistral/v1/chat/completions", "Authorization", CHAT),
    "groq": ("/groq/openai/v1/chat/completions", "Authorization", CHAT),
}


@pytest.fixture(scope="module", params=["fast", "slow"])
def world(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[SideBySide]:
    """All kinds, on both lanes."""
    lane = "true" if request.param == "fast" else "false"
    with running_side_by_side(tmp_path_factory.mktemp("side"), LLM_PROXY_FAST_LANE=lane) as running:
        yield running


def post(world: SideBySide, path: str, body: Any, **fields: str) -> tuple[int, dict[str, str], Any]:
    """A POST with JSON; `_` in names is a dash."""
    headers = {"Content-Type": "application/json"} | {name.replace("_", "-"): value for name, value in fields.items()}
    status, response, content = world.gateway.ask("POST", path, json.dumps(body).encode(), headers=headers)
    return status, response, json.loads(content)


def test_each_vendors_own_field_and_path_reaches_its_provider_with_its_key(world: SideBySide) -> None:
    """The mount is removed, the key is the provider's own, and no canary is seen where it does not belong."""
    token = world.token()
    for name, (path, field, body) in ASKED.items():
        value = f"Bearer {token}" if field == "Authorization" else token
        status, _, content = post(world, path, body, **{field: value})
        assert status == 200, (name, content)
        seen = world.providers[name].seen()[-1]
        assert seen.target == (path if name == "openai" else path.removeprefix(f"/{name}"))
    for name in NAMES:
        witness = world.providers[name].log.read_text()
        assert token not in witness
        assert [other for other in NAMES if canary(other) in witness] == [name]
    event_log = world.gateway.folder / "events.jsonl"
    eventually(lambda: event_log.exists() and len(event_log.read_text().splitlines()) >= len(ASKED))
    events = event_log.read_text()
    assert not any(canary(name) in text for name in NAMES for text in (events, world.gateway.output()))
    lines = world.gateway.wait_for_access(len(ASKED), token=f"{token[:7]}{'*' * 14}{token[-4:]}")
    assert [line["provider"] for line in lines] == list(ASKED)
    assert [line["path"] for line in lines] == [path.partition("?")[0] for path, _, _ in ASKED.values()]


def test_usage_is_counted_for_each(world: SideBySide) -> None:
    """As each API reports it: model, prompt and completion."""
    token = world.token()
    for path, field, body in ASKED.values():
        post(world, path, body, **{field: f"Bearer {token}"})

    def models() -> dict[str, tuple[int, int]]:
        status, found = world.manage("GET", f"/manage/usage?group_by=model,provider&project_id={world.project_id}")
        assert status == 200
        rows = [row for row in found["data"] if row["model"] != "gpt-4o" or row["provider"] == "azure"]
        return {row["model"]: (row["prompt_tokens"], row["completion_tokens"]) for row in rows}

    def is_there() -> bool:
        return {"gpt-4o", "claude-sonnet-4-5", "gemini-2.5-flash"} <= models().keys()

    eventually(is_there, what=lambda: str(models()))
    found = models()
    assert found["claude-sonnet-4-5"][0] % 1 == 0
    assert found["claude-sonnet-4-5"][1] % 9 == 0
    assert all(prompt > 0 and completion > 0 for prompt, completion in found.values())


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("openai", lambda body: (body["error"]["type"], body["error"]["code"])),
        ("anthropic", lambda body: (body["type"], body["error"]["type"])),
        ("google", lambda body: (body["error"]["status"], body["error"]["code"])),
    ],
)
def test_refusals_have_the_vendors_form(world: SideBySide, name: str, kind: Any) -> None:
    """401, 403 and 429, each as the vendor's SDK reads it."""
    path, field, body = ASKED[name]
    shapes = {
        "openai": [
            ("authentication_error", "token_not_found"),
            ("permission_error", "provider_not_allowed"),
            ("rate_limit_error", "rate_limit_exceeded"),
        ],
        "anthropic": [("error", f"{word}_error") for word in ("authentication", "permission", "rate_limit")],
        "google": [("UNAUTHENTICATED", 401), ("PERMISSION_DENIED", 403), ("RESOURCE_EXHAUSTED", 429)],
    }
    other = world.token(providers=["mistral"])
    limited = world.token(max_requests=1)
    post(world, path, body, **{field: f"Bearer {limited}"})
    asked = ["sk-" + "a" * 22, other, limited]
    found = []
    for status, bearer in zip((401, 403, 429), asked, strict=True):
        got, _, content = post(world, path, body, **{field: f"Bearer {bearer}"})
        assert got == status, content
        found.append(kind(content))
    assert found == shapes[name]


def test_keys_are_listed_replaced_and_removed(world: SideBySide) -> None:
    """Obfuscated; a project without a key is 403 `provider_not_configured`, within a second."""
    _, project = world.manage("POST", "/manage/projects", {"name": "keys"})
    keys = f"/manage/projects/{project['id']}/provider-keys"
    _, issued = world.manage("POST", "/manage/tokens", {"project_id": project["id"], "duration_minutes": 5})
    fields = {"x_api_key": issued["token"]}
    path, _, body = ASKED["anthropic"]
    assert world.manage("GET", keys) == (200, [])
    status, _, content = post(world, path, body, **fields)
    assert (status, content["code"]) == (403, "provider_not_configured")
    assert world.manage("PUT", f"{keys}/anthropic", {"api_key": canary("anthropic")})[0] == 200
    assert post(world, path, body, **fields)[0] == 200
    _, listed = world.manage("GET", keys)
    assert [(key["provider"], canary("anthropic") in key["api_key"]) for key in listed] == [("anthropic", False)]
    status, refused = world.manage("PUT", f"{keys}/nobody", {"api_key": "k"})
    assert (status, refused["error"]) == (400, f"provider must be one of {', '.join(NAMES)}")
    assert world.manage("PUT", f"{keys}/anthropic", {})[0] == 400
    assert world.manage("DELETE", f"{keys}/anthropic")[0] == 204
    assert world.manage("DELETE", f"{keys}/anthropic")[0] == 404
    assert post(world, path, body, **fields)[0] == 403


def test_tokens_name_the_providers_that_they_are_good_for(world: SideBySide) -> None:
    """A list at creation and by PATCH; null is all."""
    token = world.token(providers=["openai", "mistral"])
    status, refused = world.manage("POST", "/manage/tokens", {
        "project_id": world.project_id, "duration_minutes": 5, "providers": ["opnai"],
    })  # fmt: skip
    assert (status, refused["error"]) == (400, "providers names an unknown provider: opnai")
    path, _, body = ASKED["anthropic"]
    assert post(world, path, body, x_api_key=token)[0] == 403
    found = [one for one in world.manage("GET", "/manage/tokens")[1] if one["token"].endswith(token[-4:])]
    assert found[0]["providers"] == ["openai", "mistral"]
    status, changed = world.manage("PATCH", f"/manage/tokens/{found[0]['id']}", {"providers": None})
    assert (status, changed["providers"]) == (200, None)
    assert post(world, path, body, x_api_key=token)[0] == 200


def test_a_key_in_the_query_is_refused_and_masked(world: SideBySide) -> None:
    """400 naming the field to use; neither log nor event holds it."""
    token = world.token()
    path, _, body = ASKED["google"]
    for query in (f"key={token}", "key=AIzaSyA-secret-0123456789abcdefghijklmno"):
        status, _, content = post(world, f"{path}?{query}", body, x_goog_api_key=token)
        assert (status, content["code"]) == (400, "token_in_query")
        assert "x-goog-api-key" in content["error"]["message"]
    assert token not in world.gateway.output()
    assert "AIzaSyA-secret" not in world.gateway.output()


@pytest.mark.parametrize("name", ["openai", "anthropic"])
@pytest.mark.parametrize("field", ["api-key", "x-goog-api-key", "X-Team-Credential"])
def test_a_second_token_is_refused_in_whichever_field(world: SideBySide, name: str, field: str) -> None:
    """401 for another token, also in a field that the provider knows nothing of; a copy of the same one is removed."""
    token = world.token()
    path, own, body = ASKED[name]
    status, _, content = post(world, path, body, **{own: f"Bearer {token}", field: world.token()})
    assert (status, content.get("code") or content["error"]["code"]) == (401, "ambiguous_credentials")
    assert post(world, path, body, **{own: f"Bearer {token}", field: token})[0] == 200
    assert world.providers[name].seen()[-1].values(field) == []
    assert token not in world.providers[name].log.read_text()


def test_a_key_that_a_provider_repeats_is_in_no_event_and_no_log(world: SideBySide) -> None:
    """Whichever field carried the token, both secrets are masked where a provider's response quotes them."""
    token = world.token()
    path, field, body = ASKED["anthropic"]
    quoted = json.dumps({"type": "error", "error": {"message": f"bad key {canary('anthropic')} for {token}"}})
    world.providers["anthropic"].set_rules({"body": quoted})
    try:
        status, _, content = post(world, path, body, **{field: token})
    finally:
        world.providers["anthropic"].set_rules()
    assert (status, content["error"]["message"].split()[:2]) == (200, ["bad", "key"])
    event_log = world.gateway.folder / "events.jsonl"
    eventually(lambda: event_log.exists() and "bad key" in event_log.read_text())
    for text in (event_log.read_text(), world.gateway.output()):
        assert canary("anthropic") not in text
        assert token not in text


def test_own_paths_stay_and_others_are_not_found(world: SideBySide) -> None:
    """The default provider's rules do not hold below a mount, nor the others' at the root."""
    token = world.token()
    fields = {"Authorization": f"Bearer {token}"}
    assert world.gateway.ask("GET", "/health")[0] == 200
    for path in (
        "/v1/messages",
        "/anthropic/v1/chat/completions",
        "/anthropic",
        "/anthropicx/v1/messages",
        "/nobody/v1",
    ):
        status, _, content = world.gateway.ask("POST", path, b"{}", headers=fields)
        assert status in ((404,) if path != "/v1/messages" else (200, 404)), (path, content)
    status, _, content = world.gateway.ask("GET", "/anthropic/%2e%2e/v1/models", headers=fields)
    assert status == 404


def test_a_host_is_all_its_providers(tmp_path_factory: pytest.TempPathFactory) -> None:
    """No /manage, /admin or /metrics there; the other hosts are as before."""
    folder = tmp_path_factory.mktemp("hosts")
    file = folder / "file.yaml"
    file.write_text(
        """
apis:
  openai: {base_url: http://127.0.0.1:9, allowed_endpoints: [/v1], allowed_methods: [POST]}
  anthropic:
    base_url: http://127.0.0.1:9
    hosts: [claude.llm.example]
    auth_header: x-api-key
    auth_scheme: ""
    error_shape: anthropic
    allowed_endpoints: [/v1/messages]
    allowed_methods: [POST]
"""
    )
    with running_side_by_side(folder, ("openai", "anthropic"), API_CONFIG_PATH=str(file)) as world:
        host = {"Host": "Claude.LLM.example:8080"}
        status, _, content = post(world, "/v1/messages", MESSAGE, x_api_key=world.token(), **host)
        assert status == 200, content
        for path in ("/manage/projects", "/admin", "/metrics", "/health"):
            status, _, content = world.gateway.ask("POST", path, b"{}", headers=host)
            assert (status, json.loads(content)["code"]) == (404, "endpoint_not_found")
        assert world.gateway.ask("GET", "/metrics")[0] == 200


def run(world: SideBySide, *words: str) -> tuple[int, str]:
    """A command in the gateway's environment: exit code and output."""
    env = world.gateway.env | {"MANAGEMENT_API_BASE_URL": world.url}
    command = [sys.executable, "-m", "llm_proxy.cli", *words]
    done = subprocess.run(command, env=env, cwd=world.gateway.folder, capture_output=True, text=True, timeout=60)
    return done.returncode, done.stdout + done.stderr


def test_commands_know_the_providers(world: SideBySide) -> None:
    """Keys are set, listed and removed; a token names providers; doctor asks each provider with each key."""
    code, said = run(world, "manage", "project", "create", "--name", "by-command", "--no-key", "--json")
    assert code == 0, said
    project = json.loads(said)["id"]
    assert run(world, "manage", "project", "set-key", project, "anthropic", "--key", "wrong-key-0123456789")[0] == 0
    assert "anthropic" in run(world, "manage", "project", "list-keys", project)[1]
    code, said = run(world, "doctor")
    assert "anthropic refuses the key of project by-command (401)" in said, said
    assert "mistral accepts the keys of 1 projects" in said
    assert "azure accepts the keys of 1 projects" in said
    assert run(world, "manage", "project", "remove-key", project, "anthropic")[0] == 0
    code, said = run(
        world, "manage", "token", "generate", "--project-id", project, "--providers", "openai,groq", "--json"
    )
    assert code == 0, said
    code, said = run(world, "manage", "token", "get", json.loads(said)["id"])
    assert "openai, groq" in said


def test_stored_responses_are_each_providers_own(tmp_path_factory: pytest.TempPathFactory) -> None:
    """The same path of two providers is two entries; a purge names the address that clients use."""
    variables = {"HTTP_CACHE_ENABLED": "true"}
    with running_side_by_side(tmp_path_factory.mktemp("cache"), ("openai", "mistral"), **variables) as world:
        token = {"Authorization": f"Bearer {world.token()}"}
        for name in ("openai", "mistral"):
            world.providers[name].set_rules({"path": "/v1/models", "fields": [["Cache-Control", "public, max-age=60"]]})
        paths = ["/v1/models", "/mistral/v1/models"]
        for wanted in ("stored", "hit"):
            for path in paths:
                _, fields, _ = world.gateway.ask("GET", path, headers=token)
                assert fields["X-PROXY-CACHE"] == wanted, path
        purge = {"method": "GET", "url": "/mistral/v1/models"}
        assert world.manage("POST", "/manage/cache/purge", purge)[0] == 200
        found = [world.gateway.ask("GET", path, headers=token)[1]["X-PROXY-CACHE"] for path in paths]
        assert found == ["hit", "stored"]
