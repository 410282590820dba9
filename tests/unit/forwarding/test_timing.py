"""The fields that tell when an exchange passed each point."""

from llm_proxy.forwarding.timing import Timing


def test_a_streamed_response_is_final_when_it_is_first() -> None:
    """The head is gone before the end is known."""
    fields = dict(Timing(1_700_000_000_000_000_000, 1_700_000_000_100_000_000, 1_700_000_000_350_500_000).fields())
    assert fields == {
        "X-Proxy-Received-At": "2023-11-14T22:13:20.000000Z",
        "X-Proxy-Sent-Backend-At": "2023-11-14T22:13:20.100000Z",
        "X-Proxy-First-Response-At": "2023-11-14T22:13:20.350500Z",
        "X-Proxy-Final-Response-At": "2023-11-14T22:13:20.350500Z",
        "X-UPSTREAM-REQUEST-START": "1700000000100000000",
        "X-UPSTREAM-REQUEST-STOP": "1700000000350500000",
        "X-LLM-Proxy-Remote-Duration": "0.250500",
        "X-LLM-Proxy-Remote-Duration-Ms": "250",
    }


def test_a_whole_response_has_its_own_end() -> None:
    """Where it was held, the end is known."""
    fields = dict(Timing(1, 2, 3).fields(final_ns=1_700_000_000_000_000_000))
    assert fields["X-UPSTREAM-REQUEST-STOP"] == "1700000000000000000"
    assert fields["X-Proxy-Final-Response-At"] == "2023-11-14T22:13:20.000000Z"
