"""Providers side by side: PROVIDERS, mounts and hosts, packaged entries."""

from pathlib import Path

import pytest

from llm_proxy.providers import LoadedProvider, ProviderFileError, load_provider
from llm_proxy.settings import Settings, UpstreamSettings

ENTRY = "allowed_endpoints: [/v1/messages], allowed_methods: [POST]"
FILE = f"""
apis:
  openai: {{base_url: https://a.example, allowed_endpoints: [/v1/chat, /files], allowed_methods: [POST]}}
  one: {{base_url: https://b.example, {ENTRY}}}
  two:
    base_url: https://c.example
    allowed_endpoints: [/v1/messages]
    allowed_methods: [POST]
    %s
"""


@pytest.fixture(autouse=True)
def empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No test finds a ./config of the developer's."""
    monkeypatch.chdir(tmp_path)


def load(tmp_path: Path, key: str = "", *, providers: str = "openai,one,two", **settings: object) -> LoadedProvider:
    """The providers of a file whose last entry has one more key."""
    path = tmp_path / "api_providers.yaml"
    path.write_text(FILE % key)
    names = tuple(providers.split(","))
    return load_provider(Settings(upstream=UpstreamSettings(api_config_path=path, providers=names, **settings)))  # type: ignore[arg-type]


def test_without_providers_there_is_the_default_one_alone(tmp_path: Path) -> None:
    """All as before."""
    path = tmp_path / "api_providers.yaml"
    path.write_text(FILE % "mount: /health")
    assert load_provider(Settings(upstream=UpstreamSettings(api_config_path=path))).others == ()


def test_each_has_a_mount_or_hosts(tmp_path: Path) -> None:
    """`/NAME` where the file names neither; the default one stays at the root."""
    found = load(tmp_path, "hosts: [Claude.LLM.example]")
    assert (found.provider.name, found.provider.mount) == ("openai", "")
    assert [(one.name, one.mount, one.hosts) for one in found.others] == [
        ("one", "/one", ()),
        ("two", "", ("claude.llm.example",)),
    ]


@pytest.mark.parametrize(
    ("key", "said"),
    [
        ("mount: /health", "line 9: apis.two.mount: /health is at or below /health, a path of the proxy itself"),
        ("mount: /manage/x", "line 9: apis.two.mount: /manage/x is at or below /manage"),
        ("mount: /metrics", "line 9: apis.two.mount: /metrics is at or below /metrics"),
        ("mount: /v1", "line 9: apis.two.mount: /v1 is at or below /v1, which is the default provider's"),
        ("mount: /files/x", "line 9: apis.two.mount: /files/x is at or below /files"),
        ("mount: /one", "line 9: apis.two.mount: /one is the mount of one, too"),
        ("mount: one", "apis.two.mount: expected a path such as /anthropic"),
        ("mount: /one/", "apis.two.mount: expected a path such as /anthropic"),
        ("mount: /a/../b", "apis.two.mount: expected a path such as /anthropic"),
        ("hosts: [b_d, x/y]", "apis.two.hosts[0]: expected a host name"),
    ],
)
def test_a_mount_that_means_two_things_stops_the_start(tmp_path: Path, key: str, said: str) -> None:
    """The file and the line are named."""
    with pytest.raises(ProviderFileError) as caught:
        load(tmp_path, key)
    assert f"{tmp_path}/api_providers.yaml: {said}" in str(caught.value)


def test_the_rest_of_what_is_wrong(tmp_path: Path) -> None:
    """An unknown name, and a list without the default one; all faults at once."""
    with pytest.raises(ProviderFileError) as caught:
        load(tmp_path, providers="one,tow")
    assert "PROVIDERS: tow is no provider of" in str(caught.value)
    assert "PROVIDERS: expected the default provider, openai, among them" in str(caught.value)
    with pytest.raises(ProviderFileError, match="the default provider stays at the root"):
        load(tmp_path, "mount: /two", default_api_provider="two")
    with pytest.raises(ProviderFileError, match="PROVIDER_URLS=three"):
        load(tmp_path, provider_urls=(("three", "http://x"),))


PACKAGED = ("openai", "azure", "anthropic", "google", "mistral", "groq", "openrouter", "ollama", "vllm")


def test_packaged_entries_are_enabled_by_name() -> None:
    """Mounted at `/NAME`, with the fields and the errors of their vendors."""
    urls = (("azure", "https://res.openai.azure.com"),)
    found = load_provider(Settings(upstream=UpstreamSettings(providers=PACKAGED, provider_urls=urls)))
    assert found.provider.name == "openai"
    by_name = {one.name: one for one in found.others}
    assert [one.mount for one in found.others] == [f"/{name}" for name in PACKAGED[1:]]
    assert {name: one.client_auth for name, one in by_name.items() if len(one.client_auth) > 1} == {
        "azure": ("API-KEY", "AUTHORIZATION"),
        "anthropic": ("X-API-KEY", "AUTHORIZATION"),
        "google": ("X-GOOG-API-KEY", "AUTHORIZATION"),
    }
    assert {name: one.error_shape for name, one in by_name.items() if one.error_shape != "openai"} == {
        "anthropic": "anthropic",
        "google": "google",
    }
    assert by_name["azure"].origin == "https://res.openai.azure.com:443"
    assert by_name["azure"].model_from == ("/openai/deployments/{model}/*",)


def test_azure_wants_the_address_of_its_resource() -> None:
    """There is no default that could be right."""
    with pytest.raises(ProviderFileError, match=r"apis\.azure\.base_url: required"):
        load_provider(Settings(upstream=UpstreamSettings(providers=("openai", "azure"))))
