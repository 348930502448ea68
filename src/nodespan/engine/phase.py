"""The current phase of an engine's call, derived from the result that its pipeline fills in."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from nodespan.engine.contract import is_count
from nodespan.spans.phases import Phase

if TYPE_CHECKING:
    from nodespan.engine.contract import GenerationResult

_NS = 10**9


def engine_phase(result: GenerationResult) -> Phase | None:
    """Prefilling until the first token, then decoding; ``None`` before the call has started."""
    if result.first_token_at is not None:
        done = result.output_tokens if is_count(result.output_tokens) else None
        return Phase("decoding", unix_ns(result.first_token_at), done=done)
    if result.prefill_at is None:
        return None
    done, total = result.evaluated(), result.input_tokens
    if not is_count(done) or not is_count(total):
        return Phase("prefilling", unix_ns(result.prefill_at))
    # Until the engine has compared the prompts, this counts the tokens of the previous call.
    return Phase("prefilling", unix_ns(result.prefill_at), done=min(done or 0, total or 0), total=total)


def unix_ns(at: float) -> int:
    """Unix time in ns of a reading of ``time.perf_counter()``."""
    return time.time_ns() - round((time.perf_counter() - at) * _NS)
