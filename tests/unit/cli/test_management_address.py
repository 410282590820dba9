"""Which host may get the management token of which source."""

from pathlib import Path

import pytest

from llm_proxy.cli.errors import CommandError
from llm_proxy.cli.management_client import connect

TOKEN = "a-management-token-01"
ELSEWHERE = "MANAGEMENT_API_BASE_URL=https://elsewhere.example\n"


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working directory, and an environment without settings."""
    monkeypatch.chdir(tmp_path)
    for name in ("MANAGEMENT_TOKEN", "MANAGEMENT_API_BASE_URL", "LLM_PROXY_MANAGEMENT_KEY", "LISTEN_ADDR"):
        monkeypatch.delenv(name, raising=False)
    return tmp_path


def reach(*, base_url: str | None = None, management_token: str | None = None) -> None:
    """Connect as `manage` does; nothing is sent yet."""
    connect(base_url=base_url, management_token=management_token, is_direct=False, is_insecure=False)


@pytest.mark.parametrize(
    "lines", [ELSEWHERE, "LISTEN_ADDR=192.0.2.1:80\n", ELSEWHERE + "MANAGEMENT_TOKEN_FILE=token\n"]
)
def test_an_env_file_of_the_folder_gets_no_token_from_elsewhere(
    folder: Path, monkeypatch: pytest.MonkeyPatch, lines: str
) -> None:
    """Neither the environment's nor another file's; the refusal names the variable and what to do."""
    (folder / ".env").write_text(lines)
    (folder / "token").write_text(TOKEN)
    if "TOKEN" not in lines:
        monkeypatch.setenv("MANAGEMENT_TOKEN", TOKEN)
    with pytest.raises(CommandError, match=r"names another host.*--env \.env") as refused:
        reach()
    assert TOKEN not in str(refused.value)
    assert str(refused.value).startswith(lines.partition("=")[0])


def test_a_flags_token_is_not_sent_where_the_folder_says(folder: Path) -> None:
    """A token of the command line does not come from `.env` either."""
    (folder / ".env").write_text(ELSEWHERE + f"MANAGEMENT_TOKEN={TOKEN}\n")
    with pytest.raises(CommandError, match="names another host"):
        reach(management_token=TOKEN)


@pytest.mark.parametrize(
    ("lines", "variables"),
    [
        pytest.param(ELSEWHERE + f"MANAGEMENT_TOKEN={TOKEN}\n", {}, id="token-of-the-same-file"),
        pytest.param(ELSEWHERE, {"MANAGEMENT_TOKEN": TOKEN, "LLM_PROXY_ENV_FILE": ".env"}, id="named"),
        pytest.param("LISTEN_ADDR=:8091\n", {"MANAGEMENT_TOKEN": TOKEN}, id="this-machine"),
        pytest.param("MANAGEMENT_API_BASE_URL=http://localhost:1\n", {"MANAGEMENT_TOKEN": TOKEN}, id="localhost"),
        pytest.param("", {"MANAGEMENT_TOKEN": TOKEN, "MANAGEMENT_API_BASE_URL": "https://a.example"}, id="environment"),
    ],
)
def test_other_addresses_are_used(
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    lines: str,
    variables: dict[str, str],
) -> None:
    """One source for both, a file that is named, this machine, the environment: no refusal and no warning."""
    (folder / ".env").write_text(lines)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    reach()
    assert capsys.readouterr().err == ""


def test_a_flags_address_is_used_and_cleartext_is_told(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """http:// to another host is a warning that holds no token."""
    (folder / ".env").write_text(ELSEWHERE)
    reach(base_url="http://proxy.example:8080/", management_token=TOKEN)
    assert capsys.readouterr().err == (
        "Warning: the management token is sent to proxy.example without TLS; use https://\n"
    )
