"""What a call of an engine does now, read off the result that it fills in."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from nodespan.spans.phases import Phase

if TYPE_CHECKING:
    from nodespan.engine.contract import GenerationResult

_NS = 10**9


def unix_ns(at: float) -> int:
    """Unix time in ns of a reading of ``time.perf_counter()``."""
    return time.time_ns() - round((time.perf_counter() - at) * _NS)


def engine_phase(result: GenerationResult) -> Phase | None:
    """The phase of a call; ``None`` before it has begun."""
    if result.first_token_at is not None:
        return Phase("decoding", unix_ns(result.first_token_at), done=result.output_tokens)
    if result.prefill_at is None:
        return None
    total, done = result.input_tokens, None
    if result.evaluated is not None and total is not None:
        # Until the engine has compared the prompts, this counts the tokens of the call before.
        done = min(result.evaluated() or 0, total)
    return Phase("prefilling", unix_ns(result.prefill_at), done=done, total=total)
