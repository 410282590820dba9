"""usage.meter: the model that a request names where its response names none, and what an exchange costs."""

import datetime
import logging
from decimal import Decimal
from types import SimpleNamespace
from typing import Any

import pytest

from llm_proxy import metrics
from llm_proxy.formats.tokens import Estimator
from llm_proxy.usage.meter import Meter, Metered
from llm_proxy.usage.prices import Price, Prices
from llm_proxy.usage.rollup import Key, Sums

FORM, JSON = "multipart/form-data; boundary=b", "application/json"
FILE = b'Content-Disposition: form-data; name="file"; filename="a.wav"\r\nContent-Type: audio/wav\r\n\r\nRIFF\r\n\r\nx'
MODEL = b'Content-Disposition: form-data; name="model"\r\n\r\n%s'


def form(*parts: bytes) -> bytes:
    return b"".join(b"--b\r\n%s\r\n" % part for part in parts) + b"--b--\r\n"


@pytest.mark.parametrize(
    ("content_type", "body", "model"),
    [
        (FORM, form(FILE, MODEL % b"whisper"), "whisper"),
        ("Multipart/Form-Data; boundary=b", form(MODEL.replace(b'"model"', b"model") % b"m", FILE), "m"),
        (FORM, form(FILE), None),
        (FORM, form(FILE.replace(b"RIFF", MODEL % b"none")), None),
        (FORM, form(MODEL % b"m", FILE)[:-30], "m"),
        (FORM, form(MODEL % b""), None),
        (FORM, b"name=model", None),
        ("multipart/form-data", form(MODEL % b"m"), None),
        (FORM, b"", None),
        ("application/x-www-form-urlencoded", b"a=1&model=gpt%2D4", "gpt-4"),
        (JSON, b'{"messages":[],"model":"gpt-4"}', "gpt-4"),
        (JSON, b'{"MODEL":"gpt-4"}', "gpt-4"),
        (JSON, b'{"model":"gpt-4","messages":["cut', "gpt-4"),
        (JSON, b'{"model":4}', None),
        ("text/plain", b'{"model":"gpt-4"} {}', "gpt-4"),
        ("", b"model", None),
    ],
)
def test_the_model_that_a_request_names(content_type: str, body: bytes, model: str | None) -> None:
    """By the reader of the allow-lists, whatever stands in files, and as far as the body is there."""
    token: Any = SimpleNamespace()
    metered = Metered(token, "POST", "/v1/x", content_type)
    metered.request_data(body)
    assert metered.model() == model


def test_a_model_behind_a_long_file() -> None:
    """A form's last piece is kept, because that is where clients put it."""
    token: Any = SimpleNamespace()
    metered = Metered(token, "POST", "/v1/audio/transcriptions", FORM)
    body = form(FILE + b"x" * 1_000_000, MODEL % b"whisper")
    for start in range(0, len(body), 65536):
        metered.request_data(body[start : start + 65536])
    assert metered.model() == "whisper"


@pytest.mark.parametrize(
    ("media_type", "completion_tokens"),
    [("application/json", 100), ("", 100), ("audio/mpeg", 0)],
    ids=["unlike its type", "no type", "media"],
)
def test_bytes_that_are_no_text_count_by_their_size(media_type: str, completion_tokens: int) -> None:
    """A response that is compressed and does not say so counts as something; sound and pictures are no text."""
    told: list[tuple[Key, Sums]] = []
    rollup: Any = SimpleNamespace(add=lambda key, sums, once=None: told.append((key, sums)))
    token: Any = SimpleNamespace(id="t", project_id="p", max_cost_nano_usd=None, project=SimpleNamespace())
    token.project.max_cost_nano_usd_per_month = None
    meter = Meter(rollup, PRICES, Estimator(None))
    metered = meter.begin(token, "POST", "/v1/chat/completions", JSON)
    tap = metered.response_started(200, [("Content-Type", media_type)])
    assert tap is not None
    tap(b"\x1f\x8b\x08\x00".ljust(400, b"\xff"))
    meter.ended(metered)
    meter.settle()
    ((_, sums),) = told
    assert (sums.completion_tokens, sums.estimated) == (completion_tokens, 1)


