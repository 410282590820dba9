"""`llm-proxy openai chat`: a conversation through the proxy."""

import json
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import click
import requests

from llm_proxy.cli import output
from llm_proxy.cli.base import Command, Group
from llm_proxy.cli.environment import load_settings
from llm_proxy.cli.errors import AuthenticationError, CommandError, NetworkError
from llm_proxy.cli.management_client import words_of
from llm_proxy.cli.options import plain_option, read_secret

_CONNECT_S, _SILENCE_S = 5.0, 600.0
_END_WORDS = ("exit", "quit")


@click.group("openai", cls=Group)
def openai() -> None:
    """Talk to a model through the proxy."""


@openai.command("chat", cls=Command)
@click.option("--proxy", "--base-url", "proxy", metavar="URL", help="Proxy to talk to (PROXY_URL).")
@click.option("--token", metavar="TOKEN|-|@FILE", help="Withering token (PROXY_TOKEN).")
@click.option("--model", default="gpt-4.1-mini", metavar="NAME", help="Model (gpt-4.1-mini).")
@click.option("--temperature", type=click.FloatRange(0, 2), metavar="X", default=0.7, help="Temperature (0.7).")
@plain_option("--max-tokens", type=click.IntRange(0), metavar="N", default=0, help="Longest response; 0 = no limit.")
@click.option("--system", default="You are a helpful assistant.", metavar="TEXT", help="System prompt.")
@click.option("--stream/--no-stream", default=True, help="Show the response as it comes (on).")
@click.option("--verbose", "-v", is_flag=True, help="Print ids and token counts to stderr.")
def chat(
    proxy: str | None,
    token: str | None,
    model: str,
    temperature: float,
    max_tokens: int,
    system: str,
    stream: bool,
    verbose: bool,
) -> None:
    """Chat, a line a turn; exit, quit or Ctrl-D end it."""
    found = load_settings(PROXY_URL=proxy)
    if fault := next((fault for fault in found.faults if fault.startswith("PROXY_URL=")), None):
        raise CommandError(fault)
    bearer = read_secret("--token", token) or found.settings.commands.proxy_token
    bearer = bearer or read_secret("--token", None, prompt="Token")
    if not bearer:
        raise AuthenticationError("no token: set PROXY_TOKEN or give --token")
    asked: dict[str, Any] = {"model": model, "temperature": temperature, "stream": stream}
    if max_tokens:
        asked["max_tokens"] = max_tokens
    talk = Talk(found.settings.commands.proxy_url, bearer, asked, verbose, [{"role": "system", "content": system}])
    is_dialogue = sys.stdin.isatty()
    while (line := _next_line(is_dialogue)) is not None:
        try:
            talk.turn(line)
        except CommandError as error:
            if not is_dialogue:
                raise
            error.show()


def _next_line(is_dialogue: bool) -> str | None:
    """Return the next non-empty line; None at the end."""
    while True:
        if is_dialogue:
            click.echo("You: ", nl=False, err=True)
        line = sys.stdin.readline()
        if not line or line.strip().lower() in _END_WORDS:
            return None
        if line.strip():
            return line.strip()


@dataclass(slots=True)
class Talk:
    """The conversation so far. A turn that fails leaves it as it was."""

    proxy_url: str
    bearer: str = field(repr=False)
    asked: dict[str, Any]
    is_verbose: bool
    messages: list[dict[str, str]]
    _session: requests.Session = field(default_factory=requests.Session)

    def turn(self, line: str) -> None:
        """Send one message and show the response. Raises CommandError."""
        messages = [*self.messages, {"role": "user", "content": line}]
        try:
            with self._post(messages) as response:
                self._refuse(response)
                text = ""
                for piece in _streamed(response) if self.asked["stream"] else _whole(response):
                    text += piece
                    click.echo(piece, nl=False)
                click.echo()
        except requests.RequestException as exc:
            raise NetworkError(f"{self.proxy_url}: {words_of(exc)}") from exc
        self.messages = [*messages, {"role": "assistant", "content": text}]

    def _post(self, messages: list[dict[str, str]]) -> requests.Response:
        self._session.trust_env = False  # a netrc file would replace the bearer
        response = self._session.post(
            self.proxy_url + "/v1/chat/completions",
            json={**self.asked, "messages": messages},
            headers={"Authorization": f"Bearer {self.bearer}"},
            timeout=(_CONNECT_S, _SILENCE_S),
            allow_redirects=False,
            stream=True,
        )
        if self.is_verbose:
            output.note(f"HTTP {response.status_code}, request {response.headers.get('x-request-id', '-')}")
        return response

    def _refuse(self, response: requests.Response) -> None:
        if response.status_code < 300:
            return
        try:
            words = str(response.json()["error"]["message"])
        except (ValueError, KeyError, TypeError):
            words = "no reason given"
        raise (AuthenticationError if response.status_code == 401 else CommandError)(words, response.status_code)


def _whole(response: requests.Response) -> Iterator[str]:
    try:
        yield response.json()["choices"][0]["message"]["content"] or ""
    except (ValueError, KeyError, IndexError, TypeError):
        raise CommandError("the response is no chat completion") from None


def _streamed(response: requests.Response) -> Iterator[str]:
    """Yield the deltas of an event stream. Raises CommandError for an error event."""
    response.encoding = "utf-8"
    for line in response.iter_lines(chunk_size=None):
        data = line.removeprefix(b"data:").strip()
        if not line.startswith(b"data:") or data == b"[DONE]":
            continue
        try:
            event = json.loads(data)
        except ValueError:
            raise CommandError("the stream holds what is no JSON") from None
        if event.get("error"):
            raise CommandError(str(event["error"].get("message", "the provider reported an error")))
        for choice in event.get("choices") or []:
            yield choice.get("delta", {}).get("content") or ""
