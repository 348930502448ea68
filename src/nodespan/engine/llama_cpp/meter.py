"""Exact token counts and times of ``Llama.generate`` and ``embed``, for every ``Llama`` of the process."""

from __future__ import annotations

import time
import weakref
from contextlib import closing, contextmanager
from typing import TYPE_CHECKING, Final, NamedTuple

import numpy as np

import llama_cpp
from nodespan.engine.measurement import llama_cpp_phases
from nodespan.engine.prefix import PrefixUse, PromptCall

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Sequence

    from nodespan.engine.contract import GenerationResult


_calls: Final[weakref.WeakKeyDictionary[llama_cpp.Llama, PromptCall]] = weakref.WeakKeyDictionary()
"""The last call of each model."""


def measured(
    llama: llama_cpp.Llama,
    prompt: Sequence[int],
    tokens: Generator[int, Sequence[int] | None],
    result: GenerationResult,
) -> Generator[int, Sequence[int] | None]:
    """Yields the tokens of ``Llama.generate`` and writes its measurements into ``result``, however it ends.

    Runs on the thread that uses the model. With ``no_perf=True``, and when the model is closed meanwhile, llama.cpp has
    no measurements, so that cached tokens, evaluated tokens and seconds stay unknown.

    Args:
        llama: The model.
        prompt: The argument of ``Llama.generate``.
        tokens: Its return value, not yet started; closed at the end.
        result: Its ``output_tokens`` increases with each token.
    """
    result.context_size = llama.n_ctx()
    result.input_tokens = len(prompt)
    result.output_tokens = 0
    result.prefix = _compared(llama, prompt)
    result.evaluated = _tokens_in_context(weakref.ref(llama))
    start = _Evaluated.so_far(llama)
    first: _Evaluated | None = None
    token = -1
    result.prefill_at = time.perf_counter()
    try:
        with closing(tokens):
            token = next(tokens)
            result.first_token_at = time.perf_counter()
            first = _Evaluated.so_far(llama)
            while True:
                result.output_tokens += 1
                accepted = yield token
                token = tokens.send(accepted)
    except StopIteration:
        return
    finally:
        if llama.ctx:  # a model that was closed under a suspended generator must not be used
            vocabulary = llama_cpp.llama_model_get_vocab(llama.model)
            if first is not None and vocabulary and llama_cpp.llama_vocab_is_eog(vocabulary, token):
                result.output_tokens -= 1
            if not llama.context_params.no_perf:
                _split(result, start, first, _Evaluated.so_far(llama))
                result.phases = llama_cpp_phases(result)


@contextmanager
def measured_embedding(llama: llama_cpp.Llama, result: GenerationResult) -> Generator[None]:
    """Measures a ``Llama.embed`` into ``result``; all of its evaluation is prefill."""
    result.context_size = llama.n_ctx()
    # With ``verbose`` llama-cpp-python resets llama.cpp's counters before it evaluates.
    start = _Evaluated(0, 0.0) if llama.verbose else _Evaluated.so_far(llama)
    result.prefill_at = time.perf_counter()
    yield
    if not llama.context_params.no_perf:
        result.prefill_tokens, result.prefill_s = _Evaluated.so_far(llama).since(start)
        result.phases = llama_cpp_phases(result)


def _compared(llama: llama_cpp.Llama, prompt: Sequence[int]) -> PrefixUse:
    """Compares the prompt with the model's context, which holds prompt and answer of the previous call."""
    held = llama.input_ids[: llama.n_tokens]
    length = min(len(held), len(prompt))
    differs = np.asarray(prompt[:length]) != held[:length]
    shared = int(differs.argmax()) if differs.any() else length
    use = PrefixUse(shared, len(held), _calls.get(llama) if len(held) else None)
    _calls[llama] = use.call
    return use


def _tokens_in_context(llama: weakref.ref[llama_cpp.Llama]) -> Callable[[], int | None]:
    """``Llama.n_tokens`` grows with each evaluated batch, and can be read while native code runs without the GIL."""
    return lambda: getattr(llama(), "n_tokens", None)


class _Evaluated(NamedTuple):
    """llama.cpp's counters since the model was loaded."""

    tokens: int
    seconds: float

    @classmethod
    def so_far(cls, llama: llama_cpp.Llama) -> _Evaluated:
        """Reads both pairs of counters as one sum.

        The pairs do not separate prefill from decode: a batch of one token counts as decode, also when it is the last
        token of a prompt. ``llama_perf_context`` reports a count of 0 as 1; then its time is 0.
        """
        llama_cpp.llama_synchronize(llama.ctx)  # else the rest of an aborted call would count as the next one's
        perf = llama_cpp.llama_perf_context(llama.ctx)
        batches = perf.n_p_eval if perf.t_p_eval_ms > 0 else 0
        singles = perf.n_eval if perf.t_eval_ms > 0 else 0
        return cls(batches + singles, (perf.t_p_eval_ms + perf.t_eval_ms) / 1e3)

    def since(self, earlier: _Evaluated) -> _Evaluated:
        return _Evaluated(self.tokens - earlier.tokens, self.seconds - earlier.seconds)


def _split(result: GenerationResult, start: _Evaluated, first: _Evaluated | None, end: _Evaluated) -> None:
    """Evaluation up to the first token is prefill, the rest is decode."""
    if first is None:  # aborted: llama.cpp counts tokens of a batch that it did not finish
        result.prefill_s = end.since(start).seconds
        return
    result.prefill_tokens, result.prefill_s = first.since(start)
    result.decode_tokens, result.decode_s = end.since(first)
    if result.input_tokens is not None:
        result.cached_input_tokens = result.input_tokens - result.prefill_tokens
