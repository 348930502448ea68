"""LangChain's ChatOpenAI: one model span per call, LangChain's, with the server's own times and counts."""

from __future__ import annotations

import pytest
from inline_snapshot import snapshot

from peer_environment import runner

pytestmark = pytest.mark.extended


@pytest.fixture(scope="module")
def traced():
    return runner("chat_openai_program.py")("ours")[0]


@pytest.fixture(scope="module")
def plain():
    return runner("chat_openai_program.py")()[0]


@pytest.mark.parametrize("way", ["stream", "astream", "with headers"])
def test_a_streamed_call_is_one_span_with_the_phases_of_the_server(traced, way):
    assert traced[way]["spans"] == snapshot(
        [
            {
                "name": "chat m",
                "attributes": {
                    "server.address": "127.0.0.1",
                    "gen_ai.usage.input_tokens": 4,
                    "gen_ai.usage.output_tokens": 4,
                    "nodespan.status": "ok",
                },
                "children": [{"name": "llama_cpp.prefill"}, {"name": "llama_cpp.decode"}],
            }
        ]
    )
    assert traced[way]["times"] == ["nodespan.decode_s", "nodespan.prompt_eval_s", "nodespan.tokens_per_s"]


def test_a_whole_answer_is_one_span_with_its_usage(traced):
    assert traced["invoke"]["spans"] == traced["stream"]["spans"]


def test_an_answer_that_cannot_be_parsed_is_one_span_with_its_usage(traced):
    [span] = traced["structured"]["spans"]
    assert traced["structured"]["result"] == "ValidationError"
    assert span["attributes"]["gen_ai.usage.output_tokens"] == 4
    assert span["attributes"]["nodespan.status"] == "error"


def test_an_abandoned_stream_is_cancelled(traced):
    [span] = traced["left"]["spans"]
    assert span["attributes"]["nodespan.status"] == "cancelled"


def test_results_and_requests_do_not_change_except_for_the_trace_context(traced, plain):
    for way, one in plain.items():
        assert (traced[way]["result"], traced[way]["body"]) == (one["result"], one["body"]), way
        assert (traced[way]["traceparent"], one["traceparent"]) == (True, False), way
