"""Phases of a server lie within the request, however late its events arrive."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nodespan.engine.contract import GenerationResult
from nodespan.engine.openai_compatible.readers import place_phases

ROUNDING_S = 1e-9


def placed(queue_s: float | None, prefill_s: float, decode_s: float, late_s: tuple[float, float], end_s: float = 0.0):
    """A request sent at 10 s; its queue's and first token's events arrive late."""
    prefill_at = 10 + (queue_s or 0)
    result = GenerationResult()
    result.server_queue_s = None if queue_s is None else queue_s + late_s[0]
    result.prefill_s, result.decode_s = prefill_s, decode_s
    result.first_token_at = prefill_at + prefill_s + late_s[1]
    ended_at = max(prefill_at + prefill_s + decode_s + end_s, result.first_token_at)
    return place_phases(result, 10, ended_at), ended_at


def test_a_late_first_token_does_not_move_the_decode_past_the_end():
    phases, ended_at = placed(None, 1, 2, (0, 0.5), end_s=0.2)
    assert [(phase.name.split(".")[-1], round(phase.start_at, 6)) for phase in phases] == [
        ("prefill", 10.2),
        ("decode", 11.2),
    ]
    assert ended_at == pytest.approx(13.2)


times = st.floats(0.001, 5)
delays = st.floats(0, 5)


@given(st.none() | times, times, times, st.tuples(delays, delays), delays)
def test_phases_follow_each_other_within_the_request(queue_s, prefill_s, decode_s, late_s, end_s):
    phases, ended_at = placed(queue_s, prefill_s, decode_s, late_s, end_s)
    at = 10.0
    for phase in phases:
        assert phase.start_at >= at - ROUNDING_S
        at = phase.start_at + phase.duration_s
    assert at <= ended_at + ROUNDING_S
