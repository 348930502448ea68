"""Beside another instrumentation of LangChain, in either order, each in the version that was tried."""

from __future__ import annotations

from collections import Counter

import pytest

from peer_environment import runner

pytestmark = pytest.mark.extended

PEERS = ("openllmetry", "openinference", "official")


@pytest.fixture(scope="module")
def run():
    """Runs the program under these instrumentations; once for each combination."""
    return runner("peer_program.py")


def of(scope_is_ours, spans):
    return Counter(name for scope, name, *_ in spans if (scope == "nodespan") == scope_is_ours)


@pytest.fixture(params=PEERS)
def peer(request):
    return request.param


def test_results_do_not_change_and_no_warning_is_logged(run, together):
    plain, _ = run()
    both, said = run(*together)
    assert {way: one["result"] for way, one in both.items()} == {way: one["result"] for way, one in plain.items()}
    assert said == ""


def test_all_spans_of_the_peer_exist(run, peer, together):
    alone, both = run(peer)[0], run(*together)[0]
    for way, one in alone.items():
        assert of(False, both[way]["spans"]) == of(False, one["spans"]) != Counter()


def test_all_spans_of_nodespan_exist_and_have_their_parents(run, peer, together):
    """All but a model's span where the official instrumentation makes one: that one is not doubled."""
    alone, both = run("ours")[0], run(*together)[0]
    for way, one in alone.items():
        ours = [span for span in one["spans"] if peer != "official" or not span[1].startswith("chat")]
        beside = [span for span in both[way]["spans"] if span[0] == "nodespan"]
        assert [span[1] for span in beside] == [span[1] for span in ours]
        for span, expected in zip(beside, ours, strict=True):
            if expected[2] is not None:  # the run's span may be below the peer's
                assert span == expected


@pytest.mark.parametrize("first", [True, False])
def test_a_model_call_has_one_span_beside_the_official_instrumentation(run, first):
    both = run(*(("ours", "official") if first else ("official", "ours")))[0]
    for way, one in both.items():
        chats = [scope for scope, name, *_ in one["spans"] if name == "chat talker-1"]
        assert chats == ["opentelemetry.instrumentation.genai.langchain"] * (1 if way == "model alone" else 2)
