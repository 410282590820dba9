"""The provider file: which one is read, what it says, and how its faults are told."""

import math
from pathlib import Path

import pytest
import yaml

from llm_proxy.providers import LoadedProvider, ProviderFileError, load_provider, mounts
from llm_proxy.settings import Settings, UpstreamSettings

ROOT = Path(__file__).parents[3]
CASES = ROOT / "tests/cases/providers"
MINIMAL = """
apis:
  openai:
    base_url: http://127.0.0.1:9/base/
    allowed_endpoints: [/v1/models]
    allowed_methods: [get]
"""


@pytest.fixture(autouse=True)
def empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No test finds a ./config of the developer's."""
    monkeypatch.chdir(tmp_path)


def load(tmp_path: Path, text: str, **settings: object) -> LoadedProvider:
    """The provider of a file with this text."""
    path = tmp_path / "api_providers.yaml"
    path.write_text(text)
    return load_provider(Settings(upstream=UpstreamSettings(api_config_path=path, **settings)))  # type: ignore[arg-type]


def test_the_packaged_file_serves_where_there_is_none() -> None:
    """Without any file: provider openai, its methods and families, no rule on values, and one note."""
    found = load_provider(Settings())
    provider = found.provider
    assert (provider.name, provider.origin, provider.host) == ("openai", "https://api.openai.com:443", "api.openai.com")
    assert provider.allowed_methods == ("GET", "POST", "HEAD", "OPTIONS")
    assert {"/v1/responses", "/v1/vector_stores", "/v1/videos", "/v1/runs"} <= set(provider.allowed_endpoints)
    assert not {"/v1/realtime", "/v1/organization", "/v1/fine-tunes"} & set(provider.allowed_endpoints)
    assert not provider.param_whitelist
    assert not provider.allowed_origins
    assert (len(found.notes), found.warnings) == (1, [])


def test_the_packaged_file_leaves_time_limits_to_the_settings() -> None:
    """connect, first byte and idle come from the environment, and nothing has a total limit."""
    timeouts = load_provider(Settings(upstream=UpstreamSettings(idle_timeout_s=7.0))).provider.timeouts
    assert (timeouts.connect_s, timeouts.first_byte_s, timeouts.idle_s) == (10.0, 600.0, 7.0)
    assert timeouts.total_s == math.inf


def test_what_the_packaged_file_shows_as_comments_loads_too() -> None:
    """Every commented key of the packaged file can be switched on by taking the # away."""
    lines = (ROOT / "llm_proxy/providers/default.yaml").read_text().splitlines()
    start = next(i for i, line in enumerate(lines) if "# param_whitelist:" in line)
    opened = [line.replace("# ", "", 1) if i >= start and line.strip().startswith("# ") else line
              for i, line in enumerate(lines)]  # fmt: skip
    text = "\n".join(line for line in opened if not line.strip().startswith(("Browser origins", "Fields that")))
    provider = yaml.safe_load(text)["apis"]["openai"]
    assert "gpt-image-*" in provider["param_whitelist"]["model"]
    assert provider["required_headers"] == ["origin"]


@pytest.mark.parametrize("name", ["openai", "anthropic", "google", "mistral", "cohere"])
def test_the_example_loads_without_a_warning(name: str) -> None:
    """examples/api_providers.yaml is served as it is, whichever provider is chosen."""
    path = ROOT / "examples/api_providers.yaml"
    found = load_provider(Settings(upstream=UpstreamSettings(api_config_path=path, default_api_provider=name)))
    assert found.provider.name == name
    assert found.warnings == []


def test_the_usual_path_comes_before_the_packaged_file(tmp_path: Path) -> None:
    """./config/api_providers.yaml is read when API_CONFIG_PATH is unset."""
    (tmp_path / "config").mkdir()
    (tmp_path / "config/api_providers.yaml").write_text(MINIMAL)
    assert load_provider(Settings()).provider.host == "127.0.0.1:9"


def test_a_file_that_was_asked_for_must_be_there(tmp_path: Path) -> None:
    """API_CONFIG_PATH names a missing file: refused, never replaced."""
    with pytest.raises(ProviderFileError, match=r"^API_CONFIG_PATH=.*: expected an existing provider file$"):
        load_provider(Settings(upstream=UpstreamSettings(api_config_path=tmp_path / "missing.yaml")))


@pytest.mark.parametrize("path", sorted(CASES.glob("bad_*.yaml")), ids=lambda path: path.stem)
def test_every_fault_is_told_at_once_in_a_line_of_its_own(path: Path) -> None:
    """Each line names file, key and reason; the case's first lines say which."""
    wanted = [line.removeprefix("# fault: ") for line in path.read_text().splitlines() if line.startswith("# fault: ")]
    with pytest.raises(ProviderFileError) as caught:
        load_provider(Settings(upstream=UpstreamSettings(api_config_path=path)))
    assert len(caught.value.faults) == len(wanted)
    for fault, expected in zip(caught.value.faults, wanted, strict=True):
        assert fault.startswith(f"{path}: {expected}")
        assert "\n" not in fault


def test_unknown_keys_are_warned_about_with_their_path(tmp_path: Path) -> None:
    """A typo that would lift a rule is told, and what was probably meant."""
    found = load(tmp_path, MINIMAL + "    param_whitelst: {model: [x]}\n    timeouts: {reqest: 3s}\n")
    assert [line.partition(".yaml: ")[2] for line in found.warnings] == [
        "apis.openai.param_whitelst: unknown key, ignored; did you mean param_whitelist?",
        "apis.openai.timeouts.reqest: unknown key, ignored; did you mean request?",
    ]


