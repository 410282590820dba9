"""The application that the server's master wires for its workers."""

import logging
from pathlib import Path
from typing import Any

import pytest

from llm_proxy import app as module
from llm_proxy.app import create_app, prepare
from llm_proxy.settings import Loaded, hand_over, load, preloaded


@pytest.fixture
def loaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Loaded:
    """What a master has checked and handed over."""
    monkeypatch.setenv("DATABASE_PATH", str(tmp_path / "x.db"))
    found = load()
    monkeypatch.setattr(preloaded, "_handed_over", None)
    monkeypatch.setattr(module, "_prepared", None)
    hand_over(found)
    return found


def test_a_worker_takes_the_application_that_its_master_has_wired(loaded: Loaded) -> None:
    """With the settings that were handed over; a second one in the same process is another."""
    prepare()
    first, second = create_app(), create_app()
    assert first.services.settings is loaded.settings
    assert first is not second


def test_after_a_reload_a_worker_wires_its_own(loaded: Loaded) -> None:
    """The settings are others, even if they say the same."""
    prepare()
    assert module._prepared is not None
    _, prepared = module._prepared
    again = load()
    hand_over(again)
    app = create_app()
    assert app is not prepared
    assert app.services.settings is again.settings


def test_an_application_of_given_settings_is_never_the_prepared_one(loaded: Loaded) -> None:
    """Tests and commands pass their own."""
    prepare()
    assert module._prepared is not None
    _, prepared = module._prepared
    assert create_app(loaded.settings) is not prepared


def test_wiring_opens_no_database_and_makes_no_part(loaded: Loaded, tmp_path: Path) -> None:
    """What belongs to a process is made after the fork."""
    prepare()
    app = create_app()
    assert not {"engine", "front", "access", "publisher", "quota", "meter", "audit"} & vars(app.services).keys()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("is_wrapped", [False, True], ids=["bare", "wrapped"])
def test_a_middleware_turns_the_fast_lane_off(
    loaded: Loaded, caplog: pytest.LogCaptureFixture, *, is_wrapped: bool
) -> None:
    """The server layer makes the whole environment for it; the log names it once."""

    class Tracing:
        def __init__(self, wrapped: Any) -> None:
            self._wrapped = wrapped

        def __call__(self, environ: Any, start_response: Any) -> Any:
            return self._wrapped(environ, start_response)

    app = create_app()
    if is_wrapped:
        app.wsgi_app = Tracing(app.wsgi_app)  # type: ignore[method-assign]
    with caplog.at_level(logging.INFO, "llm_proxy"):
        app.tell_lane()
    assert app.takes("/v1/models", "localhost") is not is_wrapped
    assert [".Tracing:" in record.getMessage() for record in caplog.records] == [True] * is_wrapped
