"""Beside another instrumentation of the openai package, in either order: one model span per call."""

from __future__ import annotations

import pytest

from peer_environment import runner

pytestmark = pytest.mark.extended

PEERS = ("v2", "openllmetry", "openinference", "official")


@pytest.fixture(scope="module")
def run():
    """Runs the program under these instrumentations; once for each combination."""
    return runner("openai_peer_program.py")


@pytest.fixture(params=PEERS)
def peer(request):
    return request.param


def model_spans(one):
    """Those that are a call of the model: not the phases of nodespan."""
    return [span for span in one["spans"] if not span[1].startswith(("llama_cpp.", "server."))]


def test_each_instrumentation_makes_one_model_span_per_call(run, peer):
    for names in ((peer,), ("ours",)):
        assert {way: len(model_spans(one)) for way, one in run(*names)[0].items()} == dict.fromkeys(
            ("stream", "left", "astream", "fails"), 1
        )


def test_with_both_there_is_one_model_span_per_call_made_by_the_peer(run, peer, together):
    for way, one in run(*together)[0].items():
        [span] = model_spans(one)
        assert span[:2] == model_spans(run(peer)[0][way])[0][:2], way


def test_results_do_not_change_and_no_warning_is_logged(run, peer, together):
    plain, alone, both = run()[0], run(peer), run(*together)
    assert {way: one["result"] for way, one in both[0].items()} == {way: one["result"] for way, one in plain.items()}
    assert {way: one["sent"] for way, one in both[0].items()} == {way: one["sent"] for way, one in plain.items()}
    assert both[1] == alone[1]


@pytest.mark.parametrize("peer", ["v2", "official"])
def test_the_span_of_an_enclosing_peer_has_the_times_of_the_server(run, peer):
    """Where nodespan is installed first, the peer's wrapper is the outer one.

    OpenLLMetry does not make its span the current one; OpenInference wraps the request, below nodespan.
    """
    one = run("ours", peer)[0]["stream"]
    [span] = model_spans(one)
    assert "nodespan.decode_s" in span[2]