def test_omitted_keys_have_the_documented_values(tmp_path: Path) -> None:
    """Pool 100/20, idle connections 90 s, Bearer in Authorization; methods in upper case, base path kept."""
    provider = load(tmp_path, MINIMAL).provider
    assert (provider.max_idle_conns, provider.max_idle_conns_per_host) == (100, 20)
    assert provider.timeouts.idle_connection_s == 90.0
    assert (provider.auth_header, provider.credential_prefix) == ("Authorization", "Bearer ")
    assert (provider.allowed_methods, provider.base_path, provider.origin) == (("GET",), "/base", "http://127.0.0.1:9")


def test_an_empty_scheme_sends_the_bare_key(tmp_path: Path) -> None:
    """auth_scheme: "" leaves nothing before the key."""
    provider = load(tmp_path, MINIMAL + '    auth_header: x-api-key\n    auth_scheme: ""\n').provider
    assert (provider.auth_header, provider.credential_prefix) == ("x-api-key", "")


@pytest.mark.parametrize(
    ("file", "settings", "first_byte_s", "total_s"),
    [
        ("{}", {}, 600.0, math.inf),
        ("{response_header: 5s, request: 9s}", {}, 5.0, 9.0),
        ("{response_header: 0, request: 0s}", {}, math.inf, math.inf),
        ("{request: 9s}", {"request_timeout_s": 900.0}, 900.0, 900.0),
        ("{response_header: 5s}", {"request_timeout_s": 30.0}, 5.0, 30.0),
        ("{}", {"request_timeout_s": 30.0, "first_byte_timeout_s": 2.0}, 2.0, 30.0),
    ],
    ids=["defaults", "file", "none", "env beats file and default", "file below", "both variables"],
)
def test_time_limits_of_file_and_environment(
    tmp_path: Path, file: str, settings: dict[str, float], first_byte_s: float, total_s: float
) -> None:
    """REQUEST_TIMEOUT is the total limit and bounds the first byte; the file's own limits stay."""
    timeouts = load(tmp_path, MINIMAL + f"    timeouts: {file}\n", **settings).provider.timeouts
    assert (timeouts.first_byte_s, timeouts.total_s) == (first_byte_s, total_s)


def test_the_provider_is_chosen_by_variable_then_file_then_name(tmp_path: Path) -> None:
    """DEFAULT_API_PROVIDER, else default_api, else openai; an unknown one is refused."""
    other = '  other: {base_url: "http://o", allowed_endpoints: [/v1/x], allowed_methods: [GET]}\n'
    assert load(tmp_path, MINIMAL + other).provider.name == "openai"
    assert load(tmp_path, MINIMAL + other + "default_api: other\n").provider.name == "other"
    assert load(tmp_path, MINIMAL + other, default_api_provider="other").provider.name == "other"
    with pytest.raises(
        ProviderFileError, match=r"^DEFAULT_API_PROVIDER=third: expected a provider of .*: openai, other$"
    ):
        load(tmp_path, MINIMAL + other, default_api_provider="third")
    with pytest.raises(ProviderFileError, match="default_api: required"):
        load(tmp_path, "apis:\n" + other)


def test_openai_api_url_moves_openai_alone(tmp_path: Path) -> None:
    """OPENAI_API_URL replaces the base_url of provider openai and of no other."""
    moved = load(tmp_path, MINIMAL, openai_api_url="https://gateway.example:8443/openai")
    assert (moved.provider.origin, moved.provider.base_path) == ("https://gateway.example:8443", "/openai")
    other = 'apis:\n  other: {base_url: "http://o", allowed_endpoints: [/v1/x], allowed_methods: [GET]}\n'
    assert load(tmp_path, other + "default_api: other\n", openai_api_url="https://gateway.example").provider.host == "o"


def test_a_base_url_that_doubles_v1_is_warned_about(tmp_path: Path) -> None:
    """…/v1 in front of /v1/models is allowed and hardly meant."""
    assert "/v1/v1/" in load(tmp_path, MINIMAL, openai_api_url="https://api.openai.com/v1").warnings[0]


def test_endpoints_outside_v1_are_mounted_and_ours_win(tmp_path: Path) -> None:
    """The mount follows the file; a path of the proxy's own is warned about."""
    text = MINIMAL.replace("[/v1/models]", "[/v1/models, /v1beta/models, /metrics/x]")
    found = load(tmp_path, text)
    assert mounts(found.provider) == ("/v1", "/v1beta", "/metrics")
    assert found.warnings[0].endswith("/metrics/x is a path of the proxy's own")


def test_a_repeated_key_is_a_fault(tmp_path: Path) -> None:
    """YAML alone would let the second allowed_methods win without a word."""
    with pytest.raises(ProviderFileError, match="key allowed_methods twice"):
        load(tmp_path, MINIMAL + "    allowed_methods: [DELETE]\n")


def test_a_file_that_is_no_text_is_a_fault(tmp_path: Path) -> None:
    """Bytes that are no UTF-8 are told in one line."""
    path = tmp_path / "api_providers.yaml"
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ProviderFileError, match="expected UTF-8"):
        load_provider(Settings(upstream=UpstreamSettings(api_config_path=path)))
