"""runtime.tracebacks: a failure that is over holds nothing of the frames that it has passed."""

import gc
import weakref

from llm_proxy.runtime.tracebacks import drop_tracebacks


class Held:
    """What a frame's variable holds."""


def fail(held: Held) -> None:
    try:
        raise ValueError("first")
    except ValueError as exc:
        failure = OSError("second")
        raise failure from exc  # `failure` is a variable of a frame in its own traceback


def test_what_frames_hold_is_released_at_once() -> None:
    """Without the garbage collector; causes and contexts included."""
    held = Held()
    seen = weakref.ref(held)
    gc.disable()
    try:
        try:
            try:
                fail(held)
            except OSError:
                raise KeyError("third") from None
        except KeyError as exc:
            error = exc
        del held
        assert seen() is not None
        drop_tracebacks(error)
        assert seen() is None
        assert isinstance(error.__context__, OSError)
        assert isinstance(error.__context__.__cause__, ValueError)
    finally:
        gc.enable()


def test_a_circle_of_causes_ends() -> None:
    """Two exceptions may each name the other."""
    one, other = ValueError(), OSError()
    one.__cause__, other.__cause__ = other, one
    drop_tracebacks(one)