PRICES = Prices(
    {
        "gpt-4o": Price(Decimal(2), Decimal(10), Decimal(1)),
        "in-dear": Price(Decimal(30), Decimal(1), Decimal(3)),
        "vendor/own": Price(Decimal(4), Decimal(5), Decimal(4)),
    },
    datetime.date(2026, 1, 1),
)
USED = b'"usage":{"prompt_tokens":1000,"completion_tokens":100}}'


NAMED: list[str] = []


def cost(
    asked: bytes, answered: bytes, *, provider: str = "", token_limit: int | None = None, month: int | None = None
) -> int | None:
    """What one chat costs, in 10⁻⁹ USD; None: it has no price."""
    told: list[tuple[Key, Sums]] = []
    rollup: Any = SimpleNamespace(add=lambda key, sums, once=None: told.append((key, sums)))
    project = SimpleNamespace(max_cost_nano_usd_per_month=month, api_key="a-key-of-any-form", provider_keys={})
    token: Any = SimpleNamespace(id="t", project_id="p", max_cost_nano_usd=token_limit, project=project)
    meter = Meter(rollup, PRICES, Estimator(None))
    metered = meter.begin(token, "POST", "/v1/chat/completions", JSON)
    metered.provider = provider
    metered.request_data(asked)
    tap = metered.response_started(200, [("Content-Type", JSON)])
    assert tap is not None
    tap(answered)
    meter.ended(metered)
    meter.settle()
    ((key, sums),) = told
    NAMED.append(key.model)
    return sums.cost_nano_usd


@pytest.mark.parametrize("limit", [{"token_limit": 1}, {"month": 1}], ids=["token", "project"])
@pytest.mark.parametrize(
    ("asked", "answered", "provider", "expected"),
    [
        (b'{"model":"gpt-4o"}', b'{"model":"made-up",' + USED, "", 3_000_000),
        (b'{"model":"none"}', b'{"model":"made-up",' + USED, "", 31_000_000),
        (b"{}", b"{" + USED, "", 31_000_000),
        (b"{}", b'{"model":"made-up",' + USED, "vendor", 4_500_000),
        (b"{}", b'{"model":"made-up",' + USED, "other", 31_000_000),
    ],
    ids=["the asked model's", "the dearest", "no model at all", "the dearest of the provider", "of a provider without"],
)
def test_with_a_budget_of_money_no_exchange_is_free(
    asked: bytes, answered: bytes, provider: str, expected: int, limit: dict[str, int]
) -> None:
    """A response whose model has no price counts at the asked model's, else at the dearest."""
    assert cost(asked, answered, provider=provider, **limit) == expected


def test_without_a_budget_of_money_an_unknown_price_stays_unknown() -> None:
    """Sums say `null` and guess nothing."""
    assert cost(b"{}", b'{"model":"made-up",' + USED) is None


@pytest.mark.parametrize(
    ("model", "named"), [("a-key-of-any-form", "other"), ("x sk-proj-0123456789abcdefghij", "other"), ("new", "new")]
)
@pytest.mark.parametrize("asked", [b"{}", b'{"model":"gpt-4o"}'], ids=["no model", "a model with a price"])
def test_no_secret_is_a_models_name(model: str, named: str, asked: bytes) -> None:
    """A provider that repeats its key as the model writes it into no table."""
    cost(asked, b'{"model":"%s",' % model.encode() + USED)
    assert NAMED[-1] == named


def test_what_counts_at_the_dearest_price_is_told(caplog: pytest.LogCaptureFixture) -> None:
    """A warning names the model; the metric counts it as without a price."""
    before = metrics.UNPRICED._value.get()
    with caplog.at_level(logging.WARNING, "llm_proxy.usage.meter"):
        cost(b"{}", b'{"model":"made-up",' + USED, token_limit=1)
    assert metrics.UNPRICED._value.get() == before + 1
    assert [record.__dict__["model"] for record in caplog.records] == ["made-up"]
